"""What a project needs, by files that are there: requirements, ``pyproject.toml``, conda's."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement

from scalems import probe, tomlfile
from scalems.env import condafile, pep508, requirementsfile
from scalems.env.lock import ALWAYS
from scalems.env.requirementsfile import Package
from scalems.errors import UsageError
from scalems.host.local import without_credentials
from scalems.probe import normalize
from scalems.tomlfile import near

USUAL = ("pyproject.toml", "requirements.txt", "environment.yml", "environment.yaml")
"""The files that are looked for, the first that says something is taken."""

# What a client's venv has for its own sake.
_OURS = ("scalems", "pip", "setuptools", "wheel", "uv", *ALWAYS)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an environment is to contain, found in something that is there.

    :param source: where, for people.
    :param dependencies: requirements, as they were written.
    :param constraints: limits on versions of what others bring in.
    :param packages: those from a folder or from git, by name, as an env spec has them.
    :param left: lines that are none of these, for a person to look at; without credentials.
    :param python: the Python versions that it says, if it does.
    """

    source: str
    dependencies: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    packages: Mapping[str, Package] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    python: str = ""


def find(
    source: Path | None, folder: Path, *, extras: Sequence[str] = (), groups: Sequence[str] = ()
) -> Wanted:
    """Find out what a project needs.

    :param extras: optional dependencies of a ``pyproject.toml`` that are wanted too.
    :param groups: dependency groups of a ``pyproject.toml`` that are wanted too.
    :raises UsageError: the source is there but cannot be read, or has no such extra or group.
    """
    if (extras or groups) and source is None:
        source = folder / "pyproject.toml"
    specs = folder / "envs"
    if source is None:
        for name in USUAL:
            found = _file(folder / name, specs) if (folder / name).is_file() else None
            if found and (found.dependencies or found.packages or found.left):
                return found
        return Wanted(source="")
    if source.suffix != ".toml" and (extras or groups):
        raise UsageError(
            f"{source} has no extras and no dependency groups",
            remedy="name a pyproject.toml with --from, or leave --extra and --group out",
        )
    if source.is_dir():
        return _venv(source)
    if not source.is_file():
        raise UsageError(f"there is no {source}", remedy="name a requirements file, or a venv")
    return _file(source, specs, extras, groups)


def _file(
    path: Path, specs: Path, extras: Sequence[str] = (), groups: Sequence[str] = ()
) -> Wanted:
    beside = path.parent if path.suffix == ".toml" else specs.parent
    found = _Collector(str(path), beside, specs)
    if path.suffix in (".yml", ".yaml"):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        read = condafile.parse(text, name=str(path))
        found.left += read.left
        return found.of(read.requirements, python=read.python)
    if path.suffix != ".toml":
        return found.of_file(path)
    data = tomlfile.load(path)
    if "lock-version" in data:
        return found.of(_locked(data.get("packages")))
    pyproject = _Pyproject(path, data)
    lines = dict.fromkeys(pyproject.project())
    for name in extras:
        lines |= dict.fromkeys(pyproject.extra(name))
    for name in groups:
        lines |= dict.fromkeys(pyproject.group(name))
    found.left += pyproject.unread()
    return found.of(map(pyproject.from_its_source, lines))


class _Collector:
    """Sorts lines into what an env spec can say, and what it cannot."""

    def __init__(self, source: str, beside: Path, specs: Path) -> None:
        self._source, self._beside, self._specs = source, beside, specs
        self._dependencies: dict[str, str] = {}
        self._constraints: dict[str, str] = {}
        self._packages: dict[str, Package] = {}
        self.left: list[str] = []

    def of_file(self, path: Path) -> Wanted:
        """Take the lines of a requirements file and of those that it includes."""
        for line, limits in requirementsfile.lines(path):
            self._take(line, self._constraints if limits else self._dependencies)
        return self.of(())

    def of(self, lines: Iterable[str], *, python: str = "") -> Wanted:
        """Take these lines too; return all."""
        for line in requirementsfile.logical(lines):
            self._take(line, self._dependencies)
        return Wanted(
            source=self._source,
            dependencies=tuple(self._dependencies.values()),
            constraints=tuple(self._constraints.values()),
            packages=self._packages,
            left=tuple(map(without_credentials, self.left)),
            python=python,
        )

    def _take(self, line: str, into: dict[str, str]) -> None:
        package = requirementsfile.package(line, beside=self._beside, specs=self._specs)
        if package and into is self._dependencies:
            name, table = package
            if normalize(name) in self._packages:
                self.left.append(line)
            elif normalize(name) != "scalems":
                self._packages[normalize(name)] = table
            return
        try:
            requirement = pep508.parse(line)
        except InvalidRequirement:
            self.left.append(line)
            return
        name = normalize(requirement.name)
        if requirement.url or (name in into and requirement.marker is None):
            self.left.append(line)
        elif name != "scalems":
            into[name if requirement.marker is None else line] = str(requirement)


class _Pyproject:
    """The dependencies of a ``pyproject.toml``.

    https://packaging.python.org/specifications/pyproject-toml/ and, of groups,
    https://packaging.python.org/specifications/dependency-groups/
    """

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self._path = path
        self._project = _table(data.get("project"))
        self._tool = _table(data.get("tool"))
        self._extras = _table(self._project.get("optional-dependencies"))
        self._groups = _table(data.get("dependency-groups"))
        sources = _table(_table(self._tool.get("uv")).get("sources"))
        self._sources = {normalize(name): one for name, one in sources.items()}

    def project(self) -> Iterator[str]:
        """Yield what it always needs."""
        yield from self._without_itself(_texts(self._project.get("dependencies")), ())

    def extra(self, name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield what an extra adds; one may name others by the project's own name."""
        listed = self._named("extra", "--extra", self._extras, name)
        if normalize(name) not in above:
            yield from self._without_itself(_texts(listed), (*above, normalize(name)))

    def group(self, name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield what a dependency group has, and those that it includes."""
        if normalize(name) in above:
            raise UsageError(
                f"{self._path}: the dependency group {name!r} includes itself: "
                + " → ".join((*above, normalize(name))),
                remedy="take one of these include-group entries out",
            )
        listed = self._named("dependency group", "--group", self._groups, name)
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, str):
                yield from self._without_itself([one], ())
            elif isinstance(one, dict) and isinstance(one.get("include-group"), str):
                yield from self.group(one["include-group"], (*above, normalize(name)))

    def unread(self) -> Iterator[str]:
        """Yield what it says of dependencies that cannot be taken as it is."""
        if "dependencies" in _texts(self._project.get("dynamic")):
            yield "dependencies are dynamic: the project's build computes them"
        elif not self._project and "poetry" in self._tool:
            yield "[tool.poetry.dependencies]: poetry export -o requirements.txt, then --from that"

    def from_its_source(self, line: str) -> str:
        """Return a requirement as what uv takes it from, if that is a folder or a repository.

        https://docs.astral.sh/uv/concepts/projects/dependencies/#dependency-sources
        """
        try:
            requirement = pep508.parse(line)
        except InvalidRequirement:
            return line
        source = _table(self._sources.get(normalize(requirement.name)))
        if requirement.url or requirement.marker:
            return line
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        if isinstance(source.get("path"), str):
            folder = os.path.join(".", source["path"])  # noqa: PTH118 - "./" must stay
            return f"{'-e ' if source.get('editable') is True else ''}{folder}{extras}"
        if isinstance(source.get("git"), str):
            rev = source.get("rev") or source.get("tag") or source.get("branch")
            inner = source.get("subdirectory")
            url = f"git+{source['git']}{f'@{rev}' if rev else ''}"
            return f"{requirement.name}{extras} @ {url}{f'#subdirectory={inner}' if inner else ''}"
        return line

    def _without_itself(self, lines: Iterable[str], above: tuple[str, ...]) -> Iterator[str]:
        own = normalize(str(self._project.get("name", "")))
        for line in lines:
            try:
                requirement = pep508.parse(line)
            except InvalidRequirement:
                yield line  # told of as left
                continue
            if normalize(requirement.name) != own:
                yield line
                continue
            for extra in sorted(requirement.extras):
                yield from self.extra(extra, above)

    def _named(self, kind: str, option: str, known: Mapping[str, Any], name: str) -> object:
        for one, listed in known.items():
            if normalize(one) == normalize(name):
                return listed
        has = f"it has {', '.join(sorted(known))}" if known else f"it has no {kind} at all"
        other = self._groups if kind == "extra" else self._extras
        instead = "--group" if option == "--extra" else "--extra"
        there = normalize(name) in map(normalize, other)
        meant = "" if there else near(name, known)
        raise UsageError(
            f"{self._path}: there is no {kind} {name!r}{meant}; {has}",
            remedy=f"{instead} {name}" if there else f"name one that is there with {option}",
        )


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _locked(packages: object) -> Iterator[str]:
    """Yield the pins of a ``pylock.toml`` (https://packaging.python.org/specifications/pylock-toml/)."""
    for one in packages if isinstance(packages, list) else ():
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            marker = f" ; {one['marker']}" if "marker" in one else ""
            from_index = "version" in one and not {"vcs", "directory", "archive"} & one.keys()
            pin = f"=={one['version']}" if from_index else " (not of an index)"
            yield f"{one['name']}{pin}{marker}"


def _venv(folder: Path) -> Wanted:
    """Take what nothing else in a venv requires, in the versions that are there."""
    try:
        site = probe.site_packages(folder)
    except FileNotFoundError as error:
        raise UsageError(str(error), remedy="name the folder of a venv") from None
    there = {}
    required = set()
    for dist in importlib.metadata.distributions(path=[str(site)]):
        there[normalize(dist.metadata["Name"])] = dist.version
        for text in dist.requires or ():
            requirement = pep508.parse(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required.add(normalize(requirement.name))
    wanted = sorted(there.keys() - required - set(map(normalize, _OURS)))
    return Wanted(
        source=str(folder), dependencies=tuple(f"{name}=={there[name]}" for name in wanted)
    )
