"""`env lock`: keep the locks of env specs current, and say why one is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packaging.requirements import InvalidRequirement, Requirement

from scalems.env import conflict, layout, lock, parity, spec, tag, target, wheel
from scalems.env.check import Depth
from scalems.env.engine import Engine, ResolveError, choose
from scalems.env.lock import Lock
from scalems.env.package import Prepared
from scalems.env.parity import Side
from scalems.env.prepare import workshop
from scalems.env.spec import EnvSpec
from scalems.env.tag import Tag
from scalems.env.target import Interpreter
from scalems.env.wheelhouse import Wheelhouse
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.failpoint import failpoint
from scalems.host.files import write_atomic
from scalems.probe import normalize
from scalems.resource.config import Project
from scalems.tomlfile import near

_VERSION = re.compile(r"[^A-Za-z0-9._-]")


class Notify(Protocol):
    """How long work tells what it is doing."""

    def __call__(self, step: str, *, detail: bool = False) -> None:
        """Tell the next step; a detail is worth showing only while it lasts."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to sync.

    :param upgrade: resolve anew to the newest versions; of these distributions only, if named,
        or to the version that is named with one.
    :param frozen: never resolve: a lock that is not current is an error.
    :param offline: use what is cached, and no network.
    :param dry_run: show what would be done, change nothing.
    :param deep: read every byte of the builds that are there, to find what to build anew.
    :param house: where to take all wheels from, rather than from an index.
    """

    engine: str = "auto"
    upgrade: bool | tuple[str, ...] = False
    frozen: bool = False
    offline: bool = False
    dry_run: bool = False
    deep: bool = False
    house: Wheelhouse | None = None

    @property
    def depth(self) -> Depth:
        """How closely builds that are there are looked at."""
        return Depth.DEEP if self.deep else Depth.NORMAL


@dataclass(frozen=True, kw_only=True)
class LockResult:
    """A lock after `env lock`.

    :param reason: why it was resolved anew; empty if it was current.
    :param changes: what differs from the former one.
    """

    name: str
    path: Path
    reason: str
    changes: tuple[str, ...]


def make_locks(
    project: Project,
    names: Sequence[str],
    options: Options,
    *,
    notify: Notify,
    targets: Sequence[str] = (),
) -> list[LockResult]:
    """Bring the locks of env specs up to date; those that are current stay as they are.

    :param names: env specs; none means all of the project.
    :param targets: wheel tags that the locks must serve, beside those of the resource configs.
    :raises UsageError: unknown specs, or mistakes in them.
    :raises ResolveError: no set of versions satisfies a spec.
    """
    chosen = list(names) or project.env_names()
    if not chosen:
        raise UsageError(
            f"there are no env specs in {project.envs}",
            remedy="write envs/NAME.toml; its schema is scalems/env/spec.schema.json",
        )
    asked = [tag.parse(text) for text in targets]
    specs = spec.with_bases([spec.load(project.env_path(name)) for name in chosen])
    engine = choose(options.engine)
    if not isinstance(options.upgrade, bool):
        _known(options.upgrade, specs)
    with workshop(layout.default(), engine, options, notify=notify) as shop:
        packages = {one.name: shop.prepare(one, target.find_interpreter(one)) for one in specs}
        results = ensure(specs, packages, target.client(), engine, options, notify=notify)[1]
    for one in specs:
        if one.lock_path.is_file():  # a dry run may not have written it
            _serve(one, [*_targets(project, one.name), *asked], engine, options, notify=notify)
    return results


def _targets(project: Project, name: str) -> list[Tag]:
    """Return the targets of all resources that have an environment."""
    configs = [project.resource(label) for label in project.labels()]
    return [tag.parse(text) for one in configs if name in one.envs for text in one.targets]


def _serve(
    one: EnvSpec, targets: Sequence[Tag], engine: Engine, options: Options, *, notify: Notify
) -> None:
    """Look whether there are files for each target in a lock.

    :raises ResolveError: one has none, all of them are told.
    """
    failures = []
    for wanted in dict.fromkeys(targets):
        notify(f"{one.name}: looking for the files for {wanted}", detail=True)
        try:
            engine.covers(one.lock_path.read_text(), wanted, offline=options.offline)
        except ResolveError as error:
            failures.append(error)
    if failures:
        raise ResolveError(
            f"{one.lock_path} does not serve every target:\n"
            + "\n".join(failure.cause for failure in failures),
            remedy=failures[0].remedy
            or f"limit these packages to versions that have files for it, with `constraints` in "
            f"{one.path}, or remove the target from the resource config",
        )


def _known(names: Sequence[str], specs: Sequence[EnvSpec]) -> None:
    """Refuse to upgrade what no lock has.

    :raises UsageError: near names are offered.
    """
    locked = {
        pin.name
        for one in specs
        if one.lock_path.is_file()
        for pin in lock.load(one.lock_path).pins
    }
    locked |= {own.name for one in specs for own in one.packages}
    for name in names:
        if locked and normalize(_VERSION.split(name, maxsplit=1)[0]) not in locked:
            raise UsageError(
                f"no lock has {name!r}{near(name, locked)}",
                remedy="check the spelling; new packages go into `dependencies` of a spec",
            )


def ensure(
    specs: Sequence[EnvSpec],
    packages: Mapping[str, Sequence[Prepared]],
    client: Side,
    engine: Engine,
    options: Options,
    *,
    notify: Notify,
    interpreters: Mapping[str, Interpreter] = {},
) -> tuple[dict[str, Lock], list[LockResult]]:
    """Return the lock of each spec, by name, resolved anew where it was not current.

    :param packages: the local packages of each spec, by its name.
    :param interpreters: what specs are built with, by name, where it is not of this machine;
        each with the path of one that is here, which can look at source distributions.
    :raises EnvironmentNotReady: one is not current and ``frozen`` is set.
    :raises ResolveError: no set of versions satisfies a spec, or there is no network.
    """
    locks: dict[str, Lock] = {}
    results: list[LockResult] = []
    for one in specs:
        interpreter = interpreters.get(one.name) or target.find_interpreter(one)
        own = packages[one.name]
        base = (locks.get(one.base.name) or lock.base_of(one)) if one.base else None
        former, reason = current(one, own, client, interpreter, base)
        if options.upgrade:
            named = ""
            if not isinstance(options.upgrade, bool):
                named = f" of {', '.join(options.upgrade)}"
            reason = reason or f"an upgrade{named} was asked for"
        if not reason and former:
            locks[one.name] = former
            results.append(LockResult(name=one.name, path=one.lock_path, reason="", changes=()))
            continue
        if options.frozen:
            raise EnvironmentNotReady(
                f"the lock of {one.name!r} is not current: {reason}",
                remedy=f"run `scalems env lock {one.name}`, or sync without --frozen",
            )
        notify(f"{one.name}: resolving ({reason})")
        try:
            text = _resolve(one, own, client, interpreter, engine, options, base)
        except ResolveError as error:
            limits = conflict.askers(one, parity.pins(client.versions), error.cause, base)
            asked = ["  asked for:", *(f"    {line}" for line in limits)] if limits else []
            raise ResolveError(
                "\n".join([f"{one.path}: {error.cause}", *asked]),
                remedy=error.remedy or f"change the dependencies or constraints in {one.path}",
            ) from error
        locks[one.name] = lock.parse(text, source=str(one.lock_path))
        changes = lock.changes(former, locks[one.name])
        if not options.dry_run:
            try:
                write_atomic(one.lock_path, text)
                failpoint("lock.written")
            except OSError as error:
                raise UsageError(
                    f"{one.lock_path} cannot be written: {error.strerror or error}",
                    remedy="make the project's envs/ folder writable, or sync with --frozen",
                ) from error
        results.append(
            LockResult(name=one.name, path=one.lock_path, reason=reason, changes=tuple(changes))
        )
    return locks, results


def current(
    one: EnvSpec,
    packages: Sequence[Prepared],
    client: Side,
    interpreter: Interpreter,
    base: Lock | None,
) -> tuple[Lock | None, str]:
    """Return the lock of a spec, and why it is not current (empty if it is).

    :param packages: its local packages.
    :param base: the lock of the environment that it adds to.
    """
    try:
        former = lock.load(one.lock_path)
    except FileNotFoundError:
        return None, "there is no lock yet"
    pins = parity.pins(client.versions)
    locked = {pin.name: pin.version for pin in former.pins}
    moved = [
        f"{name} {locked.get(name, '(none)')} -> {version}"
        for name, version in pins.items()
        if locked.get(name) != version
    ]
    if moved:
        return former, "the client's versions changed: " + ", ".join(moved)
    if former.inputs != lock.inputs_digest(one, pins, lock.needs(packages), base):
        also = ", or what its local packages need" if packages else ""
        also += f", or the lock of {one.base.name!r}, which it adds to" if one.base else ""
        return former, f"{one.path.name} changed{also}"
    if not former.python.contains(interpreter.facts["version"], prereleases=True):
        return former, (
            f"it was resolved for Python {former.python}, not {interpreter.facts['version']}"
        )
    return former, ""


def _asked(upgrade: bool | tuple[str, ...]) -> tuple[bool | tuple[str, ...], list[str]]:
    """Return the packages to upgrade, and the versions that were asked for of them.

    :raises UsageError: one is neither a name nor a name with a version.
    """
    if isinstance(upgrade, bool):
        return upgrade, []
    try:
        wanted = [Requirement(text) for text in upgrade]
    except InvalidRequirement as error:
        raise UsageError(
            f"not a package to upgrade: {error}", remedy="write NAME or NAME==VERSION"
        ) from None
    limits = [f"{one.name}{one.specifier}" for one in wanted if one.specifier]
    return tuple(one.name for one in wanted), limits


def _resolve(
    one: EnvSpec,
    packages: Sequence[Prepared],
    client: Side,
    interpreter: Interpreter,
    engine: Engine,
    options: Options,
    base: Lock | None,
) -> str:
    pins = parity.pins(client.versions)
    former = ""
    if one.lock_path.is_file():
        former = one.lock_path.read_text(encoding="utf-8")
    wanted = [*lock.requirements(one), *(own.requirement for own in packages)]
    if packages:  # they may ask for scalems, which they get as the client's code
        wanted.append(f"scalems @ {wheel.pack(layout.default().wheels).as_uri()}")
    upgrade, versions = _asked(options.upgrade)
    resolution = engine.resolve(
        wanted,
        sorted({*lock.constraints(one, pins, base), *versions}),
        python=one.python,
        interpreter=interpreter.path,
        former=former,
        upgrade=upgrade,
        offline=options.offline,
    )
    return lock.render(
        one,
        inputs=lock.inputs_digest(one, pins, lock.needs(packages), base),
        python=resolution.python,
        body=resolution.body,
        packages=packages,
    )
