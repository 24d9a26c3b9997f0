"""Builds: one immutable venv each, in a folder named after its input fingerprint."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from scalems import probe
from scalems.env import codecache, fingerprint, layer, lease, manifest, mpi, tag
from scalems.env.compile import Compiled
from scalems.env.engine import Engine, InstallError
from scalems.env.fingerprint import Entry
from scalems.env.layout import Layout
from scalems.env.lock import Pin
from scalems.env.locking import Notify
from scalems.env.manifest import Manifest
from scalems.env.package import Prepared
from scalems.env.prepare import Workshop
from scalems.env.role import Role
from scalems.env.site import Site
from scalems.env.wheelhouse import Wheelhouse
from scalems.failpoint import failpoint
from scalems.host import filelock, local
from scalems.host import scratch as scratch_folders
from scalems.host.local import CommandFailed, run
from scalems.host.process import mark
from scalems.host.scratch import scratch

IMPORTED = (
    *("radical", "zmq", "msgpack", "dill", "cloudpickle", "scalems", "psij", "requests", "urllib3"),
    *("charset_normalizer", "colorama", "idna", "regex", "certifi", "rc"),
)
"""What RP and the Worker import at start: compiled at build, the rest when first used."""

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Everything that decides a build, and where it goes.

    :param interpreter: path of the interpreter that the venv gets.
    :param facts: description of that interpreter, see :func:`scalems.probe.interpreter`.
    :param pins: the lock as it applies to it.
    :param site: what it takes from its site.
    :param software: versions of the programs of the site.
    :param packages: local packages.
    :param compiled: distributions of the lock that are built here.
    :param build_rules: see :attr:`scalems.env.spec.EnvSpec.build_rules`.
    :param base: the build that it adds to, which is there.
    """

    name: str
    role: Role
    interpreter: Path
    facts: Mapping[str, str]
    pins: tuple[Pin, ...]
    lock_inputs: str
    scalems_digest: str
    input_digest: str
    site: Site = field(default_factory=Site)
    software: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[Prepared, ...] = ()
    compiled: tuple[Compiled, ...] = ()
    build_rules: str = ""
    base: BuildPlan | None = None

    def folder(self, layout: Layout) -> Path:
        """Return the build's folder."""
        return layout.build(self.name, self.input_digest)

    @property
    def own_pins(self) -> tuple[Pin, ...]:
        """What is installed in it: of a layer, what its base has not."""
        theirs = {(pin.name, pin.version) for pin in self.base.pins} if self.base else set()
        return tuple(pin for pin in self.pins if (pin.name, pin.version) not in theirs)

    @property
    def wheel_pins(self) -> tuple[Pin, ...]:
        """What is installed in it from wheels of an index, or of a house."""
        built = {one.pin.name for one in self.compiled}
        return tuple(pin for pin in self.own_pins if pin.name not in built)

    def served(self, house: Wheelhouse) -> None:
        """Return if a house has all that the build takes from it.

        :raises WheelhouseError: what it has not.
        """
        house.requirements(self.wheel_pins, tag.of(self.facts))
        for one in self.compiled:
            one.needs(house)

    @property
    def own_packages(self) -> tuple[Prepared, ...]:
        """The local packages that are installed in it."""
        theirs = {one.name for one in self.base.packages} if self.base else set()
        return tuple(one for one in self.packages if one.name not in theirs)


def ensure(
    plan: BuildPlan,
    *,
    layout: Layout,
    engine: Engine,
    wheel: Path,
    offline: bool,
    good: Callable[[Path], bool],
    notify: Notify,
    shop: Workshop | None = None,
    house: Wheelhouse | None = None,
) -> tuple[Manifest, bool]:
    """Return the manifest of a build, which is made unless it is there and good.

    Two that want the same build make it once: the second waits. A build that was left
    unfinished, or is no longer good, is taken away first.

    :param wheel: scalems itself.
    :param shop: where distributions are built that are not installed from wheels of an index.
    :param good: whether a build that has a manifest is still as the manifest says.
    :param house: where to take all wheels from, rather than from an index.
    :return: the manifest, and whether the build was made now.
    :raises InstallError: it cannot be made; no trace of it is left.
    """
    folder = plan.folder(layout)

    def waiting(who: str) -> None:
        notify(f"{plan.name}: another sync is making this build; waiting for {who}")

    with (
        _readable_errors(plan.name),
        filelock.hold(
            layout.build_lock(plan.name, plan.input_digest), on_wait=waiting
        ) as descriptor,
    ):
        known = manifest.read(folder)
        if known and good(folder):
            return known, False
        if lease.held(folder):
            raise InstallError(
                f"the build of {plan.name!r} has changed, and a run uses it: {folder}",
                remedy="end that run (`scalems env list` shows what is in use), then sync again",
            )
        discard(folder)
        folder.mkdir(parents=True)
        lease.path(folder).touch(0o644)  # so that a run need not write here
        failpoint("build.begun")
        try:
            made = _make(
                plan,
                folder,
                engine=engine,
                wheel=wheel,
                shop=shop,
                offline=offline,
                holding=descriptor,
                notify=notify,
                house=house,
                store=layout.compiled,
            )
        except BaseException:
            discard(folder)
            raise
        return made, True


def in_order(
    plans: Sequence[BuildPlan], make: Callable[[BuildPlan], Made]
) -> list[tuple[BuildPlan, Made]]:
    """Make builds, all at once but for those that link to others; return what became of each.

    :raises ScalemsError: one cannot be made, which does not spoil the others.
    """
    results: list[tuple[BuildPlan, Made]] = []
    for layers in (False, True):
        several = [plan for plan in plans if bool(plan.base) is layers]
        if several:
            with local.threads(len(several)) as pool:
                running = [pool.submit(make, plan) for plan in several]
                wait(running)
            results += [(plan, one.result()) for plan, one in zip(several, running, strict=True)]
    return results


def _make(
    plan: BuildPlan,
    folder: Path,
    *,
    engine: Engine,
    wheel: Path,
    shop: Workshop | None,
    offline: bool,
    holding: int,
    notify: Notify,
    house: Wheelhouse | None,
    store: Path,
) -> Manifest:
    started = time.monotonic()
    venv = folder / "venv"
    wheels = [
        *([] if plan.base else [wheel]),
        *([one.wheel(shop, house) for one in plan.compiled] if shop else []),
        *(one.wheel for one in plan.own_packages if not one.package.editable),
    ]
    pins = plan.wheel_pins
    requirements = folder / "requirements.txt"
    lines = "".join(pin.requirement() + "\n" for pin in pins)
    requirements.write_text(house.requirements(pins) if house else lines)
    notify(f"{plan.name}: making the venv with {engine.version()}")
    engine.create(venv, interpreter=plan.interpreter, holding=holding)
    failpoint("build.venv")
    also = f"to those of {plan.base.name}" if plan.base else "and scalems"
    notify(f"{plan.name}: installing {len(plan.own_pins)} distributions {also}")
    install = functools.partial(
        engine.install,
        venv,
        requirements,
        wheels=wheels,
        editables=[
            one.package.path
            for one in plan.own_packages
            if one.package.path and one.package.editable
        ],
        offline=offline,
        holding=holding,
        wheelhouse=house.folder if house else None,
        on_line=lambda line: notify(f"{plan.name}: {line.strip()}", detail=True),
    )
    install()
    if plan.base:
        layer.link(venv, folder.with_name(_name(plan.base)) / "venv")
    failpoint("build.installed")
    notify(f"{plan.name}: verifying")
    entries = fingerprint.scan(venv)
    if engine.unpacked_cache and (spoilt := fingerprint.spoilt(venv, entries)):
        # Somebody has edited a file of a venv of their own that is a hard link into the cache.
        names = " ".join(spoilt)
        mend = f"{engine.name} cache clean {names}"
        notify(f"{plan.name}: {engine.name}'s cache was changed ({mend}); again: {names}")
        install(afresh=spoilt)
        entries = fingerprint.scan(venv)
    # What every run imports; measured to take seconds off the agent's start.
    compiled = codecache.compile_into(
        venv,
        codecache.units(venv, entries, IMPORTED),
        entries,
        store=store,
        interpreter=plan.interpreter,
        facts=plan.facts,
        holding=holding,
    )
    failpoint("build.compiled")
    entries.update(compiled)
    with ThreadPoolExecutor(1) as pool:
        # Only now, with all as it must be, does anything of it run; it writes nothing there.
        verifying = pool.submit(_verify, plan, venv, scalems_version=wheel.name.split("-")[1])
        entries.update(fingerprint.scan_compiled(venv, known=compiled))
        tables = _tables(venv, entries)
        failpoint("build.files")
        verifying.result()
    failpoint("build.verified")
    return _record(plan, folder, entries, tables, engine=engine.version(), started=started)


@dataclass(frozen=True)
class _Tables:
    """Digests of what a build holds, and of the lists of it beside the manifest."""

    content: str
    files_sha256: str
    stats_sha256: str


def _tables(venv: Path, entries: Mapping[str, Entry]) -> _Tables:
    return _Tables(
        fingerprint.content_digest(venv, entries),
        manifest.write_files(venv.parent, entries),
        manifest.write_stats(venv.parent, entries),
    )


def _name(plan: BuildPlan) -> str:
    return f"{plan.name}-{plan.input_digest[:16]}"


def _base(plan: BuildPlan, known: Manifest) -> dict[str, str]:
    """Return what a layer's manifest says of its base."""
    return {
        "name": plan.name,
        "folder": _name(plan),
        "input_digest": known.input_digest,
        "content_digest": known.content_digest,
    }


def _uses_mpi(plan: BuildPlan) -> bool:
    return any(pin.name == mpi.PACKAGE for pin in plan.pins)


def _record(
    plan: BuildPlan,
    folder: Path,
    entries: Mapping[str, Entry],
    tables: _Tables,
    *,
    engine: str,
    started: float,
) -> Manifest:
    """Write the manifest, last of all."""
    venv = folder / "venv"
    python = (venv / "bin" / "python").resolve(strict=True)
    status = python.stat()
    top, records = fingerprint.top_level(venv)
    base = manifest.read(folder.with_name(_name(plan.base))) if plan.base else None
    content = tables.content
    sites = [probe.site_packages(venv)]
    if plan.base:
        sites.append(probe.site_packages(folder.with_name(_name(plan.base)) / "venv"))
    made = Manifest(
        name=plan.name,
        role=plan.role,
        input_digest=plan.input_digest,
        content_digest=layer.content_digest(content, base.content_digest) if base else content,
        scalems_digest=plan.scalems_digest,
        lock_inputs=plan.lock_inputs,
        engine=engine,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
        interpreter=plan.facts,
        site=plan.site.to_dict(),
        software=dict(plan.software),
        packages={one.name: one.to_dict() for one in plan.packages},
        pins=fingerprint.pin_items(plan.pins),
        compiled={one.pin.name: one.folder for one in plan.compiled},
        build_rules=plan.build_rules,
        mpi=mpi.library(venv, plan.site) if _uses_mpi(plan) else {},
        cpu=probe.cpu_level(),
        python=str(python),
        python_stat=(status.st_size, status.st_mtime_ns),
        versions=probe.versions(sites),
        top_level=top,
        records=records,
        files=len(entries),
        bytes=sum(entry.size for entry in entries.values()),
        files_sha256=tables.files_sha256,
        stats_sha256=tables.stats_sha256,
        base=_base(plan.base, base) if plan.base and base else {},
    )
    manifest.write(folder, made)
    failpoint("build.manifest")
    return made


def _verify(plan: BuildPlan, venv: Path, *, scalems_version: str) -> None:
    """Import the RCT stack in the venv, and see that it holds the lock and nothing else."""
    code = (
        "import radical.pilot, radical.utils, cloudpickle, scalems.workflow.call, "
        "scalems.probe; scalems.probe.main()"
    )
    with scratch("verify") as empty:
        try:
            done = run(
                [venv / "bin" / "python", "-I", "-B", "-c", code],
                env={"HOME": str(empty)},
                cwd=empty,
            )
            found = probe.parse(done.stdout)
        except (CommandFailed, ValueError) as error:
            raise InstallError(
                f"the environment {plan.name!r} was installed but does not work: {error}",
                remedy="if the interpreter or a compiler is broken, repair it; then run "
                "`scalems env sync` again",
            ) from error
    expected = {pin.name: pin.version for pin in plan.pins} | {"scalems": scalems_version}
    expected |= {one.name: one.version for one in plan.packages}
    if found["versions"] != expected:
        differing = sorted(set(found["versions"].items()) ^ set(expected.items()))
        raise InstallError(
            f"the environment {plan.name!r} does not hold what its lock says: "
            + ", ".join(f"{name} {version}" for name, version in differing)
        )


def discard(folder: Path) -> None:
    """Take a build away: first out of its name, so that nothing half-deleted is ever found."""
    if not folder.exists():
        return
    trash = folder.with_name(f".trash-{folder.name}-{mark()}-{time.monotonic_ns()}")
    folder.rename(trash)
    failpoint("build.discarded")
    shutil.rmtree(trash, ignore_errors=True)


def sweep(layout: Layout) -> None:
    """Remove what killed syncs left in the trash, and in the system's temporary folder."""
    scratch_folders.clear()
    for trash in layout.builds.glob(".trash-*"):
        shutil.rmtree(trash, ignore_errors=True)


@contextlib.contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InstallError(
            f"the environment {name!r} cannot be built: {error.strerror or error}"
            + (f": {error.filename}" if error.filename else ""),
            remedy="make room, or make the folder writable, or name another one in SCALEMS_HOME",
        ) from error
