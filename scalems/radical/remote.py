"""A session server on the login node of a cluster, over the connection that its checks use.

RADICAL-Pilot's own way to another host needs radical.saga, whose pilots never start. So its
session is where the batch system is, in the Pilot venv there, and only calls and outcomes
travel. It ends with the connection, and leaves nothing there.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.env.remote.link import Link
from scalems.errors import BackendError, ScalemsError
from scalems.radical import runs, wire

if TYPE_CHECKING:
    from scalems.radical.settings import Settings
    from scalems.radical.staging import Staging
    from scalems.workflow.backend import Notify

_FAR = "scalems.radical.far"
_PIECE = 1 << 18  # bytes


class RemoteServer:
    """A server for this client on another host.

    :param settings: of the run, with the host and the Pilot venv's interpreter there.
    :param notify: told why a connection was lost.
    :param staging: brings files there and back.
    """

    def __init__(self, settings: Settings, notify: Notify, staging: Staging) -> None:
        self.settings = settings
        self._notify = notify
        self.staging: Staging | None = staging
        self._staging = staging
        self._link: Link | None = None
        self._over = threading.Event()
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()

    @property
    def folder(self) -> Path:
        """See :attr:`scalems.radical.launch.Server.folder`; it is on the host."""
        return self.settings.folder

    @property
    def resource(self) -> str:
        """See :attr:`scalems.radical.launch.Server.resource`."""
        return self.settings.label

    def connect(self) -> Connection[Any, Any]:
        """See :meth:`scalems.radical.launch.Server.connect`."""
        assert self.settings.host
        assert self.settings.python
        try:
            self._link = Link(self.settings.host, entry=_FAR)
            folder = self._link.call(
                "start",
                run=self.settings.run,
                python=str(self.settings.python),
                builds=[str(self.settings.python.parents[2]), str(self.settings.build.folder)],
            )
        except ScalemsError as error:
            raise BackendError(error.cause, remedy=error.remedy) from error
        self.settings = replace(self.settings, folder=Path(folder))
        self._notify(f"the session runs on {self._link.hostname}, in {folder}")
        ours, theirs = socket.socketpair()
        for work in (self._send, self._receive):
            threading.Thread(target=work, args=(self._link, theirs), daemon=True).start()
        link: Connection[Any, Any] = Connection(ours.detach())
        with contextlib.suppress(OSError):  # if it died at once: the reader will tell
            wire.send(link, self.settings)
        self._staging.connected(self)
        return link

    def ask(self, verb: str, **args: Any) -> tuple[Any, bytes]:
        """Ask the far side for something beside the session; return the answer and its data.

        :raises ScalemsError: it failed there, or the connection is lost.
        """
        with self._asking:
            self.post({"call": verb, "args": args})
            data = b""
            while (answer := self._answers.get()) is not None:
                message, more = answer
                data += more
                if "bytes" not in message:
                    assert self._link
                    self._link.check(message)
                    return message.get("done"), data
            self._answers.put(None)
            raise BackendError(f"the connection to {self.resource} is lost")

    def post(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send a message to the far side.

        :raises ScalemsError: the connection is lost.
        """
        assert self._link
        self._link.post(message, data)

    def ended(self) -> bool:
        """See :meth:`scalems.radical.launch.Server.ended`."""
        return self._over.is_set()

    def stays(self, *, ready: bool) -> bool:
        """See :meth:`scalems.radical.launch.Server.stays`."""
        return False

    def end(self, limit: float) -> bool:
        """See :meth:`scalems.radical.launch.Server.end`; the far side sweeps."""
        if self._link is None:
            return True
        orderly = self._over.wait(limit)
        self._staging.disconnected()
        self._link.close()
        return orderly

    def renewed(self) -> RemoteServer:
        """See :meth:`scalems.radical.launch.Server.renewed`."""
        self.end(0.0)
        return RemoteServer(replace(self.settings, run=runs.new()[0]), self._notify, self._staging)

    def _send(self, link: Link, near: socket.socket) -> None:
        """Bring what the client says to the host."""
        with contextlib.suppress(OSError, ScalemsError):
            while data := near.recv(_PIECE):
                link.post({"data": len(data)}, data)

    def _receive(self, link: Link, near: socket.socket) -> None:
        """Bring what the server says to the client, and answers to those who ask."""
        try:
            while True:
                message, data = link.next()
                if "session" in message:
                    near.sendall(data)
                elif "ended" in message:
                    break
                elif "note" not in message:
                    self._answers.put((message, data))
        except ScalemsError as error:
            self._notify(error.cause)
        except (OSError, ValueError):
            pass  # the client has left
        self._over.set()
        self._answers.put(None)
        self._staging.disconnected()
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
        near.close()
