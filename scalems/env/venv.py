"""A venv that scalems did not build, as it is on the host where it is: in values that travel."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import fingerprint, wheel
from scalems.env.canonical import digest
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.host.local import CommandFailed, run

_LIMIT = 60.0  # seconds
WORKER = "radical-pilot-raptor-worker"
"""RADICAL-Pilot's own script, by which a Worker starts."""
_SPEC = (
    "import importlib.util as u; s = u.find_spec('scalems'); print((s and s.origin) or '', end='')"
)


@dataclass(frozen=True, kw_only=True)
class Venv:
    """What there is in a venv, and what it sees of others.

    :param path: its folder, absolute.
    :param python: version of its Python.
    :param versions: of all distributions that a task in it sees, by normalized name.
    :param outside: those that it sees because of the user's own settings only.
    :param code: folder of the package scalems that it sees; empty if it sees none.
    :param scalems_digest: digest of that one's files; empty if it is not installed.
    :param content_digest: of what is installed in it, and of what it sees elsewhere.
    :param top_level: entries of its site-packages.
    :param conda: whether it is a conda environment.
    :param open: whether it sees the packages of its Python.
    :param worker: whether a Worker of RADICAL-Pilot can start in it.
    """

    path: str
    python: str
    versions: Mapping[str, str]
    outside: tuple[str, ...]
    code: str
    scalems_digest: str
    content_digest: str
    top_level: tuple[str, ...]
    conda: bool
    open: bool
    worker: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Venv:
        """Read it back."""
        lists = {name: tuple(data[name]) for name in ("outside", "top_level")}
        return cls(**{**data, **lists})


def look(path: Path) -> Venv:
    """Look at a venv in full: every byte of its packages, and every version that a task would see.

    Nothing is written, and nothing of it is imported.

    :raises UsageError: it is no venv.
    :raises EnvironmentNotReady: its Python does not work.
    """
    path = path.expanduser().absolute()
    python = path / "bin" / "python"
    if not python.exists():
        raise UsageError(
            f"{path} is neither a venv nor a conda environment: it has no bin/python",
            remedy="name the folder of a venv",
        )
    ask = functools.partial(run, cwd=Path("/"), limit=_LIMIT)
    try:
        seen = probe.parse(ask([python, probe.__file__]).stdout)
        own = probe.parse(ask([python, "-I", probe.__file__]).stdout)["versions"]
        origin = ask([python, "-s", "-c", _SPEC]).stdout
        content = _content(path)
        top = tuple(sorted(entry.name for entry in probe.site_packages(path).iterdir()))
    except (CommandFailed, ValueError, OSError) as error:
        raise EnvironmentNotReady(
            f"the Python of {path} does not work: {error}", remedy="make that venv again"
        ) from error
    versions = seen["versions"]
    return Venv(
        path=str(path),
        python=seen["python"],
        versions=versions,
        outside=tuple(sorted(name for name in versions if versions[name] != own.get(name))),
        code=str(Path(origin).parent) if origin else "",
        scalems_digest=_scalems(origin, versions),
        content_digest=digest("adopted 1", [content, seen["interpreter"], versions]),
        top_level=top,
        conda=(path / "conda-meta").is_dir(),
        open=_is_open(path),
        worker=(path / "bin" / WORKER).is_file(),
    )


def _content(path: Path) -> str:
    """Digest the packages of a venv; of a conda environment only these, not all of its files."""
    site = probe.site_packages(path)
    inner = site.relative_to(path).as_posix()
    entries = {
        f"{inner}/{name}": fingerprint.read_entry(str(site), name, status)
        for name, status in fingerprint.walk(site)
    }
    return fingerprint.content_digest(path, entries)


def _scalems(origin: str, versions: Mapping[str, str]) -> str:
    """Return the digest of the scalems that a venv has, wherever its files are."""
    if not origin or "scalems" not in versions:
        return ""
    return wheel.source_digest(Path(origin).parent, versions["scalems"])


def _is_open(path: Path) -> bool:
    try:
        lines = (path / "pyvenv.cfg").read_text(encoding="utf-8").lower().splitlines()
    except OSError:
        return False
    return any(line.replace(" ", "") == "include-system-site-packages=true" for line in lines)
