"""Warm pilots: a session, a pilot and Workers that live on between scripts.

Each has a record in the user's state folder, written by its session server once a Worker
has proved what it runs in, and removed by it at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import BackendError, UsageError
from scalems.host.files import make_private, write_atomic
from scalems.host.process import lives
from scalems.radical import channel, processes, runs
from scalems.tomlfile import near
from scalems.workflow.stamp import hostname

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scalems.env import Build

FORMAT = 1
_SOCKET = "socket"
_ANSWER_LIMIT = 5.0  # seconds for a server to answer
_STOP_LIMIT = 60.0  # seconds for RP to give everything back


@dataclass(frozen=True, kw_only=True)
class WarmPilot:
    """A warm pilot as its record tells it."""

    name: str
    label: str
    """RP's label of the resource."""
    env: str
    """Name of the Task venv."""
    input_digest: str
    content_digest: str
    slots: int
    """How many calls run at a time."""
    host: str
    pid: int
    """Process of the session server, on that host."""
    run: str
    folder: str
    """Of the run, with its logs."""
    address: str
    """Of the local socket."""
    key: str
    """What a client must know, in hexadecimal digits."""
    started: float
    """Seconds since the epoch."""
    until: float
    """When its run time ends, in seconds since the epoch."""
    idle: float
    """Seconds after which it ends when nobody uses it."""
    lines: Mapping[str, list[str]] = field(default_factory=dict)
    """Shell lines that its Workers were started with."""

    @property
    def alive(self) -> bool:
        """Whether its server runs, as far as can be told from this host."""
        return self.host != hostname() or lives(self.pid)

    @property
    def here(self) -> str:
        """The host that this is looked at from."""
        return hostname()

    def why_not(self, label: str, build: Build, slots: int | None) -> str:
        """Return why it cannot run the calls of a workflow; empty if it can."""
        if self.label != label:
            return f"it is a pilot of {self.label}"
        if self.env != build.name:
            return f"its Workers run in the Task venv {self.env!r}"
        if (self.input_digest, self.content_digest) != (build.input_digest, build.content_digest):
            return f"it was started with another build of {self.env!r}"
        if self.lines != build.lines.to_dict():
            return f"the shell lines of {self.env!r} have changed since it was started"
        if slots is not None and slots != self.slots:
            return f"it runs {self.slots} calls at a time, not {slots}"
        if self.host != self.here:
            return f"it was started on {self.host}, and this is {self.here}"
        return ""


def records() -> Path:
    """Return the folder of the records."""
    return runs.state() / "pilots"


def new_address() -> Path:
    """Return a name for a socket, in a new folder that is private to the user."""
    # Not in the state folder: a socket's name has at most 107 bytes, and network file
    # systems do not always have sockets.
    for place in (None, "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="scalems-pilot-", dir=place))
        if len(os.fsencode(folder / _SOCKET)) <= 100:
            return folder / _SOCKET
        folder.rmdir()
    raise AssertionError("no name is that long in /tmp")


def new_key() -> str:
    """Return a key that nobody can guess, in hexadecimal digits."""
    return secrets.token_hex(32)


def write(pilot: WarmPilot) -> None:
    """Write the record of a pilot; only its user can read it."""
    folder = records()
    make_private(folder)
    text = json.dumps({"format": FORMAT, **asdict(pilot)}, indent=2)
    write_atomic(_record(pilot.name), text, mode=0o600)


def remove(pilot: WarmPilot) -> None:
    """Remove the record of a pilot, and its socket."""
    _record(pilot.name).unlink(missing_ok=True)
    shutil.rmtree(Path(pilot.address).parent, ignore_errors=True)


def known() -> list[WarmPilot]:
    """Return all warm pilots that have a record, the newest first."""
    return sorted(_read(), key=lambda pilot: -pilot.started)


def named(name: str, among: Sequence[WarmPilot] | None = None) -> WarmPilot:
    """Return a warm pilot.

    :param among: those that there are, by default on this machine.
    :raises UsageError: there is none of that name; near names are offered.
    """
    pilots = {pilot.name: pilot for pilot in (known() if among is None else among)}
    if name not in pilots:
        raise UsageError(
            f"there is no warm pilot {name!r}{near(name, pilots)}",
            remedy="see `scalems pilot list`, or start one with `scalems pilot start`",
        )
    return pilots[name]


def check_free(name: str) -> None:
    """Refuse a name that a warm pilot has.

    :raises UsageError: it has, or no file can be named so.
    """
    if not name or len(name) > 60 or not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(
            f"a warm pilot cannot be named {name!r}", remedy="use letters, digits, - and _"
        )
    for pilot in known():
        if pilot.name == name and pilot.alive:
            raise UsageError(
                f"there is a warm pilot {name!r} already",
                remedy=f"stop it with `scalems pilot stop {name}`, or take another --name",
            )


def connect(pilot: WarmPilot) -> Connection[Any, Any]:
    """Connect with a warm pilot's server.

    :raises OSError: it does not answer.
    """
    try:
        return Client(pilot.address, family="AF_UNIX", authkey=bytes.fromhex(pilot.key))
    except (EOFError, AuthenticationError) as error:
        raise ConnectionRefusedError(str(error) or "it closed the connection") from error


def ask(pilot: WarmPilot) -> dict[str, Any] | None:
    """Return what a warm pilot's server says of itself; ``None`` if it does not answer."""
    if not pilot.alive:
        return None
    with contextlib.suppress(OSError, EOFError), connect(pilot) as link:
        channel.send(link, "report")
        while link.poll(_ANSWER_LIMIT):
            kind, value = channel.receive(link)
            if kind == "report":
                return dict(value)
    return None


def log(pilot: WarmPilot, lines: int = 20) -> list[str]:
    """Return the end of what a warm pilot's server has printed.

    :raises BackendError: it cannot be read.
    """
    path = Path(pilot.folder) / "server.log"
    try:
        return path.read_text(errors="replace").splitlines()[-lines:]
    except OSError as error:
        raise BackendError(f"{path}: there are no logs: {error.strerror}") from error


def stop(pilot: WarmPilot) -> None:
    """End a warm pilot, and all that is left of its run.

    :raises BackendError: it runs on another host.
    """
    if pilot.host != hostname():
        raise BackendError(
            f"the warm pilot {pilot.name!r} was started on {pilot.host}, and this is {hostname()}",
            remedy=f"run `scalems pilot stop {pilot.name}` there",
        )
    with contextlib.suppress(OSError), connect(pilot) as link:
        channel.send(link, "close")
        limit = time.monotonic() + _STOP_LIMIT
        while pilot.alive and time.monotonic() < limit:
            time.sleep(0.05)
    processes.sweep(pilot.run, Path(pilot.folder))
    remove(pilot)


def age(seconds: float) -> str:
    """Return a duration in one short word, for people."""
    seconds = max(0.0, seconds)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def now() -> float:
    """Return the time, in seconds since the epoch."""
    return time.time()


def _record(name: str) -> Path:
    return records() / f"{name}.json"


def _read() -> Iterator[WarmPilot]:
    for path in records().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") == FORMAT:  # else of another version of scalems
                yield WarmPilot(**fields)
