"""A call process: runs one call after another for the pool that started it.

Started by :class:`scalems.workflow.pool.CallPool` as the leader of a session of its
own, with one end of a socket pair. It never outlives its pool: a thread watches the
socket, and ends the whole process group when the other end is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scalems.workflow import large
from scalems.workflow.block import Runner
from scalems.workflow.call import Call, Outcome
from scalems.workflow.large import Large
from scalems.workflow.mpi import execute
from scalems.workflow.needs import NONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from scalems.workflow.large import Payload

T = TypeVar("T")

READY = b"ready"
"""Sent once by a call process when it can take calls."""

RECORDED = b"recorded"
"""Sent by a call process now and then while it records what the items of a block give."""

ENDED = b"ended"
"""Sent by a call process when it has done with a block."""

OUTPUT_LIMIT = 1_000_000
"""Bytes kept of each of a call's output streams: the last ones."""

BLOBS = b"blobs "
"""Sent by a call process, with their number, before those of an item of a block."""

APART = 1 << 16
"""Bytes above which a payload travels by itself, to be copied less."""

_PARENT_POLL = 2.0  # seconds
_TELL_EVERY = 0.02  # seconds between two words about a block that runs


def main(descriptor: int, claims: int, records: int) -> None:
    """Serve calls from the socket until its other end is closed.

    :param claims: a pipe with a byte for each call that may be begun.
    :param records: a file for what the items of blocks give.
    """
    link: Connection[Any, Any] = Connection(descriptor)
    beside = socket.socket(fileno=os.dup(descriptor))
    for number in (descriptor, claims, records):
        os.set_inheritable(number, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve = _Serve(link, beside, _Claims(claims), records)
    parent = os.getppid()
    threading.Thread(
        target=_watch, args=(descriptor, parent), name="scalems-watch", daemon=True
    ).start()
    try:
        path = pickle.loads(link.recv_bytes())
        if path is not None:
            sys.path[:] = path
        link.send_bytes(READY)
        while True:
            number, calls = _received(link, beside)
            if calls and calls[0].items is not None:
                serve.block(number, calls[0])
            else:
                serve.calls(number, calls)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the pool was closed


class _Serve:
    """Runs what the pool sends."""

    def __init__(
        self, link: Connection[Any, Any], beside: socket.socket, claims: _Claims, records: int
    ) -> None:
        self._link = link
        self._beside = beside  # the same socket, for file descriptors
        self._claims = claims
        self._records = records
        self._pid = os.getpid()
        self._folder = Path.cwd()
        self._streams = _Streams()

    def calls(self, number: int, calls: list[Call]) -> None:
        """Run calls, and send what each gives."""
        for call in self._claims.some(number, calls):
            with self._ready():
                outcome = execute(call)
            out, err = self._streams.collected()
            self._send(replace(outcome, stdout=out, stderr=err))

    def block(self, number: int, call: Call) -> None:
        """Run the items of a block, and record what each gives."""
        runner = Runner(call, self._records)
        told = time.monotonic()
        with runner.ready(), _interruptible() as interrupts:
            for position in self._claims.some(number, call.items or ()):
                self._streams.restore()
                interrupts.raised = True
                runner.run(position)
                interrupts.raised = False
                self._moved()
                self._streams.flush()
                self._own()
                if runner.blobs:
                    self._link.send_bytes(BLOBS + b"%d" % len(runner.blobs))
                    large.send(self._beside, runner.blobs)
                runner.record(*self._streams.collected())
                if time.monotonic() - told > _TELL_EVERY:
                    self._link.send_bytes(RECORDED)
                    told = time.monotonic()
        self._link.send_bytes(ENDED)

    def _send(self, outcome: Outcome) -> None:
        payload = outcome.payload
        if isinstance(payload, Large):
            count = len(payload.blobs)
            outcome = replace(outcome, payload=payload.stream)
            self._link.send_bytes(pickle.dumps((outcome, count), protocol=5))
            large.send(self._beside, payload.blobs)
        elif len(payload) <= APART:
            self._link.send_bytes(pickle.dumps((outcome, 0), protocol=5))
        else:
            self._link.send_bytes(pickle.dumps((replace(outcome, payload=b""), -1), protocol=5))
            self._link.send_bytes(payload)

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """Make this process as good as new for a call."""
        self._streams.restore()
        with _interruptible() as interrupts:
            interrupts.raised = True
            try:
                yield
            finally:
                interrupts.raised = False
                self._moved()
                self._streams.flush()
        self._own()

    def _moved(self) -> None:
        """Go back to the folder that calls begin in."""
        with contextlib.suppress(OSError):
            os.chdir(self._folder)

    def _own(self) -> None:
        if os.getpid() != self._pid:
            # The function forked and this is the copy: the other one reports.
            os._exit(0)


def _received(link: Connection[Any, Any], beside: socket.socket) -> tuple[int, list[Call]]:
    number, calls = pickle.loads(link.recv_bytes())

    def whole(payload: Any) -> Payload:
        if payload is None:
            return link.recv_bytes()
        if type(payload) is tuple:
            stream, count = payload
            return Large(stream, large.receive(beside, count))
        return payload  # type: ignore[no-any-return]

    return number, [
        Call(
            id=ident,
            name=name,
            payload=whole(payload),
            area=area,
            needs=needs or NONE,
            items=items,
            function=function,
        )
        for ident, name, payload, area, needs, items, function in calls
    ]


class _Claims:
    """Claims calls before they are begun: the pool may have taken back those at the end.

    Each is claimed by a byte, the number of the message that brought it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ahead: bytes = b""  # of the next message, which is on its way

    def some(self, number: int, calls: Iterable[T]) -> Iterator[T]:
        """Yield the calls of a message as they are claimed."""
        for call in calls:
            with contextlib.suppress(BlockingIOError):
                self._ahead = self._ahead or os.read(self._descriptor, 1)
            if not self._ahead or self._ahead[0] != number:
                return
            self._ahead = b""
            yield call


def tail(descriptor: int) -> bytes:
    """Return the end of a file, by one byte more than is kept of it if it is longer."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, OUTPUT_LIMIT + 1, max(0, size - OUTPUT_LIMIT - 1)) if size else b""


def cut(data: bytes, *, partial: bool = False) -> str:
    """Return output as a text, of limited length.

    :param partial: whether something before it is gone already.
    """
    text = data[-OUTPUT_LIMIT:].decode("utf-8", "replace")
    if partial or len(data) > OUTPUT_LIMIT:
        return f"[... only the end is kept ...]\n{text}"
    return text


def _watch(descriptor: int, parent: int) -> None:
    # PR_SET_PDEATHSIG would end only this process, and leave what a call started; and a
    # socket alone would not tell while some fork of the parent still holds its other end.
    poller = select.poll()
    poller.register(descriptor, 0)  # hang-up and errors only
    while not poller.poll(_PARENT_POLL * 1000) and os.getppid() == parent:
        pass
    if os.getppid() != parent:
        os.killpg(0, signal.SIGKILL)
    # The pool has closed its end: the main thread sees this too, and leaves in good
    # order unless it is in a call.
    threading.Event().wait(_PARENT_POLL)
    os.killpg(0, signal.SIGKILL)


class _Interrupts:
    """Whether a SIGINT is to interrupt what runs: only a call, never what is between two."""

    raised = False

    def __call__(self, number: int, frame: object) -> None:
        if self.raised:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupts]:
    interrupts = _Interrupts()
    try:
        signal.signal(signal.SIGINT, interrupts)
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Streams:
    """Standard streams that are good again for each call, whatever the last one did to them."""

    def __init__(self) -> None:
        self._kept = [(number, os.dup(number)) for number in (1, 2)]
        kept = [os.fstat(number) for number in (1, 2)]
        self._files = [(status.st_dev, status.st_ino) for status in kept]
        self._names: tuple[tuple[str, TextIO], ...] = ()
        self._open()
        faulthandler.enable(self._kept[1][1], all_threads=False)  # ours tell nothing

    def _open(self) -> None:
        # Line buffering, so that a crash does not take with it what was printed before.
        sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        self._names = (("stdout", sys.stdout), ("stderr", sys.stderr))

    def collected(self) -> tuple[str, str]:
        """Return what was written since the last time, and forget it."""
        return self._collected(0), self._collected(1)

    def _collected(self, index: int) -> str:
        descriptor = self._kept[index][1]
        data = tail(descriptor)
        if data:
            os.ftruncate(descriptor, 0)
        return cut(data)

    def restore(self) -> None:
        """Make the streams good again, if they are not."""
        for (number, kept), file in zip(self._kept, self._files, strict=True):
            try:
                status = os.fstat(number)
                same = (status.st_dev, status.st_ino) == file
            except OSError:
                same = False
            if not same:
                with contextlib.suppress(OSError):
                    os.dup2(kept, number)
        if any(stream.closed for _, stream in self._names):
            self._open()
        for name, stream in self._names:
            setattr(sys, name, stream)

    def flush(self) -> None:
        """Write what was printed and is not written yet."""
        for stream in (sys.stdout, sys.stderr, *(stream for _, stream in self._names)):
            with contextlib.suppress(Exception):
                stream.flush()
