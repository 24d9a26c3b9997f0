"""This side of a connection to a host: ships the code and files, asks, and hears the answers."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scalems.env.locking import Notify
from scalems.env.remote import boot, runtime
from scalems.errors import EnvironmentNotReady, ScalemsError, UsageError
from scalems.host import wire
from scalems.host.address import Host, HostError
from scalems.host.ssh import Channel

_ENTRY = "scalems.env.remote.agent"
_NOISE = 1 << 20  # bytes of what start-up files may print
_PATIENCE = 60.0  # seconds for start-up files
_QUIET = (
    "let ~/.bashrc there do nothing in shells that are not interactive, by a first line: "
    "[[ $- == *i* ]] || return"
)
_SHOWN = 10 << 20  # bytes of a file whose way is worth a line
_ERRORS = {1: ScalemsError, 2: UsageError, 3: EnvironmentNotReady}


def silent(step: str, *, detail: bool = False) -> None:
    """Tell nobody."""


class Link:
    """A connection to scalems on a host, which runs there as long as it is open.

    :ivar hostname: the host's own name.
    :ivar root: its state folder.
    """

    def __init__(self, host: Host, *, notify: Notify = silent, entry: str = _ENTRY) -> None:
        """Connect.

        :param entry: module that serves this end there.
        :raises HostError: it cannot be reached, or scalems cannot run there.
        """
        self.host = host
        self._lock = threading.Lock()
        self._notify = notify
        self._entry = entry
        self.channel = Channel(host, runtime.command(host.python))
        try:
            self._begin()
        except BaseException:
            self.channel.close()
            raise

    def _begin(self) -> None:
        self._write(runtime.first_line())
        self._skip_noise()
        digest, code = runtime.pack()
        self._send({"digest": digest, "root": self.host.root, "entry": self._entry})
        if not self._receive().get("runtime"):
            self._notify(f"{self.host.name}: sending scalems, {len(code) >> 10} kB")
            self._send({"size": len(code)})
            self._write(code)
        told = self._receive()
        self.hostname, self.root = str(told["host"]), Path(told["root"])

    def _skip_noise(self) -> None:
        """Pass over what the user's start-up files print there."""
        watch = threading.Timer(_PATIENCE, self.channel.kill)
        watch.daemon = True
        watch.start()
        try:
            self._read_noise()
        finally:
            watch.cancel()

    def _read_noise(self) -> None:
        seen, began = 0, time.monotonic()
        while seen < _NOISE:
            line = self.channel.stdout.readline(_NOISE)
            seen += len(line)
            if line.strip() == boot.READY.encode():
                return
            if line.strip() == runtime.MISSING.encode():
                there = self.channel.stdout.read(_NOISE).decode(errors="replace").split("\n")
                raise self._no_python(sorted({name for name in there if name.strip()}))
            if not line:
                raise self._not_begun(late=time.monotonic() - began >= _PATIENCE)
        self.channel.kill()  # it would not hear of an end
        raise HostError(
            f"{self.host.name} prints without end where an answer was expected", remedy=_QUIET
        )

    def _not_begun(self, *, late: bool) -> HostError:
        """Return why the command was not begun there, which start-up files may hinder."""
        failure = self.channel.failure()
        if late:
            return HostError(
                f"{self.host.name} has not begun after {_PATIENCE:.0f} s what it was asked for: "
                "start-up files there may wait for input",
                remedy=_QUIET,
            )
        if "try it by hand" not in (failure.remedy or ""):
            return failure
        return HostError(failure.cause, remedy=f"{failure.remedy}; if that works, {_QUIET}")

    def _no_python(self, there: Sequence[str]) -> HostError:
        wanted = "{}.{}".format(*sys.version_info[:2])
        asked = f" as {self.host.python!r}" if self.host.python else ""
        return HostError(
            f"{self.host.name} has no Python {wanted}{asked}, which the client has; there is "
            f"{', '.join(there) or 'none'}",
            remedy="name one with `python` in the resource config (a full path, if a module "
            "provides it), or run scalems from a Python that the host has, or bring one there: "
            "scalems env bundle --with-python, then `sh FILE --verify` on the host",
        )

    def call(self, verb: str, *, notify: Notify | None = None, **args: Any) -> Any:
        """Ask for something, and wait for it.

        :param notify: told what is done there.
        :raises ScalemsError: it failed there, as it would have here.
        :raises HostError: the connection was lost.
        """
        tell = notify or self._notify
        with self._lock, self._ended_early():
            self._send({"call": verb, "args": args})
            while True:
                message = self._receive()
                if "note" not in message:
                    return message.get("done")
                tell(str(message["note"]), detail=bool(message["detail"]))

    def ship(self, files: Sequence[tuple[str, Path]], *, notify: Notify) -> None:
        """Send the files that the host does not have, each with its SHA-256.

        :raises HostError: the connection was lost.
        :raises ScalemsError: they did not arrive, as on a full disk.
        """
        wanted = {(sha256, path.name): path for sha256, path in files}
        lacking = self._lacking(wanted)
        total = sum(wanted[one].stat().st_size for one in lacking)
        sent = 0
        if total:
            notify(f"{self.host.name}: sending {_files(lacking)}, {_size(total)}")
        for sha256, name in lacking:
            path = wanted[sha256, name]
            size = path.stat().st_size
            notify(f"sending {name}: {_size(sent)} of {_size(total)}", detail=True)
            with self._lock, self._ended_early(), path.open("rb") as stream:
                self._send({"file": {"sha256": sha256, "name": name, "size": size}})
                while block := stream.read(1 << 18):
                    self._write(block)
                    sent += len(block)
                    if size > _SHOWN:
                        notify(f"sending {name}: {_size(sent)} of {_size(total)}", detail=True)
        if lacking and (lost := self._lacking(wanted)):
            raise ScalemsError(
                f"{_files(lost)} did not arrive whole on {self.host.name}",
                remedy=f"make room in {self.root} there, then run it again",
            )

    def _lacking(self, wanted: Any) -> list[tuple[str, str]]:
        if not wanted:
            return []
        found = self.call("lacks", files=[list(one) for one in wanted])
        return [(sha256, name) for sha256, name in found]

    def close(self) -> None:
        """End scalems there, and the connection."""
        self.channel.close()

    @contextlib.contextmanager
    def _ended_early(self) -> Iterator[None]:
        """Nothing that was said half can be gone on with."""
        try:
            yield
        except ScalemsError:
            raise
        except BaseException:
            self.channel.close()
            raise

    def post(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send a message and wait for nothing; whoever calls :meth:`next` gets the answer.

        :raises HostError: the connection was lost.
        """
        with self._lock:
            self._send(message, data)

    def next(self) -> tuple[dict[str, Any], bytes]:
        """Return the next message from there, with the data that follow it.

        To be used in one thread, and :meth:`call` no more: what it asks for is not told apart.

        :raises HostError: the connection was lost.
        """
        message = self._read()
        return message, self.channel.stdout.read(message["bytes"]) if "bytes" in message else b""

    def _send(self, message: dict[str, Any], data: bytes = b"") -> None:
        try:
            wire.send(self.channel.stdin, message, data)
        except (OSError, ValueError) as error:
            raise self.channel.failure() from error

    def _write(self, data: bytes) -> None:
        try:
            self.channel.stdin.write(data)
            self.channel.stdin.flush()
        except (OSError, ValueError) as error:
            raise self.channel.failure() from error

    def _receive(self) -> dict[str, Any]:
        message = self._read()
        self.check(message)
        return message

    def _read(self) -> dict[str, Any]:
        try:
            message = wire.receive(self.channel.stdout)
        except ValueError as error:
            raise HostError(f"{self.host.name} gave no answer that can be read: {error}") from error
        if message is None:
            raise self.channel.failure()
        return message

    def check(self, message: dict[str, Any]) -> None:
        """See whether an answer is one.

        :raises ScalemsError: what was asked for failed there, as it would have here.
        """
        if "error" in message:
            told = message["error"]
            kind = _ERRORS.get(told.get("code", 1), ScalemsError)
            raise kind(f"on {self.host.name}: {told['cause']}", remedy=told.get("remedy"))
        if "crash" in message:
            raise HostError(f"scalems failed on {self.host.name}:\n{message['crash']}")


@contextlib.contextmanager
def connect(host: Host, *, notify: Notify = silent) -> Iterator[Link]:
    """Yield a connection to a host.

    :raises HostError: it cannot be reached, or scalems cannot run there.
    """
    link = Link(host, notify=notify)
    try:
        yield link
    finally:
        link.close()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file to ship."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(files: Sequence[tuple[str, str]]) -> str:
    return files[0][1] if len(files) == 1 else f"{len(files)} files"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count > 99_999 else f"{count / 1000:.1f} kB"
