"""Files between a client and the host where its tasks run.

Before a call is sent, the files of the client that it refers to are there; each is sent once.
What tasks give as files stays there, for other tasks, and comes when it is asked for; what is to
be kept with the results comes by itself, while the run goes on.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from scalems.errors import BackendError, ScalemsError
from scalems.host.address import HostError
from scalems.workflow import file
from scalems.workflow.large import Large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from scalems.workflow.backend import Notify
    from scalems.workflow.call import Call
    from scalems.workflow.large import Payload

    Ready = Callable[[int, ScalemsError | None], None]
    """Told the id of a call whose files are there, or why they are not."""

# A string of 64 characters in a pickle of protocol 4 and later, at any depth: bytes and text
# stand in pickles as they are. It is a file only if its digest is known to be one.
_DIGEST = re.compile(rb"\x8c@([0-9a-f]{64})")
_PIECE = 4 << 20  # bytes
_LOST = (BackendError, HostError)
_TOLD = 1 << 20  # bytes of files that are worth a line


def referred(payload: Payload) -> set[str]:
    """Return what may be digests of files in an encoded value."""
    if isinstance(payload, Large):
        parts = [memoryview(payload.stream), *(blob.frame() for blob in payload.blobs)]
    else:
        parts = [memoryview(payload)]
    return {digest.decode() for part in parts for digest in _DIGEST.findall(part)}


class Carrier(Protocol):
    """The connection to the host."""

    def ask(self, verb: str, **args: Any) -> tuple[Any, bytes]:
        """Ask for something; return the answer and the data with it."""

    def post(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send a message."""


class Staging:
    """Brings files to a host and back, in threads of its own.

    :param where: the host, for people.
    """

    def __init__(self, where: str, notify: Notify) -> None:
        self._where = where
        self._notify = notify
        self._changed = threading.Condition()  # its lock is held while anything below is used
        self._carrier: Carrier | None = None
        self._there: set[str] = set()  # digests of what the host has
        self._waiting: dict[int, set[str]] = {}  # calls, and what they wait for
        self._calls: deque[tuple[int, Ready]] = deque()
        self._wanted: deque[str] = deque()  # what is to come by itself
        self._coming = False
        self._closed = False
        self._started = False
        self._fetching = threading.Lock()

    # --- to the host ----------------------------------------------------------------------

    def needs(self, call: Call, ready: Ready) -> bool:
        """Take a call if it has to wait for files; tell if it was taken.

        :param ready: told when they are there, in a thread.
        """
        found = referred(call.payload) | referred(call.function)
        files = {one for one in found - self._there if file.known(one) is not None}
        if not files:
            return False
        with self._changed:
            self._waiting[call.id] = files
            self._calls.append((call.id, ready))
            self._start()
            self._changed.notify_all()
        return True

    def waits(self, call_id: int) -> bool:
        """Tell if a call waits for files."""
        with self._changed:
            return call_id in self._waiting

    def forget(self, call_id: int) -> bool:
        """Let a call wait no more; tell if it did."""
        with self._changed:
            return self._waiting.pop(call_id, None) is not None

    # --- from the host --------------------------------------------------------------------

    def made(self, digests: Iterable[str]) -> None:
        """Note that the host has files that tasks have made."""
        with self._changed:
            new = [digest for digest in digests if digest not in self._there]
            self._there.update(new)
            self._wanted += [digest for digest in new if file.kept_path(digest) is not None]
            if self._wanted:
                self._start()
                self._changed.notify_all()

    def fetch(self, digest: str, target: Path) -> bool:
        """See :class:`scalems.workflow.file.Source`."""
        carrier = self._carrier
        if carrier is None or digest not in self._there:
            return False
        with self._fetching:
            if target.is_file():
                return True  # it came while we waited
            try:
                self._bring(carrier, digest, target)
            except _LOST:
                self._lose(carrier)
                return False
            except (ScalemsError, OSError) as error:
                self._notify(f"a file of {self._where} could not be fetched: {error}")
                return False
        return True

    def finish(self, *, abort: bool = False) -> None:
        """Wait for what is to come by itself; nothing comes any more afterwards."""
        with self._changed:
            left = len(self._wanted) + self._coming
            if left and abort:
                self._notify(
                    f"{left} files stay on {self._where}: their tasks will be computed again"
                )
                self._wanted.clear()
            elif left:
                self._notify(f"fetching {left} files of {self._where} to keep them")
            self._changed.wait_for(
                lambda: self._carrier is None or not (self._wanted or self._coming)
            )
            self._closed = True
            self._changed.notify_all()
        if self in file.sources:
            file.sources.remove(self)

    # --- the connection -------------------------------------------------------------------

    def connected(self, carrier: Carrier) -> None:
        """Use a connection; files of former ones are there still."""
        with self._changed:
            self._carrier = carrier
            self._changed.notify_all()
        if self not in file.sources:
            file.sources.append(self)

    def disconnected(self) -> None:
        """Wait for another connection."""
        with self._changed:
            self._carrier = None
            self._changed.notify_all()

    def _lose(self, carrier: Carrier) -> None:
        if self._carrier is carrier:
            self.disconnected()

    # --- the threads ----------------------------------------------------------------------

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for work in (self._send_files, self._fetch_files):
                threading.Thread(target=work, name="scalems-files", daemon=True).start()

    def _send_files(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._carrier and self._calls))
                if self._closed:
                    return
                assert self._carrier is not None
                carrier, (call_id, ready) = self._carrier, self._calls.popleft()
                files = self._waiting.get(call_id, set()) - self._there
            error: ScalemsError | None = None
            try:
                self._ship(carrier, sorted(files))
            except ScalemsError as failed:
                error = failed
            except OSError as failed:
                error = file.FileError(f"a file cannot be sent: {failed}")
            if isinstance(error, _LOST):
                with self._changed:  # there may be another connection
                    self._calls.appendleft((call_id, ready))
                self._lose(carrier)
            else:
                ready(call_id, error)

    def _ship(self, carrier: Carrier, digests: Sequence[str]) -> None:
        """Send what the host does not have.

        :raises ScalemsError: a file is not what it was, or did not arrive.
        """
        if not digests:
            return
        lacking, _ = carrier.ask("lacks_files", digests=list(digests))
        files = [found for digest in lacking if (found := file.known(digest)) is not None]
        total = sum(one.size for one in files)
        if total >= _TOLD:
            names = files[0].name if len(files) == 1 else f"{len(files)} files"
            self._notify(f"sending {names} to {self._where}, {total / 1e6:.1f} MB")
        for one in files:
            self._send(carrier, one)
        if files:
            still, _ = carrier.ask("lacks_files", digests=[one.digest for one in files])
            if still:
                names = ", ".join(one.name for one in files if one.digest in still)
                raise file.FileError(f"did not arrive whole on {self._where}: {names}")
        with self._changed:
            self._there.update(digests)

    @staticmethod
    def _send(carrier: Carrier, one: file.File) -> None:
        path = one.path
        status = path.stat()
        piece = {"digest": one.digest, "size": one.size, "mode": status.st_mode & 0o111}
        with path.open("rb") as opened:
            offset = 0
            while True:
                data = opened.read(_PIECE)[: one.size - offset]
                carrier.post({"piece": {**piece, "offset": offset, "count": len(data)}}, data)
                offset += len(data)
                if not data or offset >= one.size:
                    return

    def _fetch_files(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._carrier and self._wanted))
                if self._closed:
                    return
                digest, self._coming = self._wanted.popleft(), True
            if (target := file.kept_path(digest)) is not None:
                self.fetch(digest, target)
            with self._changed:
                self._coming = False
                self._changed.notify_all()

    @staticmethod
    def _bring(carrier: Carrier, digest: str, target: Path) -> None:
        """Write a file here when all of it has come, and is what is meant."""
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        hashed, offset, size = hashlib.sha256(), 0, 1
        with file.written_beside(target) as part:
            with part.open("wb") as opened:
                while offset < size:
                    told, data = carrier.ask(
                        "read_file", digest=digest, offset=offset, count=_PIECE
                    )
                    hashed.update(data)
                    opened.write(data)
                    offset, size = offset + len(data), int(told["size"])
                    if not data:
                        break
                opened.flush()
                os.fsync(opened.fileno())
            if hashed.hexdigest() != digest:
                raise file.FileError("what came is not what the task has made")
            part.chmod(0o444 | int(told["mode"]))
