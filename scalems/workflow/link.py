"""The line between a pool and a call process: a Unix socket that carries messages and blobs.

``multiprocessing.connection.Connection`` was weighed: it carries no file descriptors, and takes
longer for a short message than the system does.

Both sides import this module.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from scalems.workflow.large import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = struct.Struct("<Q")
_SHORT = 1 << 14  # bytes up to which a message is sent in one piece with its length
_PIECE = 1 << 20
_TOGETHER = 100  # file descriptors in a message; Linux takes 253


class Link:
    """One end of the line."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.fileno = end.fileno

    def send(self, data: bytes) -> None:
        """Send a message.

        :raises OSError: the other end is gone.
        """
        head = _HEAD.pack(len(data))
        if len(data) <= _SHORT:
            self._end.sendall(head + data)
        else:
            self._end.sendall(head)
            self._end.sendall(data)

    def receive(self) -> bytes:
        """Wait for a message, and return it.

        :raises OSError: the other end is gone.
        :raises EOFError: the other end was closed.
        """
        (size,) = _HEAD.unpack(self._exactly(_HEAD.size))
        return self._exactly(size)

    def send_blobs(self, blobs: Sequence[Blob]) -> None:
        """Let the other end have blobs, after a message that says how many.

        :raises OSError: the other end is gone.
        """
        for start in range(0, len(blobs), _TOGETHER):
            with contextlib.ExitStack() as stack:
                some = blobs[start : start + _TOGETHER]
                descriptors = [stack.enter_context(blob.opened()) for blob in some]
                socket.send_fds(self._end, [b"b"], descriptors)

    def receive_blobs(self, count: int) -> list[Blob]:
        """Return so many blobs.

        :raises OSError: the other end is gone, or too many files are open here.
        :raises EOFError: the other end was closed.
        """
        found: list[Blob] = []
        while len(found) < count:
            most = min(_TOGETHER, count - len(found))
            data, descriptors, _, _ = socket.recv_fds(self._end, 1, most, socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise EOFError
            found += [Blob.received(one) for one in descriptors]
            if len(descriptors) < most:
                raise OSError("too many open files: a value could not be received")
        return found

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _exactly(self, size: int) -> bytes:
        data = self._end.recv(min(size, _PIECE))
        if len(data) == size:
            return data
        parts, left = [data], size - len(data)
        while left:
            if not parts[-1]:
                raise EOFError
            parts.append(self._end.recv(min(left, _PIECE)))
            left -= len(parts[-1])
        return b"".join(parts)
