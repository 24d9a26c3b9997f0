"""`env plan --upgrade`: what the upgrade of a package would touch, on all resources.

Nothing is changed: locks are resolved and thrown away.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from scalems import probe
from scalems.env import (
    layout,
    lease,
    lock,
    locking,
    manifest,
    parity,
    pep508,
    spec,
    state,
    target,
    wheel,
)
from scalems.env.engine import Engine, ResolveError, choose
from scalems.env.locking import Notify, Options
from scalems.env.parity import Side
from scalems.env.prepare import workshop
from scalems.env.role import Role
from scalems.env.spec import EnvSpec
from scalems.env.state import Synced
from scalems.env.verification import build_of
from scalems.errors import UsageError
from scalems.probe import normalize
from scalems.resource.config import Project
from scalems.tomlfile import near


@dataclass(frozen=True, kw_only=True)
class EnvImpact:
    """What an upgrade means for an environment of a resource.

    :param changes: what would differ in its lock; see :func:`scalems.env.lock.changes`.
    :param problem: why its lock cannot have the upgrade; empty if it can.
    :param build: the build in use, if it was synced.
    :param in_use: whether a run uses that build now; ``None`` if it is on another host.
    :param content_digest: content fingerprint of that build.
    :param computes: what results of that build are kept under.
    """

    name: str
    role: Role
    changes: tuple[str, ...]
    problem: str = ""
    build: Path | None = None
    in_use: bool | None = False
    content_digest: str = ""
    computes: str = ""

    @property
    def affected(self) -> bool:
        """Whether it would be built anew."""
        return bool(self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "name": self.name,
            "role": self.role.value,
            "affected": self.affected,
            "changes": list(self.changes),
            "problem": self.problem,
            "build": str(self.build) if self.build else None,
            "in_use": self.in_use,
            "content_digest": self.content_digest,
            "computes": self.computes,
        }


@dataclass(frozen=True, kw_only=True)
class ResourceImpact:
    """What an upgrade means for a resource.

    :param generation: the one in use; 0 if it was never synced.
    """

    label: str
    generation: int
    envs: tuple[EnvImpact, ...]

    @property
    def affected(self) -> bool:
        """Whether it would be synced anew."""
        return any(env.affected for env in self.envs)

    @property
    def in_use(self) -> bool:
        """Whether a run uses a build of it that would be replaced."""
        return any(env.affected and env.in_use for env in self.envs)


@dataclass(frozen=True, kw_only=True)
class UpgradePlan:
    """What an upgrade would touch, and in which order it is done.

    :param client: what would change in the client's own venv.
    :param steps: commands with what each is for.
    """

    package: str
    client: tuple[str, ...]
    resources: tuple[ResourceImpact, ...]
    steps: tuple[tuple[str, str], ...] = field(default=())

    @property
    def problems(self) -> list[str]:
        """What stands in the way, each once."""
        found = [env.problem for one in self.resources for env in one.envs if env.problem]
        return list(dict.fromkeys(found))

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "upgrade": self.package,
            "client": list(self.client),
            "resources": [
                {
                    "resource": one.label,
                    "generation": one.generation,
                    "affected": one.affected,
                    "envs": [env.to_dict() for env in one.envs],
                }
                for one in self.resources
            ],
            "steps": [{"command": command, "why": why} for command, why in self.steps],
        }


def upgrade(project: Project, text: str, options: Options, *, notify: Notify) -> UpgradePlan:
    """Work out what the upgrade of a package would touch.

    :param text: its name, or with a version: ``radical.pilot==1.104``.
    :raises UsageError: no lock and not the client has such a package, or mistakes in specs.
    :raises ResolveError: the client itself cannot have it.
    """
    wanted = _requirement(text)
    engine = choose(options.engine)
    client = target.client()
    configs = [project.resource(label) for label in project.labels()]
    names = dict.fromkeys(name for config in configs for name in config.envs)
    named = [spec.load(project.env_path(name)) for name in names]
    specs = {one.name: one for one in spec.with_bases(named)}
    _known(wanted, specs, client)
    then: Side = client
    changes: tuple[str, ...] = ()
    if normalize(wanted.name) in parity.RULES:
        then, changes = _client(wanted, client, engine, options, notify=notify)
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for name, one in specs.items():
        base = found.get(one.base.name) if one.base else None
        found[name] = (
            base  # what changes there changes in all that adds to it
            if base and any(base)
            else _lock(one, wanted, then, engine, options, moved=then is not client, notify=notify)
        )
    resources = []
    for config in configs:
        synced = state.read(layout.default(), config.label)
        envs = [_impact(specs[name], found[name], synced) for name in config.envs]
        number = synced.generation if synced else 0
        resources.append(ResourceImpact(label=config.label, generation=number, envs=tuple(envs)))
    plan = UpgradePlan(package=text, client=changes, resources=tuple(resources))
    return replace(plan, steps=tuple(_steps(plan, wanted, then)))


def _requirement(text: str) -> Requirement:
    try:
        wanted = pep508.parse(text)
    except InvalidRequirement as error:
        raise UsageError(
            f"{text!r} is not a package to upgrade to: {error}",
            remedy="write NAME or NAME==VERSION, such as radical.pilot==1.104",
        ) from None
    if wanted.url or wanted.marker or wanted.extras:
        raise UsageError(
            f"{text!r} says more than a name and a version",
            remedy=f"write {wanted.name} or {wanted.name}==VERSION",
        )
    return wanted


def _known(wanted: Requirement, specs: Mapping[str, EnvSpec], client: Side) -> None:
    locked = {
        pin.name
        for one in specs.values()
        if one.lock_path.is_file()
        for pin in lock.load(one.lock_path).pins
    }
    known = locked | set(client.versions)
    if normalize(wanted.name) not in known:
        raise UsageError(
            f"no lock has {wanted.name!r}{near(wanted.name, known)}",
            remedy="check the spelling; new packages go into `dependencies` of a spec",
        )


def _client(
    wanted: Requirement, client: Side, engine: Engine, options: Options, *, notify: Notify
) -> tuple[Side, tuple[str, ...]]:
    """Return the client as it would be with an upgrade, and what would change in it."""
    notify("resolving the client's own venv")
    former = "".join(f"{name}=={version}\n" for name, version in sorted(client.versions.items()))
    try:
        resolved = engine.resolve(
            wheel.dependencies(),
            [str(wanted)],
            python=f"=={'.'.join(client.python.split('.')[:2])}.*",
            interpreter=target.client_interpreter(),
            former=former,
            upgrade=(wanted.name,),
            offline=options.offline,
        )
    except ResolveError as error:
        raise ResolveError(
            f"this scalems cannot have {wanted}:\n{error.cause}",
            remedy=error.remedy or "upgrade scalems first, or choose another version",
        ) from error
    text = f"# python: {resolved.python}\n# inputs: x\n{resolved.body}"
    pins = lock.parse(text, source="the client").select(probe.markers())
    versions = {pin.name: pin.version for pin in pins}
    changes = tuple(
        f"~ {name} {client.versions[name]} -> {version}"
        for name, version in versions.items()
        if client.versions.get(name, version) != version
    )
    if not changes:
        return client, ()
    return replace(client, versions={**client.versions, **versions}), changes


def _lock(
    one: EnvSpec,
    wanted: Requirement,
    client: Side,
    engine: Engine,
    options: Options,
    *,
    moved: bool,
    notify: Notify,
) -> tuple[tuple[str, ...], str]:
    """Return what would change in a lock, and why it cannot."""
    locked = lock.load(one.lock_path).pins if one.lock_path.is_file() else ()
    there = any(pin.name == normalize(wanted.name) for pin in locked)
    if locked and not (there or moved):
        return (), ""
    # What the client decides is a constraint already.
    ours = not moved and normalize(wanted.name) not in parity.RULES
    asked = replace(options, dry_run=True, upgrade=(str(wanted),) if ours else False)
    try:
        with workshop(layout.default(), engine, asked, notify=notify) as shop:
            packages = {one.name: shop.prepare(one, target.find_interpreter(one))}
            locks, (result,) = locking.ensure([one], packages, client, engine, asked, notify=notify)
    except ResolveError as error:
        return (), error.cause
    # A resolver may rather take old versions of others, which do not need it.
    had = [pin.version for pin in locks[one.name].pins if pin.name == normalize(wanted.name)]
    if there and not any(wanted.specifier.contains(version, prereleases=True) for version in had):
        lost = "; ".join(line for line in result.changes if line[0] in "-~")
        return (), f"{one.lock_path}: with {wanted} it would have none of it, but: {lost}"
    return result.changes, ""


def _impact(one: EnvSpec, found: tuple[tuple[str, ...], str], synced: Synced | None) -> EnvImpact:
    changes, problem = found
    env = next((env for env in synced.envs if env.name == one.name), None) if synced else None
    impact = EnvImpact(name=one.name, role=one.role, changes=changes, problem=problem)
    if synced is None or env is None:
        return impact
    if synced.host is not None:
        return replace(impact, build=env.folder, in_use=None)
    known = manifest.read(env.folder)
    return replace(
        impact,
        build=env.folder,
        in_use=lease.held(env.folder),
        content_digest=known.content_digest if known else "",
        computes=build_of(synced, env, {one.name: known}).computes if known else "",
    )


def _steps(plan: UpgradePlan, wanted: Requirement, then: Side) -> list[tuple[str, str]]:
    """Return the commands of an upgrade, in their order."""
    affected = [one for one in plan.resources if one.affected]
    steps: list[tuple[str, str]] = []
    if plan.client:
        moved = [line.split()[1] for line in plan.client]
        pinned = [f"{name}=={then.versions[name]}" for name in moved]
        command = shlex.join([sys.executable, "-m", "pip", "install", *pinned])
        steps.append((command, "the client first: every environment is locked to its versions"))
    if not affected:
        return steps
    names = dict.fromkeys(env.name for one in affected for env in one.envs if env.affected)
    words = ["scalems", "env", "lock", *names]
    if not plan.client:
        words += ["--upgrade-package", str(wanted)]
    steps.append((shlex.join(words), "then the locks; commit them"))
    return [*steps, *_syncs(affected)]


def _syncs(affected: Sequence[ResourceImpact]) -> list[tuple[str, str]]:
    """Return the syncs, those that no run waits for first."""
    steps = []
    for one in sorted(affected, key=lambda one: (one.in_use, one.label)):
        why = "nothing uses its builds now"
        if one.in_use:
            why = "a run uses a build of it, and keeps it to its end; new runs get the new one"
        elif not one.generation:
            why = "it was never synced"
        steps.append((f"scalems env sync --resource {one.label}", why))
    steps.append(("scalems env check", "the proof"))
    return steps
