"""`env sync`: from specs to verified builds and a written RP definition."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path

from scalems.env import (
    build,
    check,
    compile,
    current,
    fingerprint,
    guard,
    layout,
    locking,
    manifest,
    mpi,
    parity,
    site,
    state,
    target,
    wheel,
)
from scalems.env.build import BuildPlan
from scalems.env.engine import Engine, choose
from scalems.env.layout import Layout
from scalems.env.lock import Lock
from scalems.env.locking import LockResult, Notify, Options
from scalems.env.outcome import Action, EnvResult, SyncResult, load_specs
from scalems.env.package import Prepared
from scalems.env.parity import Side
from scalems.env.prepare import Workshop, workshop
from scalems.env.spec import EnvSpec, with_bases
from scalems.env.state import Synced, SyncedEnv
from scalems.env.wheelhouse import Wheelhouse
from scalems.errors import EnvironmentNotReady
from scalems.failpoint import failpoint
from scalems.host import filelock, local
from scalems.resource import definition
from scalems.resource.config import Project, ResourceConfig
from scalems.resource.definition import Change


def sync(project: Project, label: str, options: Options, *, notify: Notify) -> SyncResult:
    """Make the environments of a resource what their specs say, and tell RP of them.

    Afterwards a run can start: locks are current, builds verified, the RP resource
    definition names the Pilot's build, the `current` links are switched.

    It does all of it; :func:`scalems.env.current.find` tells in milliseconds whether there is
    anything to do.

    :raises UsageError: mistakes in specs or configs, all at once.
    :raises EnvironmentNotReady: a lock is not current and ``frozen`` is set.
    :raises ScalemsError: resolving, building or writing failed; what was there still stands.
    """
    config = project.resource(label)
    if config.host:
        from scalems.env.remote.sync import sync as sync_there  # most are of this machine

        return sync_there(project, config, config.host, options, notify=notify)
    place = layout.default()
    client = target.client()
    specs = load_specs(project, config)
    engine = choose(options.engine)
    with ExitStack() as stack:
        if not options.dry_run:
            _writable(place)
            stack.enter_context(guard.changing(place, label, notify=notify))
            build.sweep(place)
            failpoint("sync.begun")
        shop = stack.enter_context(workshop(place, engine, options, notify=notify))
        specs = with_bases(specs)
        packages = {one.name: shop.prepare(one, target.find_interpreter(one)) for one in specs}
        locks, results = locking.ensure(specs, packages, client, engine, options, notify=notify)
        plans = _plans(specs, locks, packages, client, options.house)
        for plan in plans if options.house else ():
            assert options.house
            plan.served(options.house)
        pilot = next(plan for plan in plans if plan.name == config.pilot)
        venv = pilot.folder(place) / "venv"
        asked = change = definition.plan(config, virtenv=venv)
        if options.dry_run:
            return _dry(place, config, plans, results, change, options)
        envs = _build_all(place, plans, asked, engine, shop, options, notify=notify)
        failpoint("sync.built")
        _prove_parity(place, plans, client, label)
        failpoint("sync.parity")
        with filelock.hold(place.definition_lock):
            # Meanwhile another resource of the same file may have been synced.
            change = definition.plan(config, virtenv=venv)
            backup = None
            if change.diff:
                accepted = asked if asked.diff else None
                backup = definition.write(change, backups=place.backups(), accepted=accepted)
        # The locks may be new: the key must be that of the files as they are now.
        key = current.key(project, label, client)
        state.write(place, _synced(place, project, config, specs, plans, change, key))
        target.client(keep=True)
    return SyncResult(
        label=label,
        envs=tuple(envs),
        locks=tuple(results),
        definition=change.path,
        diff=change.diff,
        backup=backup,
    )


def _plans(
    specs: Sequence[EnvSpec],
    locks: Mapping[str, Lock],
    packages: Mapping[str, tuple[Prepared, ...]],
    client: Side,
    house: Wheelhouse | None,
) -> list[BuildPlan]:
    plans: dict[str, BuildPlan] = {}
    for one in specs:
        base = plans[one.base.name] if one.base else None
        interpreter = target.find_interpreter(one)
        pins = locks[one.name].select(interpreter.markers)
        software = site.require(one.site, env=one.name)
        uses_mpi = any(pin.name == mpi.PACKAGE for pin in pins)
        world = mpi.launcher(one.site) if uses_mpi else ""
        taken = {**one.site.to_dict(), "found": software} if one.site else None
        sources = house.sources if house else ()
        compiled = compile.select(one, pins, interpreter, {"site": taken, "mpi": world}, sources)
        plans[one.name] = BuildPlan(
            name=one.name,
            role=one.role,
            interpreter=interpreter.path,
            facts=interpreter.facts,
            pins=tuple(pins),
            lock_inputs=locks[one.name].inputs,
            scalems_digest=client.scalems_digest,
            input_digest=fingerprint.input_digest(
                pins,
                interpreter=interpreter.facts,
                scalems_digest=client.scalems_digest,
                site=taken,
                packages=packages[one.name],
                compiled=compiled,
                mpi=world,
                base=base.input_digest if base else "",
            ),
            base=base,
            site=one.site,
            packages=packages[one.name],
            compiled=compiled,
            build_rules=one.build_rules,
            software=software,
        )
    return list(plans.values())


def _build_all(
    place: Layout,
    plans: Sequence[BuildPlan],
    asked: Change,
    engine: Engine,
    shop: Workshop,
    options: Options,
    *,
    notify: Notify,
) -> list[EnvResult]:
    """Make the builds, while RP is asked whether it accepts the definition that they get.

    :raises DefinitionError: it does not; what was begun is taken away.
    """
    results: list[EnvResult] = []
    with local.threads(len(plans) + 1) as pool:
        # RP takes a while to say so, and mostly does: meanwhile, builds are begun.
        accepted = pool.submit(definition.validate, asked) if asked.diff else None
        own = wheel.pack(place.wheels)
        failpoint("sync.packed")
        make = functools.partial(_build, place, engine, own, shop, options, notify=notify)
        for layers in (False, True):  # which link to what is there
            running = [pool.submit(make, plan) for plan in plans if bool(plan.base) is layers]
            if accepted:
                accepted.result()
            wait(running)  # a build that fails does not spoil the others
            results += [one.result() for one in running]
    return results


def _build(
    place: Layout,
    engine: Engine,
    own: Path,
    shop: Workshop,
    options: Options,
    plan: BuildPlan,
    *,
    notify: Notify,
) -> EnvResult:
    known, made = build.ensure(
        plan,
        layout=place,
        engine=engine,
        wheel=own,
        shop=shop,
        offline=options.offline,
        good=functools.partial(check.is_good, depth=options.depth),
        notify=notify,
        house=options.house,
    )
    return EnvResult(
        name=plan.name,
        role=plan.role,
        action="built" if made else "reused",
        folder=plan.folder(place),
        seconds=known.seconds if made else 0.0,
    )


def _prove_parity(place: Layout, plans: Sequence[BuildPlan], client: Side, label: str) -> None:
    """Compare before anything points to the new builds.

    :raises EnvironmentNotReady: they differ from the client where they must not.
    """
    from scalems.env.finding import errors, not_ready

    sides = []
    for plan in plans:
        known = manifest.read(plan.folder(place))
        if known:
            sides.append(
                Side(
                    name=plan.name,
                    role=plan.role,
                    python=known.interpreter["version"],
                    versions=known.versions,
                    scalems_digest=known.scalems_digest,
                )
            )
    compared = parity.compare(client, sides, remedy=f"scalems env sync --resource {label}")
    if faults := errors(compared.findings):
        raise not_ready(label, faults)


def _synced(
    place: Layout,
    project: Project,
    config: ResourceConfig,
    specs: Sequence[EnvSpec],
    plans: Sequence[BuildPlan],
    change: Change,
    key: str,
) -> Synced:
    entries: dict[str, SyncedEnv] = {}
    for one, plan in zip(specs, plans, strict=True):  # bases come before what adds to them
        entries[one.name] = _entry(one, plan, place, entries)
    return Synced(
        label=config.label,
        project=project.root,
        key=key,
        envs=tuple(entries[name] for name in config.envs),
        definition=change.path,
        fields=config.decided(definition.fields_of(config.label)),
        lines=config.lines,
    )


def _entry(
    one: EnvSpec, plan: BuildPlan, place: Layout, others: Mapping[str, SyncedEnv]
) -> SyncedEnv:
    return SyncedEnv(
        name=plan.name,
        role=plan.role,
        folder=plan.folder(place),
        spec=one.path,
        spec_digest=state.file_digest(one.path),
        sources={
            own.name: state.Source(
                folder=own.package.path, table=own.table, editable=own.package.editable
            )
            for own in plan.packages
            if own.package.path is not None
        },
        lines=one.lines,
        base=others[one.base.name] if one.base else None,
    )


def _dry(
    place: Layout,
    config: ResourceConfig,
    plans: Sequence[BuildPlan],
    locks: Sequence[LockResult],
    change: Change,
    options: Options,
) -> SyncResult:
    envs = []
    for plan in plans:
        folder = plan.folder(place)
        good = check.is_good(folder, depth=options.depth)
        action: Action = "reused" if good else "would build"
        envs.append(
            EnvResult(name=plan.name, role=plan.role, action=action, folder=folder, seconds=0.0)
        )
    return SyncResult(
        label=config.label,
        envs=tuple(envs),
        locks=tuple(locks),
        definition=change.path,
        diff=change.diff,
        backup=None,
    )


def _writable(place: Layout) -> None:
    """Fail early and clearly where nothing can be written."""
    try:
        place.create()
    except OSError as error:
        raise EnvironmentNotReady(
            f"{place.root} cannot be written: {error.strerror or error}",
            remedy="name a writable folder: export SCALEMS_HOME=/path/with/space",
        ) from error
