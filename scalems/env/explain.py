"""`env explain`: why a package is where it is, and who has which version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement

from scalems.env import layout, lock, parity, spec, state, target
from scalems.env.check import Depth
from scalems.env.lock import ALWAYS
from scalems.env.spec import EnvSpec
from scalems.env.verification import see
from scalems.errors import UsageError
from scalems.host.address import HostError
from scalems.probe import normalize
from scalems.resource.config import Project
from scalems.tomlfile import near


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why an environment has a package.

    :param locked: version in its lock; empty if it is not in it.
    :param asked: what asks for it directly: lines of the spec, and rules of scalems.
    :param limits: constraints on its version, with who sets them.
    :param chain: packages that lead from what the spec asks for to this one, that first.
    """

    env: str
    spec: str
    locked: str
    asked: tuple[str, ...]
    limits: tuple[str, ...]
    chain: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A package in all environments of a project, and its version in each build in use."""

    package: str
    reasons: tuple[Reason, ...]
    installed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "package": self.package,
            "reasons": [vars(reason) | {} for reason in self.reasons],
            "installed": dict(self.installed),
        }


def explain(package: str, project: Project) -> Explanation:
    """Say why a package is in the environments of a project.

    :raises UsageError: no spec, lock or build has it; near names are offered.
    """
    name = normalize(package)
    client = target.client()
    reasons, known = [], set(client.versions)
    for env in project.env_names():
        one = spec.load(project.env_path(env))
        parents = _parents(one)
        known |= parents.keys()
        reason = _reason(one, name, parents, parity.pins(client.versions))
        if reason.locked or reason.asked or reason.limits:
            reasons.append(reason)
    installed = _installed(name)
    if name in client.versions:
        installed = {"client": client.versions[name], **installed}
    if not reasons and not installed:
        raise UsageError(
            f"no spec, lock or build has {package!r}{near(name, known)}",
            remedy="add it to `dependencies` of an env spec and run `scalems env sync`",
        )
    return Explanation(package=name, reasons=tuple(reasons), installed=installed)


def _reason(
    one: EnvSpec, name: str, parents: Mapping[str, list[str]], pins: Mapping[str, str]
) -> Reason:
    asked = [f"{_written(one, t)}: {t}" for t in one.dependencies if _named(t) == name]
    asked += [
        f"{one.path.name}: [packages.{own.name}] {own.requested}"
        for own in one.packages
        if own.name == name
    ]
    if name in map(normalize, ALWAYS):
        asked.append("scalems: every environment has it")
    limits = [f"{_written(one, t)}: {t}" for t in one.constraints if _named(t) == name]
    base = lock.base_of(one)
    if one.base and base:
        which = f"the lock of {one.base.name!r}, which it adds to"
        limits += [f"{which}: =={pin.version}" for pin in base.pins if pin.name == name]
    if name in pins:
        limits.append(f"parity with the client: =={pins[name]}")
    locked = ""
    if one.lock_path.is_file():
        current = lock.load(one.lock_path)
        found = [pin.version for pin in current.pins if pin.name == name]
        if name in current.packages:
            found.append(current.packages[name].commit or current.packages[name].reference)
        locked = " or ".join(found)
    return Reason(
        env=one.name,
        spec=str(one.path),
        locked=locked,
        asked=tuple(asked),
        limits=tuple(limits),
        chain=tuple(_chain(name, parents)),
    )


def _written(one: EnvSpec, text: str) -> str:
    """Return the file that a requirement or a limit is written in."""
    theirs = (*one.base.dependencies, *one.base.constraints) if one.base else ()
    return one.base.path.name if one.base and text in theirs else one.path.name


def _named(requirement: str) -> str:
    return normalize(Requirement(requirement).name)


def _parents(one: EnvSpec) -> dict[str, list[str]]:
    try:
        return lock.parents(one.lock_path.read_text(encoding="utf-8"))
    except OSError:
        return {}


def _chain(name: str, parents: Mapping[str, list[str]]) -> list[str]:
    """Return a shortest way from what was asked for down to a package."""
    ways = [[name]]
    seen = {name}
    while ways:
        way = ways.pop(0)
        above = parents.get(way[0], [])
        if any(parent.endswith(".in") for parent in above):
            return way
        for parent in map(normalize, above):
            if parent not in seen:
                seen.add(parent)
                ways.append([parent, *way])
    return []


def _installed(name: str) -> dict[str, str]:
    place = layout.default()
    found = {}
    for label in state.labels(place):
        synced = state.read(place, label)
        if synced is None:
            continue
        try:
            seen = [one.manifest for one in see(synced, synced.envs, depth=Depth.FAST)]
        except HostError:
            found[label] = f"? ({synced.host.name if synced.host else ''} cannot be reached)"
            continue
        for env, known in zip(synced.envs, seen, strict=True):
            if known and name in known.versions:
                found[f"{label}/{env.name}"] = known.versions[name]
    return found
