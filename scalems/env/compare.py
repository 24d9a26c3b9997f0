"""`env diff`: what differs between two environments, builds, venvs or locks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import lock, manifest, spec, target
from scalems.env.check import Depth
from scalems.env.fingerprint import Entry
from scalems.env.manifest import Manifest
from scalems.env.selection import select
from scalems.env.verification import see, sync_command
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.resource.config import find_project

_LOCAL = "(local)"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """One side of a comparison.

    :param python: version of Python; empty where it is not known, as of a lock.
    :param build: the build, if it is one.
    """

    name: str
    python: str
    versions: Mapping[str, str]
    build: Manifest | None = None
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs, as pairs of the two sides' values; empty where a side has none.

    :param facts: the interpreter, and for two builds their scalems and digests.
    :param distributions: versions by distribution.
    :param files: digests by path, where they were asked for.
    :param common: number of distributions in equal versions.
    """

    sides: tuple[str, str]
    facts: Mapping[str, tuple[str, str]]
    distributions: Mapping[str, tuple[str, str]]
    files: Mapping[str, tuple[str, str]]
    common: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.facts or self.distributions or self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "sides": list(self.sides),
            "same": self.same,
            "facts": {key: list(pair) for key, pair in self.facts.items()},
            "distributions": {key: list(pair) for key, pair in self.distributions.items()},
            "files": {key: list(pair) for key, pair in self.files.items()},
            "common": self.common,
        }


def side(text: str, *, resource: str | None = None, folder: Path | None = None) -> Contents:
    """Find what a person wants to compare.

    :param text: an environment (see :func:`scalems.env.selection.select`), ``lock:NAME``,
        ``client``, or the folder of a venv or a build.
    :param folder: the project's, for locks.
    :raises UsageError: there is no such thing.
    """
    if text == "client":
        client = target.client()
        return Contents(name=text, python=client.python, versions=client.versions)
    if text.startswith("lock:"):
        return _lock(text, folder)
    if Path(text).is_dir():
        return _folder(Path(text).absolute())
    synced, env = select(text, resource=resource)
    if synced.host:
        (seen,) = see(synced, [env], depth=Depth.FAST)
        if seen.manifest is None:
            raise EnvironmentNotReady(
                f"the build of {text!r} on {synced.host.name} is not usable",
                remedy=sync_command(synced.label),
            )
        return Contents(
            name=text,
            python=seen.manifest.interpreter["version"],
            versions=seen.manifest.versions,
            build=seen.manifest,
        )
    found = _folder(env.folder)
    return Contents(
        name=text,
        python=found.python,
        versions=found.versions,
        build=found.build,
        folder=found.folder,
    )


def difference(one: Contents, other: Contents, *, files: bool = False) -> Difference:
    """Compare two sides.

    :param files: compare the files of two builds as well.
    """
    facts = _differing(_facts(one, other), _facts(other, one))
    common = sum(other.versions.get(name) == version for name, version in one.versions.items())
    return Difference(
        sides=(one.name, other.name),
        facts=facts,
        distributions=_differing(one.versions, other.versions),
        files=_differing(_files(one), _files(other)) if files else {},
        common=common,
    )


def _lock(text: str, folder: Path | None) -> Contents:
    name = text.partition(":")[2]
    one = spec.load(find_project(folder).env_path(name))
    if not one.lock_path.is_file():
        raise UsageError(f"{name!r} has no lock yet", remedy=f"scalems env lock {name}")
    markers = target.find_interpreter(one).markers
    found = lock.load(one.lock_path)
    pins = found.select(markers)
    # scalems is never in a lock: it is installed as the client's own code.
    versions = {pin.name: pin.version for pin in pins}
    versions["scalems"] = target.client().versions.get("scalems", "")
    # Nor has it the versions of local packages, which are what their files say.
    versions |= dict.fromkeys(found.packages, _LOCAL)
    return Contents(name=text, python="", versions=versions)


def _folder(folder: Path) -> Contents:
    if known := manifest.read(folder):
        return Contents(
            name=folder.name,
            python=known.interpreter["version"],
            versions=probe.versions(probe.sites(folder / "venv")),
            build=known,
            folder=folder,
        )
    try:
        versions = probe.versions([probe.site_packages(folder)])
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is neither a build nor a venv: {folder}/lib/python3.*/site-packages "
            "is missing",
            remedy="name an environment, lock:NAME, client, or the folder of a venv",
        ) from None
    return Contents(name=str(folder), python=_python_of(folder), versions=versions)


def _python_of(venv: Path) -> str:
    """Return what a venv says of its Python (PEP 405)."""
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = {key.strip(): value.strip() for key, _, value in (s.partition("=") for s in lines)}
    return found.get("version") or found.get("version_info", "")


def _facts(one: Contents, other: Contents) -> dict[str, str]:
    facts = {}
    if one.python and other.python:
        facts["python"] = one.python
    if one.build and other.build:
        facts["scalems"] = one.build.scalems_digest[:16]
        facts["content"] = one.build.content_digest[:16]
        for key in one.build.interpreter.keys() - {"version"}:
            facts[f"interpreter {key}"] = one.build.interpreter[key]
    return facts


def _files(one: Contents) -> dict[str, str]:
    if one.build is None or one.folder is None:
        why = "is on another host" if one.build else "is not a build"
        raise UsageError(
            f"{one.name} {why}, so there is no table of its files here",
            remedy="leave out --files",
        )
    table: Mapping[str, Entry] = manifest.read_files(one.folder, one.build) or {}
    return {path: entry.sha256[:16] for path, entry in table.items()}


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        key: (one.get(key, ""), other.get(key, ""))
        for key in sorted(one.keys() | other.keys())
        if one.get(key, "") != other.get(key, "")
        and not (key in one and key in other and _LOCAL in (one[key], other[key]))
    }
