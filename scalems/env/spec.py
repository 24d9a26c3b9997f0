"""Env specs: what a Pilot or a Task venv must contain, from ``envs/NAME.toml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from scalems import tomlfile
from scalems.env import package, pep508, site
from scalems.env.canonical import digest
from scalems.env.package import Package
from scalems.env.role import Role
from scalems.env.site import Site, Software
from scalems.errors import UsageError
from scalems.probe import normalize
from scalems.resource import lines
from scalems.resource.lines import Lines

SCHEMA = Path(__file__).with_name("spec.schema.json")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""What an env may be called: it becomes part of file names and shell lines."""


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What an environment must contain, as its author wrote it.

    :param base: the environment that it adds to; what that one has is in all of these but
        ``no_binary`` and ``build_env``.
    """

    name: str
    path: Path
    role: Role
    python: str
    interpreter: str | None
    dependencies: tuple[str, ...]
    constraints: tuple[str, ...]
    site: Site = field(default_factory=Site)
    lines: Lines = field(default_factory=Lines)
    packages: tuple[Package, ...] = ()
    no_binary: tuple[str, ...] = ()
    build_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    base: EnvSpec | None = None

    @property
    def build_rules(self) -> str:
        """Digest of how packages are built here; empty if nothing is said of it."""
        if not (self.no_binary or self.build_env):
            return ""
        envs = {name: dict(env) for name, env in self.build_env.items()}
        return digest("build rules 1", [self.no_binary, envs])

    @property
    def lock_path(self) -> Path:
        """The lock, committed beside the spec."""
        return self.path.with_suffix(".lock.txt")


def load(path: Path) -> EnvSpec:
    """Read an env spec.

    :raises UsageError: with every mistake in it, by file, line and key.
    """
    if not NAME.fullmatch(path.stem):
        raise UsageError(
            f"{path}: {path.stem!r} cannot name an environment",
            remedy="use up to 40 lower-case letters, digits, '-' and '_', a letter first",
        )
    data = tomlfile.read(path, SCHEMA, rules=functools.partial(_mistakes, beside=path.parent))
    own, name = _own(path, data), data.get("base")
    if name is None:
        return own
    beside = path.with_name(f"{name}.toml")
    data = tomlfile.read(beside, SCHEMA, rules=functools.partial(_mistakes, beside=path.parent))
    if "base" in data:
        raise UsageError(
            f"{path}: base: {name!r} itself adds to {data['base']!r}",
            remedy="name an environment that adds to none",
        )
    return _layered(own, _own(beside, data))


def _layered(own: EnvSpec, base: EnvSpec) -> EnvSpec:
    """Return the spec of an environment together with what it has from its base."""
    software = {one.name: one for one in (*base.site.software, *own.site.software)}
    packages = {one.name: one for one in (*base.packages, *own.packages)}
    return replace(
        own,
        base=base,
        python=base.python,
        interpreter=base.interpreter,
        dependencies=tuple(dict.fromkeys((*base.dependencies, *own.dependencies))),
        constraints=tuple(dict.fromkeys((*base.constraints, *own.constraints))),
        site=Site(
            modules=tuple(dict.fromkeys((*base.site.modules, *own.site.modules))),
            shell=(*base.site.shell, *own.site.shell),
            software=tuple(software[name] for name in sorted(software)),
        ),
        lines=base.lines + own.lines,
        packages=tuple(packages[name] for name in sorted(packages)),
    )


def with_bases(specs: Sequence[EnvSpec]) -> list[EnvSpec]:
    """Return env specs with the bases of those that are layers, each before what adds to it."""
    by_name = {one.name: one for one in specs}
    missing = {one.base.name: one.base for one in specs if one.base}
    whole = [*specs, *(base for name, base in missing.items() if name not in by_name)]
    return sorted(whole, key=lambda one: one.base is not None)


def _own(path: Path, data: Mapping[str, Any]) -> EnvSpec:
    return EnvSpec(
        name=path.stem,
        path=path,
        role=Role(data["role"]),
        python=data.get("python", ">=3.10"),
        interpreter=data.get("interpreter"),
        dependencies=tuple(data.get("dependencies", ())),
        constraints=tuple(data.get("constraints", ())),
        site=Site(
            modules=tuple(data.get("modules", ())),
            shell=tuple(data.get("shell", ())),
            software=tuple(
                Software(
                    name=name,
                    command=table["command"],
                    pattern=table["pattern"],
                    range=table.get("version", ""),
                )
                for name, table in sorted(data.get("software", {}).items())
            ),
        ),
        lines=Lines.of(data),
        no_binary=tuple(sorted(map(normalize, data.get("no-binary", ())))),
        build_env={normalize(n): t.get("env", {}) for n, t in data.get("build", {}).items()},
        packages=package.load(data.get("packages", {}), beside=path.parent),
    )


def _mistakes(data: Mapping[str, Any], *, beside: Path) -> Iterator[tomlfile.Mistake]:
    """Yield what a schema cannot see: bad requirements, and keys that contradict each other."""
    try:
        SpecifierSet(str(data.get("python", "")))
    except InvalidSpecifier:
        yield ("python",), f"{data['python']!r} is not a version range like '>=3.10'"
    yield from _base_mistakes(data, beside)
    yield from site.mistakes(data)
    yield from package.mistakes(data, beside=beside)
    yield from _build_mistakes(data)
    yield from lines.mistakes(data)
    if data.get("role") == Role.PILOT:
        for key in lines.KEYS:
            if key in data:
                yield (key,), "is for calls, and none run in the environment of a pilot only"
    seen: dict[str, Requirement] = {}
    for key in ("dependencies", "constraints"):
        listed = data.get(key)
        for index, text in enumerate(listed if isinstance(listed, list) else ()):
            if not isinstance(text, str):
                continue  # the schema reports it
            where = (key, index)
            try:
                requirement = pep508.parse(text)
            except InvalidRequirement as error:
                yield where, f"{text!r} is not a requirement: {str(error).splitlines()[0]}"
                continue
            for what in _contradictions(key, requirement, seen):
                yield where, what
            if key == "dependencies":
                seen[normalize(requirement.name)] = requirement


def _base_mistakes(data: Mapping[str, Any], beside: Path) -> Iterator[tomlfile.Mistake]:
    """Yield what contradicts the `base` of a spec."""
    base = data.get("base")
    if not isinstance(base, str) or not NAME.fullmatch(base):
        return  # there is none, or the schema reports it
    if not (beside / f"{base}.toml").is_file():
        known = [path.stem for path in sorted(beside.glob("*.toml"))]
        yield ("base",), f"there is no env spec {base!r}{tomlfile.near(base, known)}"
    if data.get("role") in (Role.PILOT, Role.BOTH):
        yield ("role",), "an environment that adds to another is for tasks only"
    for key in ("python", "interpreter"):
        if key in data:
            yield (key,), f"is that of {base!r}, which this one adds to"


def _build_mistakes(data: Mapping[str, Any]) -> Iterator[tomlfile.Mistake]:
    """Yield tables of `build` that nothing is built with, and names that nothing can have."""
    built = set()
    for key in ("no-binary", "packages"):
        names = data.get(key)
        for name in names if isinstance(names, (list, dict)) else ():
            built.add(normalize(name) if isinstance(name, str) else "")
    if "scalems" in built - set(map(normalize, data.get("packages") or {})):
        yield ("no-binary",), "scalems is always installed as the code that the client runs"
    tables = data.get("build")
    for name in tables if isinstance(tables, dict) else ():
        if normalize(name) not in built:
            what = f"{name} is installed from a wheel of an index{tomlfile.near(name, built)}"
            yield ("build", name), f"{what}; to build it here, add it to no-binary"


def _contradictions(key: str, new: Requirement, seen: dict[str, Requirement]) -> list[str]:
    found = []
    if normalize(new.name) == "scalems":
        found.append("scalems is always installed as the code that the client runs; leave it out")
    if new.url:
        found.append(f"{new.name} comes from a URL; write it as [packages.{normalize(new.name)}]")
    old = seen.get(normalize(new.name))
    if old is None or old.marker != new.marker:
        return found  # with different markers they need not meet
    if key == "dependencies":
        found.append(f"{new.name} is listed twice: {str(old)!r} and {str(new)!r}")
    if _disjoint(old.specifier, new.specifier):
        found.append(f"no version of {new.name} is in both {str(old)!r} and {str(new)!r}")
    return found


def _disjoint(one: SpecifierSet, other: SpecifierSet) -> bool:
    """Whether an exact pin in one range is outside of the other."""
    for pins, limits in ((one, other), (other, one)):
        for pin in pins:
            if pin.operator == "==" and not pin.version.endswith(".*"):
                return not limits.contains(pin.version, prereleases=True)
    return False
