"""The clients of a session server: what they ask for, and whether they are still there.

One has started the server and shares a socket pair with it. A server that is kept takes
more of them over a local socket, which is private to the user and asks for a key.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
from functools import partial
from multiprocessing.connection import Connection, Listener
from typing import TYPE_CHECKING, Any, NamedTuple

from scalems.host.process import lives
from scalems.radical import wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Alive = Callable[[], bool]

_LOOK = 1.0  # seconds between two looks whether a client lives


class ClientEvent(NamedTuple):
    """A client said something, or is gone."""

    client: int
    message: tuple[Any, ...] | None
    """``None`` when it is gone."""


class Clients:
    """All that are connected; each has a number.

    :param emit: told what they say, from threads.
    """

    def __init__(self, emit: Callable[[ClientEvent], None]) -> None:
        self._emit = emit
        self._numbers = itertools.count()
        self._links: dict[int, Connection[Any, Any]] = {}
        self._listener: Listener | None = None

    def add(self, link: Connection[Any, Any], alive: Alive) -> int:
        """Begin to listen to a client.

        :param alive: whether its process is there: a fork of it may hold the socket open.
        """
        number = next(self._numbers)
        self._links[number] = link
        threading.Thread(
            target=self._read,
            args=(number, link, alive),
            name=f"scalems-read-{number}",
            daemon=True,
        ).start()
        return number

    def listen(self, address: Path, key: bytes) -> None:
        """Take clients over a local socket.

        :param address: in a folder that is private to the user.
        :param key: that a client must know.
        """
        self._listener = Listener(str(address), family="AF_UNIX", authkey=key)
        threading.Thread(target=self._accept, name="scalems-accept", daemon=True).start()

    def tell(self, client: int, *message: object) -> None:
        """Send a message to a client; nothing happens if it is gone."""
        link = self._links.get(client)
        if link is not None:
            with contextlib.suppress(OSError, ValueError):
                wire.send(link, *message)

    def tell_all(self, *message: object) -> None:
        """Send a message to all clients."""
        for client in list(self._links):
            self.tell(client, *message)

    def forget(self, client: int) -> None:
        """Close the connection of a client that is gone."""
        link = self._links.pop(client, None)
        if link is not None:
            link.close()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                link = self._listener.accept()
            except Exception:  # one that does not know the key, or left at once
                continue
            pid = peer(link)
            self.add(link, partial(lives, pid))

    def _read(self, number: int, link: Connection[Any, Any], alive: Alive) -> None:
        with contextlib.suppress(OSError, EOFError):
            while link.poll(_LOOK) or alive():
                if link.poll(0):
                    self._emit(ClientEvent(number, wire.receive(link)))
        self._emit(ClientEvent(number, None))


def peer(link: Connection[Any, Any]) -> int:
    """Return the process at the other end of a local socket (SO_PEERCRED of unix(7))."""
    with socket.socket(fileno=os.dup(link.fileno())) as end:
        data = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[0])
