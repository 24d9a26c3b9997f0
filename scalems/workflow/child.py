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
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.workflow.call import Call, execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

READY = b"ready"
"""Sent once by a call process when it can take calls."""

_PARENT_POLL = 2.0  # seconds


def main(descriptor: int) -> None:
    """Serve calls from the socket until its other end is closed."""
    link: Connection[Any, Any] = Connection(descriptor)
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pid, parent, folder = os.getpid(), os.getppid(), Path.cwd()
    streams = _Streams()
    threading.Thread(
        target=_watch, args=(descriptor, parent), name="scalems-watch", daemon=True
    ).start()
    try:
        path = pickle.loads(link.recv_bytes())
        if path is not None:
            sys.path[:] = path
        link.send_bytes(READY)
        while True:
            ident, name = pickle.loads(link.recv_bytes())
            call = Call(id=ident, name=name, payload=link.recv_bytes())
            os.chdir(folder)
            with streams.restored(), _interruptible():
                outcome = execute(call)
            if os.getpid() != pid:
                # The function forked and this is the copy: the other one reports.
                os._exit(0)
            link.send_bytes(outcome.payload)
            link.send_bytes(pickle.dumps({**vars(outcome), "payload": b""}, protocol=5))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the pool was closed


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


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    # A late SIGINT that a call sent to itself must not end the loop between two calls.
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Streams:
    """Standard streams that are good again for each call, whatever the last one did to them."""

    def __init__(self) -> None:
        self._kept = [(number, os.dup(number)) for number in (1, 2)]
        self._names: tuple[tuple[str, TextIO], ...] = ()
        self._open()
        faulthandler.enable(self._kept[1][1], all_threads=False)  # ours tell nothing

    def _open(self) -> None:
        # Line buffering, so that a crash does not take with it what was printed before.
        sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        self._names = (("stdout", sys.stdout), ("stderr", sys.stderr))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        for number, kept in self._kept:
            with contextlib.suppress(OSError):
                os.dup2(kept, number)
        if any(stream.closed for _, stream in self._names):
            self._open()
        for name, stream in self._names:
            setattr(sys, name, stream)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr, *(stream for _, stream in self._names)):
                with contextlib.suppress(Exception):
                    stream.flush()
