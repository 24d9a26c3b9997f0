"""The data channel between a session server and its Workers, as both ends see it.

RADICAL-Pilot launches, places and watches the Workers, and its call mode opens their work; the
calls themselves take a way of their own, as RP's queues carry some tens of tasks a second. It
is made of ZeroMQ sockets with CurveZMQ (https://rfc.zeromq.org/spec/26/): each end proves that
it has the secret key of the public key that the other one knows. Only public keys are handed
over, through RP's task; secret ones never leave the process that made them.

ZeroMQ connects again when a connection breaks, and loses what was on its way. So messages are
numbered, kept until the other end has confirmed them, and sent again after a break: each
arrives once, in order.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

BEAT = 1.0  # seconds between two signs of life
SILENT = 10.0  # seconds without one, after which a connection is made anew
ROUTE_LIMIT = 5.0  # seconds for a Worker to reach an address

KNOCK, JOIN, DATA, CONFIRM, REFUSE = b"knock", b"join", b"data", b"confirm", b"refuse"
"""What a message is, its first frame.

KNOCK: is there a way? It is answered by the same. JOIN: a Worker's connection is new; it is
answered by the same, and both say what they have received. DATA: a message. CONFIRM: a sign of
life, which says what was received. REFUSE: the server has given the Worker up.
"""

OUT_OF_BAND = 1 << 16
"""Bytes above which a value is a frame of its own, and is not copied."""

_HEADER = struct.Struct("<QQ")  # number of the message, number of the last one received
_CONFIRM_AFTER = 16  # messages that may wait for a beat to confirm them
_CONFIRM_BYTES = 1 << 20  # bytes, the same


def dump(value: object) -> list[Any]:
    """Return frames that :func:`load` makes the value of; see :func:`apart`."""
    frames: list[Any] = [b""]
    frames[0] = pickle.dumps(value, protocol=5, buffer_callback=frames.append)
    return frames


def load(frames: Sequence[Any]) -> Any:
    """Return the value that frames stand for."""
    return pickle.loads(frames[0], buffers=frames[1:])


def apart(data: bytes) -> Any:
    """Return bytes as :func:`dump` makes a frame of their own of, if they are many."""
    return pickle.PickleBuffer(data) if len(data) > OUT_OF_BAND else data


def send(link: Connection[Any, Any], *message: object) -> None:
    """Send a message of plain values and rows to a local process.

    :raises OSError: it is gone.
    """
    head, *rest = dump(message)
    link.send_bytes(len(rest).to_bytes(2, "big") + head)
    for frame in rest:
        link.send_bytes(frame)


def receive(link: Connection[Any, Any]) -> tuple[Any, ...]:
    """Return the next message of a local process.

    :raises OSError: it is gone.
    :raises EOFError: it has closed the connection.
    """
    head = link.recv_bytes()
    rest = [link.recv_bytes() for _ in range(int.from_bytes(head[:2], "big"))]
    message: tuple[Any, ...] = load([memoryview(head)[2:], *rest])
    return message


class Stream:
    """Numbers the messages of one end, and keeps them until the other end confirms them.

    Used by one thread only.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the last message that has come in."""
        self._number = 0
        self._kept: deque[tuple[int, list[Any]]] = deque()
        self._unconfirmed = 0
        self._unconfirmed_bytes = 0

    def outgoing(self, body: list[Any]) -> list[Any]:
        """Return the frames of a new message."""
        self._number += 1
        self._kept.append((self._number, body))
        return self._framed(self._number, body)

    def again(self, confirmed: int) -> list[list[Any]]:
        """Return the frames of all messages after the last one that the other end has."""
        self.confirmed(confirmed)
        return [self._framed(number, body) for number, body in self._kept]

    def confirmed(self, number: int) -> None:
        """Forget messages that the other end has."""
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()

    def incoming(self, header: bytes, body: Sequence[Any]) -> bool:
        """Take note of a message; tell if it is the next one, and not a copy or after a gap."""
        number, confirmed = _HEADER.unpack(header)
        self.confirmed(confirmed)
        if number != self.received + 1:
            return False
        self.received = number
        self._unconfirmed += 1
        self._unconfirmed_bytes += sum(map(len, body))
        return True

    def owes(self) -> bool:
        """Whether what has come in should be confirmed before the next beat."""
        return self._unconfirmed > _CONFIRM_AFTER or self._unconfirmed_bytes > _CONFIRM_BYTES

    def header(self, number: int = 0) -> bytes:
        """Return the header of a message, which confirms what was received."""
        self._unconfirmed = self._unconfirmed_bytes = 0
        return _HEADER.pack(number, self.received)

    def _framed(self, number: int, body: list[Any]) -> list[Any]:
        return [DATA, self.header(number), *body]


def confirmation(header: bytes) -> int:
    """Return what a header confirms."""
    return int(_HEADER.unpack(header)[1])


class Errands:
    """What other threads want of the one that owns a socket."""

    def __init__(self) -> None:
        self._things: deque[Any] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False

    def fileno(self) -> int:
        """Return a descriptor that can be read when there is something."""
        return self._bell

    def put(self, thing: Any) -> None:
        """Leave something, from any thread."""
        self._things.append(thing)
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # closed
                os.eventfd_write(self._bell, 1)

    def take(self) -> list[Any]:
        """Return all there is, in the owner's thread."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._rung = False  # before they are taken: what comes now rings again
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._things.popleft())
        return taken

    def close(self) -> None:
        """Take nothing any more."""
        bell, self._bell = self._bell, -1
        os.close(bell)
