"""A call process: runs one call after another for the pool that started it.

Started by :class:`scalems.workflow.pool.CallPool` as the leader of a session of its
own, with one end of a socket pair. It never outlives its pool: a thread watches the
socket, and ends the whole process group when the other end is gone.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import faulthandler
import io
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scalems.workflow import file
from scalems.workflow.call import Call, Outcome, marked
from scalems.workflow.large import Large
from scalems.workflow.link import Link
from scalems.workflow.mpi import execute
from scalems.workflow.needs import NONE
from scalems.workflow.records import Recorder
from scalems.workflow.runner import Runner, interruptible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import FrameType

    from scalems.workflow.large import Blob, Payload

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

_FIELDS = [field.name for field in fields(Outcome)]
_PAYLOAD, _STDOUT, _STDERR = (_FIELDS.index(name) for name in ("payload", "stdout", "stderr"))
_PARENT_POLL = 2.0  # seconds
_TELL_EVERY = 0.02  # seconds between two words about a block that runs
_LOOK_EVERY = 0.001  # seconds between two thorough looks at the streams, while a block runs
_SHORT = 5e-6  # seconds in which a call may have written something, and has done nothing else


def main(descriptor: int, claims: int, records: int) -> None:
    """Serve calls from the socket until its other end is closed.

    :param claims: a pipe with a byte for each call that may be begun.
    :param records: a file for what the items of blocks give.
    """
    link = Link(socket.socket(fileno=descriptor))
    for number in (descriptor, claims, records):
        os.set_inheritable(number, False)
    serve = _Serve(link, _Claims(claims), records)
    parent = os.getppid()
    threading.Thread(
        target=_watch, args=(descriptor, parent), name="scalems-watch", daemon=True
    ).start()
    try:
        path = pickle.loads(link.receive())
        if path is not None:
            sys.path[:] = path
        link.send(READY)
        while True:
            number, calls = _received(link)
            if calls and calls[0].items is not None:
                serve.block(calls[0])
            else:
                serve.calls(number, calls)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the pool was closed


class _Serve:
    """Runs what the pool sends."""

    def __init__(self, link: Link, claims: _Claims, records: int) -> None:
        self._link = link
        self._claims = claims
        self._recorder = Recorder(records)
        self._pid = os.getpid()
        self._folder = str(Path.cwd())
        self._opened = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        self._streams = _Streams()
        self.touched = self._streams.touched
        self._interrupts = _Interrupts()
        self._payload: Payload = b""  # of the last block
        self._told = self._looked = 0.0

    def calls(self, number: int, calls: list[Call]) -> None:
        """Run calls, and send what each gives."""
        for call in self._claims.some(number, calls):
            self._interrupts.begin()
            outcome = execute(call)
            self._interrupts.end()
            self._send(outcome, *self._streams.collected(self._pid))
            del outcome  # it may be large
            self._renew()

    def block(self, call: Call) -> None:
        """Run the items of a block, and record what each gives."""
        if call.payload:
            self._payload = call.payload
        else:  # more items of the last one
            call = replace(call, payload=self._payload)
        self._told = self._looked = time.perf_counter()
        self._interrupts.begin()
        with marked(call), file.using(call.area):
            Runner(call, self._recorder, self).run()
        self._interrupts.end()
        self._link.send(ENDED)

    def look(self, took: float) -> bool:
        """Tell if an item has to be looked after: it has written something, or had the time to
        do other things.

        :param took: seconds that it took.
        """
        now = time.perf_counter()
        return took > _SHORT or now - self._looked > _LOOK_EVERY or self._streams.are_written()

    def renew(self) -> tuple[str, str]:
        """Return what an item has written; make this process as good as new."""
        now = time.perf_counter()
        if whole := now - self._looked > _LOOK_EVERY:
            self._looked = now
        written = self._streams.collected(self._pid, whole=whole)
        self._interrupts.begin()
        self._renew()
        return written

    def tell(self) -> None:
        """Tell the pool, now and then, that items have been recorded."""
        now = time.perf_counter()
        if now - self._told > _TELL_EVERY:
            self._told = now
            self._link.send(RECORDED)

    def send(self, blobs: Sequence[Blob]) -> None:
        """Send what is large in the value of an item that is recorded then."""
        self._link.send(BLOBS + b"%d" % len(blobs))
        self._link.send_blobs(blobs)

    def _send(self, outcome: Outcome, out: str, err: str) -> None:
        payload = outcome.payload
        values = [*outcome.__dict__.values()]
        values[_PAYLOAD], values[_STDOUT], values[_STDERR] = b"", out, err
        if isinstance(payload, Large):
            values[_PAYLOAD] = payload.stream
            self._link.send(pickle.dumps((len(payload.blobs), values), protocol=5))
            self._link.send_blobs(payload.blobs)
        elif len(payload) <= APART:
            values[_PAYLOAD] = payload
            self._link.send(pickle.dumps((0, values), protocol=5))
        else:
            self._link.send(pickle.dumps((-1, values), protocol=5))
            self._link.send(payload)

    def _renew(self) -> None:
        """Make this process as good as new after a call."""
        try:
            os.fchdir(self._opened)  # in less time than by its name
        except OSError:  # a call has closed what it did not open
            with contextlib.suppress(OSError):  # it may be gone
                os.chdir(self._folder)
        self._streams.renew()


def outcome_of(values: Sequence[object]) -> Outcome:
    """Return the outcome whose fields a call process has sent."""
    outcome = object.__new__(Outcome)
    # Frozen dataclasses set their fields one by one, which takes most of the time here.
    outcome.__dict__.update(zip(_FIELDS, values, strict=True))
    return outcome


def _received(link: Link) -> tuple[int, list[Call]]:
    number, calls = pickle.loads(link.receive())

    def whole(payload: Any) -> Payload:
        if payload is None:
            return link.receive()
        if type(payload) is tuple:
            stream, count = payload
            return Large(stream, link.receive_blobs(count))
        return payload  # type: ignore[no-any-return]

    found = [
        Call(
            id=ident,
            name=name,
            payload=payload if type(payload) is bytes else whole(payload),
            area=area,
            needs=needs or NONE,
            items=items,
            function=function,
        )
        for ident, name, payload, area, needs, items, function in calls
    ]
    return number, found


class _Claims:
    """Claims calls before they are begun: the pool may have taken back those at the end.

    Each is claimed by a byte, the number of the message that brought it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ahead: bytes = b""  # of the next message, which is on its way

    def some(self, number: int, calls: Iterable[T]) -> Iterator[T]:
        """Yield the calls of a message as they are claimed."""
        for call in calls:  # no context managers here: they take longer than what they guard
            ahead, self._ahead = self._ahead, b""
            try:
                ahead = ahead or os.read(self._descriptor, 1)
            except BlockingIOError:
                return
            if not ahead or ahead[0] != number:
                self._ahead = ahead
                return
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
    """What a SIGINT does: it interrupts a call, and never what is between two."""

    def __init__(self) -> None:
        self._raised = False
        signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._raised and interruptible(frame):
            raise KeyboardInterrupt

    def begin(self) -> None:
        """Let a call be interrupted, whatever the last one has made of the signal."""
        if _signal.getsignal(signal.SIGINT) is not self:  # that of `signal` takes 2 microseconds
            signal.signal(signal.SIGINT, self)
        self._raised = True

    def end(self) -> None:
        """Let nothing be interrupted."""
        self._raised = False


class _Streams:
    """Standard streams that are good again for each call, whatever the last one did to them."""

    def __init__(self) -> None:
        self._kept = [(number, os.dup(number)) for number in (1, 2)]
        kept = [os.fstat(number) for number in (1, 2)]
        self._files = [(status.st_dev, status.st_ino) for status in kept]
        self.touched: list[bool] = []
        """Holds something if one of them was written to."""
        self._names: tuple[tuple[str, _Text], ...] = ()
        self._open()
        faulthandler.enable(self._kept[1][1], all_threads=False)  # ours tell nothing

    def _open(self) -> None:
        # Line buffering, so that a crash does not take with it what was printed before.
        out, err = _Text(1, self.touched), _Text(2, self.touched)
        sys.stdout, sys.stderr = out, err
        self._names = (("stdout", out), ("stderr", err))

    def collected(self, pid: int, *, whole: bool = True) -> tuple[str, str]:
        """Return what was written since the last time, and forget it; make descriptors good.

        :param pid: of this process; a copy of it that a call has made ends here.
        :param whole: see too whether they lead elsewhere, to where nothing has been written yet.
        """
        self._flush()
        if os.getpid() != pid:
            os._exit(0)  # the other one reports
        if whole or self.are_written():
            return self._collected(0), self._collected(1)
        return "", ""

    def are_written(self) -> bool:
        """Return whether something was written, but for what waits in Python's streams."""
        try:
            return bool(os.lseek(1, 0, os.SEEK_END) or os.lseek(2, 0, os.SEEK_END))
        except OSError:
            return True  # closed, or another kind of file

    def renew(self) -> None:
        """Make the streams of Python good again, if they are not."""
        for name, stream in self._names:
            if stream.closed:
                self._open()
                return
            setattr(sys, name, stream)

    def _collected(self, index: int) -> str:
        number, kept = self._kept[index]
        try:
            status = os.fstat(number)
            same = (status.st_dev, status.st_ino) == self._files[index]
        except OSError:
            same = False
        if not same:
            with contextlib.suppress(OSError):
                os.dup2(kept, number)
            status = os.fstat(kept)
        if not status.st_size:
            return ""
        data = tail(kept)
        os.ftruncate(kept, 0)
        return cut(data)

    def _flush(self) -> None:
        """Write what was printed and is not written yet."""
        touched = bool(self.touched)
        for name, stream in self._names:
            try:
                if touched:
                    stream.flush()
                if (other := getattr(sys, name)) is not stream:
                    other.flush()
            except Exception:  # it was closed, or is none
                continue
        self.touched.clear()  # to flush is to write, too


class _Buffer(io.BufferedWriter):
    """Tells when it is written to."""

    def __init__(self, number: int, touched: list[bool]) -> None:
        super().__init__(io.FileIO(number, "w", closefd=False))
        self._touched = touched

    def write(self, data: Any) -> int:
        """Write bytes."""
        if not self._touched:
            self._touched.append(True)
        return super().write(data)


class _Text(io.TextIOWrapper):
    """Tells when it is written to."""

    def __init__(self, number: int, touched: list[bool]) -> None:
        buffer = _Buffer(number, touched)
        super().__init__(buffer, "utf-8", "backslashreplace", line_buffering=True)
        self._touched = touched

    def write(self, text: str) -> int:
        """Write a text."""
        if not self._touched:
            self._touched.append(True)
        return super().write(text)

    def close(self) -> None:
        """Close it."""
        self._touched.append(True)
        super().close()
