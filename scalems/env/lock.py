"""Locks: the resolved, pinned and hashed requirements of an environment.

A lock is a requirements file in pip's hash-checking format
(https://pip.pypa.io/en/stable/topics/secure-installs/), which uv, pip and pip-sync all
install from as it stands. It names no index and no URL, so one lock serves a mirror, a
wheelhouse and the public index alike, and can hold no credentials. A header of comments
says what it was made from.

The standard ``pylock.toml`` (PEP 751) was weighed: its reader, ``packaging.pylock``, needs
packaging 26, and radical.pilot brings psij-python, which needs packaging 25 or older.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from scalems.env import pep508
from scalems.env.canonical import digest
from scalems.env.package import Prepared
from scalems.env.spec import EnvSpec
from scalems.errors import UsageError
from scalems.probe import normalize

ALWAYS = ("cloudpickle", "radical.pilot")
"""What the far side of scalems needs in every environment."""

_HEADER = re.compile(r"# (?P<key>python|inputs): (?P<value>.+)")
_PACKAGE = re.compile(r"# package: (?P<name>\S+) @ (?P<reference>.+?)(?: from (?P<rev>\S+))?")
_COMMIT = re.compile(r"@(?P<commit>[0-9a-f]{40})(?:#.*)?$")
_DIRECT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])? @ ")
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==")
_VIA = re.compile(r"\s+#\s+(?:via\s*)?(?P<name>\S*)")
_HASH = re.compile(r"\s--hash=(?P<hash>[a-z0-9]+:[0-9a-f]+)")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One distribution in one version, with the hashes that its files may have."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]

    def applies(self, markers: Mapping[str, str]) -> bool:
        """Whether it is for an interpreter with these markers.

        :raises UsageError: its marker compares what cannot be compared.
        """
        try:
            return self.marker is None or self.marker.evaluate(dict(markers))
        except (UndefinedComparison, UndefinedEnvironmentName, InvalidVersion) as error:
            raise _broken(f"the lock's marker of {self.name}: {self.marker}: {error}") from error

    def requirement(self) -> str:
        """Return it as a line of a requirements file, without its marker."""
        return " \\\n    ".join(
            [f"{self.name}=={self.version}", *(f"--hash={h}" for h in self.hashes)]
        )


@dataclass(frozen=True)
class Source:
    """Where a local package is from.

    :param reference: see :meth:`scalems.env.package.Package.reference`.
    :param rev: the branch or tag that its commit was; empty for a path.
    """

    reference: str
    rev: str = ""

    @property
    def commit(self) -> str:
        """The commit of a git source; empty if it has none."""
        match = _COMMIT.search(self.reference)
        return match["commit"] if match else ""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock that has been read.

    :param inputs: digest of what it was made from, see :func:`inputs_digest`.
    :param python: range of Python versions that it was resolved for.
    :param packages: where the local packages are from, by name.
    """

    inputs: str
    python: SpecifierSet
    pins: tuple[Pin, ...]
    packages: Mapping[str, Source] = field(default_factory=dict)

    def select(self, markers: Mapping[str, str]) -> list[Pin]:
        """Return the pins that apply to an interpreter, sorted by name.

        :param markers: values of the PEP 508 markers there.
        :raises UsageError: a marker compares what cannot be compared.
        """
        chosen = [pin for pin in self.pins if pin.applies(markers)]
        return sorted(chosen, key=lambda pin: pin.name)


def requirements(spec: EnvSpec) -> list[str]:
    """Return everything that an environment asks for, one normalized line each, sorted."""
    wanted = {str(pep508.parse(text)) for text in spec.dependencies}
    named = {normalize(pep508.parse(text).name) for text in wanted}
    wanted.update(name for name in ALWAYS if normalize(name) not in named)
    return sorted(wanted)


def constraints(spec: EnvSpec, pins: Mapping[str, str], base: Lock | None = None) -> list[str]:
    """Return the version limits of an environment.

    :param pins: versions by distribution that the client has and the environment must have.
    :param base: lock of the environment that it adds to, whose packages it uses as they are.
    """
    limits = {str(pep508.parse(text)) for text in spec.constraints}
    limits.update(f"{name}=={version}" for name, version in pins.items())
    for pin in base.pins if base else ():
        limits.add(f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else ""))
    return sorted(limits)


def base_of(spec: EnvSpec) -> Lock | None:
    """Return the lock of the environment that one adds to; ``None`` if there is none.

    :raises UsageError: it is not a lock.
    """
    try:
        return load(spec.base.lock_path) if spec.base else None
    except FileNotFoundError:
        return None


def needs(packages: Sequence[Prepared]) -> dict[str, Sequence[str]]:
    """Return what each of some local packages requires."""
    return {one.name: one.needs for one in packages}


def inputs_digest(
    spec: EnvSpec,
    pins: Mapping[str, str],
    needs: Mapping[str, Sequence[str]] = {},
    base: Lock | None = None,
) -> str:
    """Return the digest of everything that decides a lock; an equal one means nothing to do.

    :param needs: what each local package requires.
    :param base: see :func:`constraints`.
    """
    inputs: dict[str, object] = {
        "python": str(SpecifierSet(spec.python)),
        "requirements": requirements(spec),
        "constraints": constraints(spec, pins, base),
    }
    if spec.packages:
        # A git source is decided by its rev, whose commit is in the lock.
        inputs["packages"] = [
            [
                *(one.name, one.git, one.rev, one.subdirectory, list(one.extras)),
                [] if one.git else list(needs.get(one.name, ())),
            ]
            for one in spec.packages
        ]
    return digest("lock inputs 1", inputs)


def render(
    spec: EnvSpec, *, inputs: str, python: str, body: str, packages: Sequence[Prepared] = ()
) -> str:
    """Return the text of a lock from what an engine resolved.

    :param packages: local packages, which a lock names but does not pin by hash: what they
        were built from is part of a build's fingerprint.
    """
    own = {normalize("scalems"), *(one.name for one in packages)} if packages else set()
    body = _without(body, own)
    sources = "".join(
        f"# package: {one.name} @ {one.reference}"
        + (f" from {one.package.rev}\n" if one.package.git else "\n")
        for one in packages
    )
    return (
        f"# Lock of the environment {spec.name!r}, made by `scalems env lock` from "
        f"{spec.path.name}. Do not edit.\n"
        f"# python: {python}\n"
        f"# inputs: {inputs}\n{sources}\n" + body.strip() + "\n"
    )


def _without(body: str, names: set[str]) -> str:
    """Leave out some distributions of what an engine resolved, with the comments on them."""
    kept, leaving = [], False
    for line in body.splitlines(keepends=True):
        if match := _DIRECT.match(line) or _PINNED.match(line):
            leaving = normalize(match["name"]) in names
        if not leaving:
            kept.append(line)
    return "".join(kept)


def load(path: Path) -> Lock:
    """Read a lock.

    :raises FileNotFoundError: there is none.
    :raises UsageError: it is not a lock, or was edited; with file and line.
    """
    return parse(path.read_text(encoding="utf-8", errors="replace"), source=str(path))


def parse(text: str, *, source: str) -> Lock:
    """Read the text of a lock; see :func:`load`."""
    head: dict[str, str] = {}
    pins: list[Pin] = []
    packages: dict[str, Source] = {}
    for number, line in _logical_lines(text):
        if line.startswith("#"):
            if match := _HEADER.fullmatch(line.strip()):
                head.setdefault(match["key"], match["value"].strip())
            elif match := _PACKAGE.fullmatch(line.strip()):
                packages[normalize(match["name"])] = Source(match["reference"], match["rev"] or "")
            continue
        try:
            pins.append(_pin(line))
        except ValueError as error:
            raise _broken(f"{source}:{number}: {error}") from None
    try:
        python = SpecifierSet(head["python"])
        return Lock(inputs=head["inputs"], python=python, pins=tuple(pins), packages=packages)
    except (KeyError, InvalidSpecifier):
        raise _broken(f"{source}: not a lock of scalems: its header is missing") from None


def changes(old: Lock | None, new: Lock) -> list[str]:
    """Return what differs between two locks, one line for each distribution."""
    before, after = _versions(old) if old else {}, _versions(new)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None:
            lines.append(f"+ {name} {now}")
        elif now is None:
            lines.append(f"- {name} {was}")
        elif was != now:
            lines.append(f"~ {name} {was} -> {now}")
    return lines


def parents(text: str) -> dict[str, list[str]]:
    """Return which packages asked for each, from the comments that an engine writes in a lock.

    What a spec asks for itself has ``requirements.in`` among them.
    """
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if match := _PACKAGE.fullmatch(line):
            found.setdefault(normalize(match["name"]), []).append("requirements.in")
        elif match := _PINNED.match(line):
            current = found.setdefault(normalize(match["name"]), [])
        elif (match := _VIA.match(line)) and match["name"]:
            current.append(match["name"])
    return found


def _versions(lock: Lock) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for pin in lock.pins:
        found.setdefault(pin.name, set()).add(pin.version)
    for name, source in lock.packages.items():
        found.setdefault(name, set()).add(source.commit or source.reference)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _pin(line: str) -> Pin:
    hashes = tuple(sorted(match["hash"] for match in _HASH.finditer(line)))
    bare = _HASH.sub("", line).strip()
    try:
        requirement = pep508.parse(bare)
    except InvalidRequirement as error:
        raise ValueError(f"{_cut(bare)!r} is not a pinned requirement") from error
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
        raise ValueError(f"{bare!r} does not pin one version with '=='")
    if not hashes:
        raise ValueError(f"{bare!r} has no --hash")
    return Pin(
        name=normalize(requirement.name),
        version=specifiers[0].version,
        marker=requirement.marker,
        hashes=hashes,
    )


def _cut(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its number, those that end with a backslash joined to the next."""
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        start = start or number
        if line.rstrip().endswith("\\") and not line.lstrip().startswith("#"):
            joined += line.rstrip()[:-1] + " "
            continue
        joined += line
        if joined.strip():
            yield start, joined.strip()
        start, joined = 0, ""
    if joined.strip():
        yield start, joined.strip()


def _broken(cause: str) -> UsageError:
    return UsageError(
        cause,
        remedy="restore the lock from version control, or delete it and run `scalems env lock`",
    )
