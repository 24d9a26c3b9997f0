"""`env sync` for a resource on another host: lock here, build and verify there, record both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import (
    compile,
    current,
    fingerprint,
    guard,
    layout,
    locking,
    mpi,
    parity,
    state,
    tag,
    target,
    wheel,
    wheelhouse,
)
from scalems.env.build import BuildPlan
from scalems.env.engine import choose
from scalems.env.finding import errors, not_ready
from scalems.env.layout import Layout
from scalems.env.lock import Lock, Pin
from scalems.env.locking import Notify, Options
from scalems.env.look import Seen
from scalems.env.outcome import Action, EnvResult, SyncResult, load_specs
from scalems.env.package import Prepared
from scalems.env.parity import Side
from scalems.env.prepare import Workshop, workshop
from scalems.env.remote.link import Link, connect, digest
from scalems.env.sdist import Shelf
from scalems.env.site import Site
from scalems.env.spec import EnvSpec, with_bases
from scalems.env.state import Synced, SyncedEnv
from scalems.env.target import Interpreter
from scalems.env.wheelhouse import Wheelhouse
from scalems.errors import EnvironmentNotReady
from scalems.failpoint import failpoint
from scalems.host import filelock
from scalems.host.address import Host
from scalems.resource import definition
from scalems.resource.config import Project, ResourceConfig

_ROOM = 2 << 30  # bytes that two environments and their downloads may need


def sync(
    project: Project, config: ResourceConfig, host: Host, options: Options, *, notify: Notify
) -> SyncResult:
    """Make the environments of a resource on a host what their specs say, and tell RP of them.

    :raises HostError: it cannot be reached.
    :raises ScalemsError: as :func:`scalems.env.sync.sync`.
    """
    place = layout.default()
    client = target.client()
    specs = with_bases(load_specs(project, config))
    engine = choose(options.engine)
    with ExitStack() as stack:
        if not options.dry_run:
            place.create(builds=False)
            stack.enter_context(guard.changing(place, config.label, notify=notify))
        notify(f"connecting to {host.name}")
        link = stack.enter_context(connect(host, notify=notify))
        failpoint("far.connected")
        facts = _facts(link, specs)
        found = {one.name: _interpreter(one, facts, link) for one in specs}
        shop = stack.enter_context(workshop(place, engine, options, notify=notify))
        packages = {one.name: _packages(shop, one, found[one.name]) for one in specs}
        here = target.client_interpreter()
        locks, results = locking.ensure(
            specs,
            packages,
            client,
            engine,
            options,
            notify=notify,
            interpreters={
                name: Interpreter(path=here, facts=one.facts, markers=one.markers)
                for name, one in found.items()
            },
        )
        plans = _plans(specs, locks, found, packages, facts, client, link)
        there = Layout(link.root)
        pilot = next(plan for plan in plans if plan.name == config.pilot)
        fields = definition.fields_for(config, virtenv=pilot.folder(there) / "venv")
        change = definition.restore(config.label, fields)
        missing = _missing(link, config.label, plans, there, options)
        backup = None
        seconds: dict[str, float] = {}
        if not options.dry_run:
            definition.validate(change) if change.diff else None
            if missing:
                shelf = Shelf(
                    store=place.wheelhouse, engine=engine, offline=options.offline, notify=notify
                )
                wanted = [one for one in specs if one.name in {plan.name for plan in missing}]
                brought = _bring(link, wanted, missing, locks, found, shelf, options)
                seconds = _build(link, config.label, missing, brought, facts, options, notify)
            failpoint("far.built")
            seen = _look(link, config.label, plans, there)
            _prove(config.label, plans, seen, client)
            synced = _synced(project, config, host, specs, plans, there, fields)
            told = link.call(
                "record", label=config.label, synced=state.to_dict(synced.bare), fields=fields
            )
            failpoint("far.recorded")
            if told["diff"]:
                notify(f"{host.name}: wrote {told['path']}")
            with filelock.hold(place.definition_lock):
                change = definition.restore(config.label, fields)
                backup = definition.write(change, backups=place.backups()) if change.diff else None
            key = current.key(project, config.label, client)
            state.write(place, replace(synced, key=key, definition=change.path))
            target.client(keep=True)
    return SyncResult(
        label=config.label,
        envs=tuple(_result(plan, there, missing, seconds, options) for plan in plans),
        locks=tuple(results),
        definition=change.path,
        diff=change.diff,
        backup=backup,
    )


def _facts(link: Link, specs: Sequence[EnvSpec]) -> dict[str, Any]:
    facts: dict[str, Any] = link.call(
        "facts",
        interpreters=sorted({one.interpreter for one in specs if one.interpreter}),
        sites={one.name: one.site.to_dict() for one in specs if one.site},
    )
    return facts


def _interpreter(one: EnvSpec, facts: Mapping[str, Any], link: Link) -> Interpreter:
    described = facts["interpreters"][one.interpreter or ""]
    if described is None:
        raise EnvironmentNotReady(
            f"{one.path}: there is no interpreter {one.interpreter!r} on {link.host.name}",
            remedy="set `interpreter` to one that is there, or leave it out",
        )
    found = Interpreter(
        path=Path(described["path"]), facts=described["facts"], markers=described["markers"]
    )
    target.allow(one, found)
    return found


def _packages(shop: Workshop, one: EnvSpec, found: Interpreter) -> tuple[Prepared, ...]:
    """Return the local packages of a spec as wheels that can be shipped.

    None can link to a folder that is here: those that are editable are shipped as they are now.

    :raises EnvironmentNotReady: one is compiled, and for another interpreter than this.
    """
    here = Interpreter(
        path=target.client_interpreter(), facts=probe.interpreter(), markers=probe.markers()
    )
    # The modules of the host are not here.
    made = shop.prepare(replace(one, site=Site()), here) if one.packages else ()
    for own in made:
        if not own.wheel.stem.endswith("-none-any") and dict(here.facts) != dict(found.facts):
            raise EnvironmentNotReady(
                f"{one.path}: packages.{own.name} is compiled, and {found.path} on the host is "
                "another Python or platform than the client's",
                remedy="sync from a machine like the host, or publish wheels of it on an index",
            )
    return tuple(replace(own, package=replace(own.package, editable=False)) for own in made)


def _plans(
    specs: Sequence[EnvSpec],
    locks: Mapping[str, Lock],
    found: Mapping[str, Interpreter],
    packages: Mapping[str, tuple[Prepared, ...]],
    facts: Mapping[str, Any],
    client: Side,
    link: Link,
) -> list[BuildPlan]:
    """Return what to build there; bases come before what adds to them, as in ``specs``."""
    pins = {one.name: locks[one.name].select(found[one.name].markers) for one in specs}
    sites = {
        one.name: one.site.to_dict()
        for one in specs
        if any(pin.name == mpi.PACKAGE for pin in pins[one.name])
    }
    worlds = link.call("mpi", sites=sites) if sites else {}
    plans: dict[str, BuildPlan] = {}
    for one in specs:
        plan = _plan(
            one,
            pins[one.name],
            found[one.name],
            packages[one.name],
            facts,
            client,
            world=worlds.get(one.name, ""),
            base=plans[one.base.name] if one.base else None,
        )
        plans[one.name] = replace(plan, lock_inputs=locks[one.name].inputs)
    return list(plans.values())


def _plan(
    one: EnvSpec,
    pins: Sequence[Pin],
    found: Interpreter,
    packages: tuple[Prepared, ...],
    facts: Mapping[str, Any],
    client: Side,
    *,
    world: str,
    base: BuildPlan | None,
) -> BuildPlan:
    probed = facts["software"].get(one.name, {})
    if faults := {name: problem for name, (_, problem) in probed.items() if problem}:
        listed = "\n".join(f"  {name}: {problem}" for name, problem in faults.items())
        raise EnvironmentNotReady(
            f"software that {one.name!r} needs is not on the host:\n{listed}",
            remedy=f"correct `modules`, `shell` or [software] in envs/{one.name}.toml",
        )
    software = {name: version for name, (version, _) in probed.items()}
    taken = {**one.site.to_dict(), "found": software} if one.site else None
    compiled = compile.select(one, pins, found, {"site": taken, "mpi": world})
    return BuildPlan(
        name=one.name,
        role=one.role,
        interpreter=found.path,
        facts=found.facts,
        pins=tuple(pins),
        lock_inputs="",
        scalems_digest=client.scalems_digest,
        input_digest=fingerprint.input_digest(
            pins,
            interpreter=found.facts,
            scalems_digest=client.scalems_digest,
            site=taken,
            packages=packages,
            compiled=compiled,
            mpi=world,
            base=base.input_digest if base else "",
        ),
        base=base,
        site=one.site,
        packages=packages,
        compiled=compiled,
        build_rules=one.build_rules,
        software=software,
    )


def _missing(
    link: Link, label: str, plans: Sequence[BuildPlan], there: Layout, options: Options
) -> list[BuildPlan]:
    """Return the builds that are not there, or not as they must be, with what they add to."""
    seen = _look(link, label, plans, there, depth=options.depth.value)
    names = {plan.name for plan, one in zip(plans, seen, strict=True) if one.findings}
    names |= {plan.base.name for plan in plans if plan.name in names and plan.base}
    return [plan for plan in plans if plan.name in names]


def _look(
    link: Link, label: str, plans: Sequence[BuildPlan], there: Layout, *, depth: str = "fast"
) -> list[Seen]:
    envs = [[plan.name, str(plan.folder(there))] for plan in plans]
    told = link.call("look", label=label, envs=envs, depth=depth, hold=False)
    return [Seen.from_dict(data) for data in told["envs"]]


def _build(
    link: Link,
    label: str,
    plans: Sequence[BuildPlan],
    brought: _Brought,
    facts: Mapping[str, Any],
    options: Options,
    notify: Notify,
) -> dict[str, float]:
    """Build there; return how long each took that was not there already."""
    if facts["free"] < _ROOM:
        notify(f"{link.host.name}: only {facts['free'] / 2**30:.1f} GiB are free in {link.root}")
    _bring_uv(link, facts, notify=notify)
    own = wheel.pack(layout.default().wheels)
    wheels = [own, *(one.wheel for plan in plans for one in plan.packages)]
    shipped = {path: digest(path) for path in wheels}
    link.ship([(sha256, path) for path, sha256 in shipped.items()], notify=notify)
    house = brought.house
    link.ship([(one.sha256, one.path) for one in house.files], notify=notify)
    failpoint("far.shipped")
    results = link.call(
        "build",
        notify=notify,
        label=label,
        plans=[_plain(plan, shipped) for plan in plans],
        wheel=[shipped[own], own.name],
        house=wheelhouse.index(house),
        alone=brought.alone,
        depth=options.depth.value,
        engine="uv",
    )
    return {
        plan.name: told["seconds"]
        for plan, told in zip(plans, results, strict=True)
        if told["built"]
    }


@dataclass(frozen=True, kw_only=True)
class _Brought:
    """What a host gets to build from.

    :param alone: it gets nothing else: no index is asked there.
    """

    house: Wheelhouse
    alone: bool


def _bring(
    link: Link,
    specs: Sequence[EnvSpec],
    plans: Sequence[BuildPlan],
    locks: Mapping[str, Lock],
    found: Mapping[str, Interpreter],
    shelf: Shelf,
    options: Options,
) -> _Brought:
    """Collect what a host cannot fetch: all packages, or the sources of what is built there.

    :raises EnvironmentNotReady: some cannot be had for it; each is named.
    """
    if options.house is not None:
        return _Brought(house=options.house, alone=True)
    if not (link.host.offline or options.offline):
        if link.call("reaches_index"):
            python = plans[0].facts["version"]
            pins = [one.pin for plan in plans for one in plan.compiled]
            sources = [shelf.source(pin, python=python) for pin in pins]
            return _Brought(house=wheelhouse.merge([], sources), alone=False)
        shelf.notify(f"{link.host.name} reaches no package index: the packages are shipped")
    collected = [
        shelf.collect(one, locks[one.name], tag.of(found[one.name].facts), found[one.name].markers)
        for one in specs
    ]
    house = wheelhouse.merge(
        [one.wheels for one in collected], [each for one in collected for each in one.sources]
    )
    return _Brought(house=house, alone=True)


def _bring_uv(link: Link, facts: Mapping[str, Any], *, notify: Notify) -> None:
    """Ship this machine's uv to a host that has none, if it can run there."""
    import platform

    from scalems.env.engine.uv import find_uv

    if facts["uv"]:
        return
    uv = find_uv()
    mine = [platform.system(), platform.machine()]
    if uv is None or facts["machine"] != mine:
        why = "the client has none" if uv is None else f"the client's is for {' '.join(mine)}"
        raise EnvironmentNotReady(
            f"{link.host.name} ({' '.join(facts['machine'])}) has no uv, and {why}",
            remedy="install it there: python3 -m pip install --user uv",
        )
    sha256 = digest(uv)
    link.ship([(sha256, uv)], notify=notify)
    link.call("take_uv", sha256=sha256)


def _plain(plan: BuildPlan, shipped: Mapping[Path, str]) -> dict[str, Any]:
    """Return a plan in values that JSON can hold.

    :param shipped: digest of each wheel that was shipped.
    """
    return {
        **{name: getattr(plan, name) for name in ("name", "lock_inputs", "scalems_digest")},
        "input_digest": plan.input_digest,
        "role": plan.role.value,
        "interpreter": str(plan.interpreter),
        "facts": dict(plan.facts),
        "build_rules": plan.build_rules,
        "base": _plain(plan.base, shipped) if plan.base else None,
        "compiled": [
            {
                "name": one.pin.name,
                "env": dict(one.env),
                "taken": dict(one.taken),
                "markers": dict(one.interpreter.markers),
            }
            for one in plan.compiled
        ],
        "pins": [[pin.name, pin.version, list(pin.hashes)] for pin in plan.pins],
        "site": plan.site.to_dict(),
        "software": dict(plan.software),
        "packages": [
            {
                "name": one.name,
                "rev": one.package.rev,
                "reference": one.reference,
                "digest": one.digest,
                "version": one.version,
                "needs": list(one.needs),
                "wheel": [shipped[one.wheel], one.wheel.name],
            }
            for one in plan.packages
        ],
    }


def _prove(label: str, plans: Sequence[BuildPlan], seen: Sequence[Seen], client: Side) -> None:
    """Compare with the client before anything points to the builds.

    :raises EnvironmentNotReady: they are not what they must be, or differ from the client.
    """
    found = [finding for one in seen for finding in one.findings]
    sides = [
        Side(
            name=plan.name,
            role=plan.role,
            python=one.manifest.interpreter["version"],
            versions=one.manifest.versions,
            scalems_digest=one.manifest.scalems_digest,
        )
        for plan, one in zip(plans, seen, strict=True)
        if one.manifest
    ]
    compared = parity.compare(client, sides, remedy=f"scalems env sync --resource {label}")
    if faults := [*errors(found), *errors(compared.findings)]:
        raise not_ready(label, faults)


def _synced(
    project: Project,
    config: ResourceConfig,
    host: Host,
    specs: Sequence[EnvSpec],
    plans: Sequence[BuildPlan],
    there: Layout,
    fields: Mapping[str, Any],
) -> Synced:
    entries: dict[str, SyncedEnv] = {}
    for one, plan in zip(specs, plans, strict=True):  # bases come before what adds to them
        entries[one.name] = SyncedEnv(
            name=plan.name,
            role=plan.role,
            folder=plan.folder(there),
            spec=one.path,
            spec_digest=state.file_digest(one.path),
            sources={
                own.name: state.Source(folder=own.package.path, table=own.table)
                for own in plan.packages
                if own.package.path is not None
            },
            lines=one.lines,
            base=entries[one.base.name] if one.base else None,
        )
    return Synced(
        label=config.label,
        project=project.root,
        key="",
        envs=tuple(entries[name] for name in config.envs),
        definition=Path(),
        fields=config.decided(fields),
        host=host,
        lines=config.lines,
    )


def _result(
    plan: BuildPlan,
    there: Layout,
    missing: Sequence[BuildPlan],
    seconds: Mapping[str, float],
    options: Options,
) -> EnvResult:
    action: Action = "reused"
    if options.dry_run and plan in missing:
        action = "would build"
    elif plan.name in seconds:
        action = "built"
    return EnvResult(
        name=plan.name,
        role=plan.role,
        action=action,
        folder=plan.folder(there),
        seconds=seconds.get(plan.name, 0.0),
    )
