"""The far side: does on a host what it is asked for, with the code that does it elsewhere here.

It ends when the connection does. What it was doing then ends as with Ctrl-C: nothing
unfinished is in use.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import queue
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from scalems import probe
from scalems.env import (
    build,
    check,
    guard,
    inventory,
    layout,
    manifest,
    mpi,
    site,
    state,
    target,
    wheelhouse,
)
from scalems.env.build import BuildPlan
from scalems.env.check import Depth
from scalems.env.compile import Compiled
from scalems.env.engine import choose
from scalems.env.lock import Pin
from scalems.env.locking import Options
from scalems.env.look import look
from scalems.env.package import Package, Prepared
from scalems.env.prepare import Workshop
from scalems.env.remote.store import Store, clear_code
from scalems.env.role import Role
from scalems.env.site import Site
from scalems.env.wheelhouse import Wheelhouse
from scalems.errors import ScalemsError
from scalems.failpoint import failpoint
from scalems.host import filelock, local, wire
from scalems.host.local import CommandFailed
from scalems.host.scratch import scratch
from scalems.resource import definition

Verb = Callable[..., Any]
"""Called with the state folder, what tells of progress, and the arguments that were sent."""

_LAST_WORD = 10.0  # seconds to end what is being done when the connection is lost


class Notify:
    """Tells the other end what is being done; a lost connection is heard of by the reader."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def __call__(self, step: str, *, detail: bool = False) -> None:
        """See :class:`scalems.env.locking.Notify`."""
        self.send({"note": step, "detail": detail})

    def send(self, message: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a message, and data after it."""
        with self._lock, contextlib.suppress(OSError):
            wire.send(self._sink, message, data)


class Guest(Protocol):
    """What runs here beside the verbs, and has the connection to itself when it wants to."""

    def take(self, source: BinaryIO, message: Mapping[str, Any]) -> bool:
        """Take a message that is for it, and what follows it; tell if it was."""

    def end(self) -> None:
        """End; the connection is gone."""


def serve(
    source: BinaryIO,
    sink: BinaryIO,
    *,
    verbs: Mapping[str, Verb] | None = None,
    guest: Guest | None = None,
) -> None:
    """Do what is asked for until the other end is gone.

    :param verbs: what can be asked for.
    :param guest: gets the data that are for none of them.
    """
    notify = Notify(sink)
    place = layout.default()
    asked: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    busy = threading.Event()
    reader = threading.Thread(target=_read, args=(source, place, asked, busy, guest), daemon=True)
    reader.start()
    notify.send({"host": socket.gethostname(), "root": str(place.root), "pid": os.getpid()})
    try:
        while (message := asked.get()) is not None:
            busy.set()
            answer = _answer(place, notify, message, verbs or VERBS)
            busy.clear()
            notify.send(answer)
    except KeyboardInterrupt:
        pass  # the connection is gone
    finally:
        if guest is not None:
            guest.end()


def _answer(
    place: layout.Layout, notify: Notify, message: dict[str, Any], verbs: Mapping[str, Verb]
) -> dict[str, Any]:
    try:
        return {"done": verbs[message["call"]](place, notify, **message["args"])}
    except ScalemsError as error:
        told = {"cause": error.cause, "remedy": error.remedy, "code": int(error.exit_code)}
        return {"error": told}
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        return {"error": {"cause": f"{error.strerror or error}{named}"}}
    except Exception:
        return {"crash": traceback.format_exc()}


def _read(
    source: BinaryIO,
    place: layout.Layout,
    asked: queue.SimpleQueue[dict[str, Any] | None],
    busy: threading.Event,
    guest: Guest | None,
) -> None:
    """Hand on what is asked for, and keep the files that come in between."""
    try:
        while (message := wire.receive(source)) is not None:
            if "file" in message:
                Store(place).receive(source, **message["file"])
            elif guest is None or not guest.take(source, message):
                asked.put(message)
    except (OSError, ValueError, EOFError):
        traceback.print_exc()
    asked.put(None)
    if busy.is_set():
        # As Ctrl-C: the main thread is somewhere in a build.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        threading.Event().wait(_LAST_WORD)
        os._exit(1)


# --- what can be asked for ----------------------------------------------------------------


def _facts(
    place: layout.Layout,
    notify: Notify,
    *,
    interpreters: list[str],
    sites: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """Describe the host: its interpreters, room, and the programs of sites."""
    from scalems.env.engine.uv import find_uv

    place.root.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(place.root)
    uv = find_uv()
    own = {"path": str(target.client_interpreter()), "facts": probe.interpreter()}
    return {
        "home": str(Path.home()),
        "time": time.time(),
        "machine": [platform.system(), platform.machine()],
        "free": room.f_bavail * room.f_frsize,
        "uv": str(uv) if uv else None,
        "interpreters": {
            "": {**own, "markers": probe.markers()},
            **{name: _interpreter(name) for name in interpreters},
        },
        "software": {
            name: {one.name: [one.version, one.problem] for one in site.probe(Site.from_dict(data))}
            for name, data in sites.items()
        },
    }


def _interpreter(name: str) -> dict[str, Any] | None:
    found = shutil.which(str(Path(name).expanduser()) if "/" in name else name)
    if found is None:
        return None
    try:
        described = probe.parse(local.run([found, "-I", probe.__file__]).stdout)
    except (CommandFailed, ValueError):
        return None
    path = str(Path(found).absolute())
    return {"path": path, "facts": described["interpreter"], "markers": described["markers"]}


def _mpi(
    place: layout.Layout, notify: Notify, *, sites: Mapping[str, dict[str, Any]]
) -> dict[str, str]:
    """Return which MPI each site starts ranks with."""
    return {name: mpi.launcher(Site.from_dict(data)) for name, data in sites.items()}


def _reaches_index(place: layout.Layout, notify: Notify) -> bool:
    """Whether packages can be fetched here, with the settings that this user has here."""
    from scalems.env.engine.uv import find_uv

    uv = find_uv()
    if uv is None:
        return False
    with scratch("index") as name:
        words = [str(uv), "pip", "install", "--dry-run", "--no-deps", "--no-cache", "--no-progress"]
        words += ["--python", str(target.client_interpreter()), "--target", str(name), "packaging"]
        settings = {"UV_HTTP_TIMEOUT": "8", "UV_HTTP_RETRIES": "0"}
        try:
            local.run(words, env=settings, cwd=name, limit=20.0)
        except CommandFailed:
            return False
    return True


def _lacks(place: layout.Layout, notify: Notify, *, files: list[list[str]]) -> list[list[str]]:
    """Return the files, each a digest and a name, that are not here yet."""
    store = Store(place)
    return [[sha256, name] for sha256, name in files if not store.has(sha256, name)]


def _take_uv(place: layout.Layout, notify: Notify, *, sha256: str) -> None:
    """Use the uv that was shipped."""
    binary = Store(place).path(sha256, "uv")
    binary.chmod(0o700)
    os.environ["PATH"] = f"{binary.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _look(
    place: layout.Layout,
    notify: Notify,
    *,
    label: str,
    envs: list[list[str]],
    depth: str,
    hold: bool,
) -> dict[str, Any]:
    """Look at builds, and at what RP is told here."""
    seen = look(((name, Path(folder)) for name, folder in envs), depth=Depth(depth), hold=hold)
    return {"envs": [one.to_dict() for one in seen], "fields": definition.fields_of(label)}


def _venv(place: layout.Layout, notify: Notify, *, folder: str) -> dict[str, Any]:
    """Look at a venv that scalems did not build."""
    from scalems.env import venv  # only where there is one

    return venv.look(Path(folder)).to_dict()


def _build(
    place: layout.Layout,
    notify: Notify,
    *,
    label: str,
    plans: list[dict[str, Any]],
    wheel: list[str],
    house: str,
    alone: bool,
    depth: str,
    engine: str,
) -> list[dict[str, Any]]:
    """Make the builds that are not here.

    :param wheel: digest and name of that of scalems.
    :param house: index of the files that were sent to build from.
    :param alone: no package index is to be asked.
    """
    store = Store(place)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_changing(place, label, notify))
        own = store.path(*wheel)
        brought = stack.enter_context(_wheelhouse(place, store, label, house))
        wheels = brought if alone else None
        tool = choose(engine)
        shop = Workshop(place, place.packages, tool, Options(offline=alone), notify)
        make = functools.partial(
            build.ensure,
            layout=place,
            engine=tool,
            wheel=own,
            shop=shop,
            offline=False,
            good=functools.partial(check.is_good, depth=Depth(depth)),
            notify=notify,
            house=wheels,
        )
        made = build.in_order([_plan(data, store, brought) for data in plans], make)
    results = {plan.name: {"seconds": known.seconds, "built": new} for plan, (known, new) in made}
    return [results[data["name"]] for data in plans]


@contextlib.contextmanager
def _changing(place: layout.Layout, label: str, notify: Notify) -> Iterator[None]:
    """Be the only one that changes a resource here; remove what killed ones have left of it."""
    place.create()
    with guard.changing(place, label, notify=notify):
        build.sweep(place)
        for left in place.root.glob(f"{_house(label)}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _house(label: str) -> str:
    return f".house-{label}-"


@contextlib.contextmanager
def _wheelhouse(place: layout.Layout, store: Store, label: str, index: str) -> Iterator[Wheelhouse]:
    """Yield the shipped wheels as a folder of their own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=_house(label), dir=place.root) as name:
        house = wheelhouse.parse(index, folder=Path(name))
        for one in house.files:
            wheelhouse.place(store.path(one.sha256, one.filename), one.path)
        failpoint("far.housed")
        yield house


def _prepared(data: dict[str, Any], store: Store) -> Prepared:
    return Prepared(
        package=Package(name=data["name"], rev=data["rev"]),
        reference=data["reference"],
        digest=data["digest"],
        wheel=store.path(*data["wheel"]),
        version=data["version"],
        needs=tuple(data["needs"]),
        table={},
    )


def _compiled(
    data: dict[str, Any], one: dict[str, Any], pins: Sequence[Pin], brought: Wheelhouse
) -> Compiled:
    pin = next(pin for pin in pins if pin.name == one["name"])
    return Compiled(
        pin=pin,
        env=one["env"],
        site=Site.from_dict(data["site"]),
        interpreter=target.Interpreter(
            path=Path(data["interpreter"]), facts=data["facts"], markers=one["markers"]
        ),
        taken=one["taken"],
        source=next(source for source in brought.sources if source.serves(pin)),
    )


def _plan(data: dict[str, Any], store: Store, brought: Wheelhouse) -> BuildPlan:
    pins = tuple(
        Pin(name=name, version=version, marker=None, hashes=tuple(hashes))
        for name, version, hashes in data["pins"]
    )
    return BuildPlan(
        **{
            **data,
            "role": Role(data["role"]),
            "interpreter": Path(data["interpreter"]),
            "pins": pins,
            "site": Site.from_dict(data["site"]),
            "packages": tuple(_prepared(one, store) for one in data["packages"]),
            "compiled": tuple(_compiled(data, one, pins, brought) for one in data["compiled"]),
            "base": _plan(data["base"], store, brought) if data["base"] else None,
        }
    )


def _record(
    place: layout.Layout,
    notify: Notify,
    *,
    label: str,
    synced: dict[str, Any],
    fields: dict[str, Any],
) -> dict[str, Any]:
    """Write RP's definition here, which the Pilot's own RP has to accept, and what was synced."""
    data = state.from_dict(synced, label)
    assert data is not None
    with _changing(place, label, notify), filelock.hold(place.definition_lock):
        change = definition.restore(label, fields)
        if change.diff:
            python = data.pilot.folder / "venv" / "bin" / "python"
            definition.write(change, backups=place.backups(), python=python)
        state.write(place, replace(data, definition=change.path, host=None))
    return {"path": str(change.path), "diff": change.diff}


def _builds(place: layout.Layout, notify: Notify) -> list[dict[str, Any]]:
    """List all builds."""
    return [_kept(one) for one in inventory.builds(place)]


def _collect(place: layout.Layout, notify: Notify, *, keep: int, dry_run: bool) -> dict[str, Any]:
    """Remove builds that nothing refers to, what was shipped for builds, and old code."""
    result = inventory.collect(place, keep=keep, dry_run=dry_run, notify=notify)
    shipped = Store(place).clear(dry_run=dry_run) + clear_code(place, dry_run=dry_run)
    return {
        "builds": [_kept(one) for one in result.builds],
        "forgotten": [state.to_dict(one) for one in result.forgotten],
        "wheels": [str(path) for path in result.wheels],
        "compiled": [str(path) for path in result.compiled],
        "bytes": result.bytes + shipped,
    }


def _kept(one: inventory.Kept) -> dict[str, Any]:
    known = manifest.to_dict(one.manifest) if one.manifest else None
    return {**vars(one), "folder": str(one.folder), "manifest": known}


VERBS: Mapping[str, Verb] = {
    "facts": _facts,
    "mpi": _mpi,
    "reaches_index": _reaches_index,
    "lacks": _lacks,
    "take_uv": _take_uv,
    "look": _look,
    "venv": _venv,
    "build": _build,
    "record": _record,
    "builds": _builds,
    "collect": _collect,
}
