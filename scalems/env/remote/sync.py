"""`env sync` for a resource on another host: lock here, build and verify there, record both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import (
    current,
    fingerprint,
    guard,
    layout,
    locking,
    parity,
    state,
    tag,
    target,
    wheel,
    wheelhouse,
)
from scalems.env.build import BuildPlan
from scalems.env.collect import collect
from scalems.env.engine import choose
from scalems.env.finding import errors, not_ready
from scalems.env.layout import Layout
from scalems.env.lock import Lock
from scalems.env.locking import Notify, Options
from scalems.env.look import Seen
from scalems.env.outcome import Action, EnvResult, SyncResult, load_specs, whole
from scalems.env.package import Prepared
from scalems.env.parity import Side
from scalems.env.prepare import Workshop, workshop
from scalems.env.remote.link import Link, connect, digest
from scalems.env.site import Site
from scalems.env.spec import EnvSpec
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
    specs = whole(load_specs(project, config), config)
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
        plans = [
            _plan(one, locks[one.name], found[one.name], packages[one.name], facts, client)
            for one in specs
        ]
        there = Layout(link.root)
        fields = definition.fields_for(config, virtenv=plans[0].folder(there) / "venv")
        change = definition.restore(config.label, fields)
        missing = _missing(link, config.label, plans, there, options)
        backup = None
        seconds: dict[str, float] = {}
        if not options.dry_run:
            definition.validate(change) if change.diff else None
            if missing:
                seconds = _build(link, config.label, missing, facts, host, options, notify=notify)
            failpoint("far.built")
            seen = _look(link, config.label, plans, there)
            _prove(config.label, plans, seen, client)
            synced = _synced(project, config, host, specs, plans, there, fields)
            # What the sources here are is of no use there.
            bare = replace(synced, envs=tuple(replace(env, sources={}) for env in synced.envs))
            told = link.call(
                "record", label=config.label, synced=state.to_dict(bare), fields=fields
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
    if one.no_binary:
        raise EnvironmentNotReady(
            f"{one.path}: no-binary: packages cannot be built from source on a host over SSH yet",
            remedy="sync on the host itself",
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


def _plan(
    one: EnvSpec,
    locked: Lock,
    found: Interpreter,
    packages: tuple[Prepared, ...],
    facts: Mapping[str, Any],
    client: Side,
) -> BuildPlan:
    pins = locked.select(found.markers)
    probed = facts["software"].get(one.name, {})
    if faults := {name: problem for name, (_, problem) in probed.items() if problem}:
        listed = "\n".join(f"  {name}: {problem}" for name, problem in faults.items())
        raise EnvironmentNotReady(
            f"software that {one.name!r} needs is not on the host:\n{listed}",
            remedy=f"correct `modules`, `shell` or [software] in envs/{one.name}.toml",
        )
    software = {name: version for name, (version, _) in probed.items()}
    return BuildPlan(
        name=one.name,
        role=one.role,
        interpreter=found.path,
        facts=found.facts,
        pins=tuple(pins),
        lock_inputs=locked.inputs,
        scalems_digest=client.scalems_digest,
        input_digest=fingerprint.input_digest(
            pins,
            interpreter=found.facts,
            scalems_digest=client.scalems_digest,
            site={**one.site.to_dict(), "found": software} if one.site else None,
            packages=packages,
        ),
        site=one.site,
        packages=packages,
        software=software,
    )


def _missing(
    link: Link, label: str, plans: Sequence[BuildPlan], there: Layout, options: Options
) -> list[BuildPlan]:
    seen = _look(link, label, plans, there, depth=options.depth.value)
    return [plan for plan, one in zip(plans, seen, strict=True) if one.findings]


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
    facts: Mapping[str, Any],
    host: Host,
    options: Options,
    *,
    notify: Notify,
) -> dict[str, float]:
    if facts["free"] < _ROOM:
        notify(f"{host.name}: only {facts['free'] / 2**30:.1f} GiB are free in {link.root}")
    _bring_uv(link, facts, notify=notify)
    own = wheel.pack(layout.default().wheels)
    wheels = [own, *(one.wheel for plan in plans for one in plan.packages)]
    shipped = {path: digest(path) for path in wheels}
    link.ship([(sha256, path) for path, sha256 in shipped.items()], notify=notify)
    house = _house(link, plans, host, options, notify=notify)
    failpoint("far.shipped")
    results = link.call(
        "build",
        notify=notify,
        label=label,
        plans=[_plain(plan, shipped) for plan in plans],
        wheel=[shipped[own], own.name],
        house=wheelhouse.index(house) if house else None,
        depth=options.depth.value,
        engine="uv",
    )
    return {plan.name: told["seconds"] for plan, told in zip(plans, results, strict=True)}


def _house(
    link: Link, plans: Sequence[BuildPlan], host: Host, options: Options, *, notify: Notify
) -> Wheelhouse | None:
    """Ship the wheels of all locks to a host that cannot fetch them; ``None`` if it can.

    :raises EnvironmentNotReady: some cannot be had for it; each is named.
    """
    house = options.house
    if house is None:
        if not (host.offline or options.offline):
            if link.call("reaches_index"):
                return None
            notify(f"{host.name} reaches no package index: the packages are shipped")
        collected = []
        for plan in plans:
            wanted = tag.of(plan.facts)
            store = layout.default().wheelhouse
            had = collect(plan.pins, wanted, store=store, offline=options.offline, notify=notify)
            collected.append(had.require(f"{plan.name} for {wanted}"))
        house = wheelhouse.merge(collected)
    for plan in plans:
        house.requirements(plan.pins, tag.of(plan.facts))
    link.ship([(one.sha256, one.path) for one in house.wheels], notify=notify)
    return house


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
    return Synced(
        label=config.label,
        project=project.root,
        key="",
        envs=tuple(
            SyncedEnv(
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
            )
            for one, plan in zip(specs, plans, strict=True)
        ),
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
    if plan in missing:
        action = "would build" if options.dry_run else "built"
    return EnvResult(
        name=plan.name,
        role=plan.role,
        action=action,
        folder=plan.folder(there),
        seconds=seconds.get(plan.name, 0.0),
    )
