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
from scalems.host.address import HostError
from scalems.radical import elsewhere, runs, wire
from scalems.radical.diagnosis import BUNDLE
from scalems.radical.launch import OWN_AFTERWARDS, warm_afterwards

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scalems.radical.settings import Settings
    from scalems.radical.staging import Staging
    from scalems.radical.warm import WarmPilot
    from scalems.workflow.backend import Notify

    Choose = Callable[[Callable[[], Sequence[WarmPilot]]], WarmPilot | None]

_PIECE = 1 << 18  # bytes


class RemoteServer:
    """A server for this client on another host.

    :param settings: of the run, with the host and the Pilot venv's interpreter there.
    :param notify: told why a connection was lost.
    :param staging: brings files there and back.
    :param choose: tells which of the host's warm pilots is to be used, if one is.
    :param counts: whether a warm one is what was asked for.
    """

    def __init__(
        self,
        settings: Settings,
        notify: Notify,
        staging: Staging,
        choose: Choose = lambda known: None,
        *,
        counts: bool = True,
    ) -> None:
        self.settings = settings
        self._notify = notify
        self.staging: Staging | None = staging
        self._staging = staging
        self._choose = choose
        self._warm_counts = counts
        self._link: Link | None = None
        self._warm = False  # whether it is that of a warm pilot
        self._over = threading.Event()
        self._problem: BackendError | None = None  # why it is over
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

    @property
    def counts(self) -> bool:
        """See :attr:`scalems.radical.launch.Server.counts`."""
        return self._warm_counts or not self._warm

    @property
    def afterwards(self) -> str:
        """See :attr:`scalems.radical.launch.Server.afterwards`."""
        if self._warm:
            return warm_afterwards(self.settings.label, self.settings.build.name)
        return OWN_AFTERWARDS

    def connect(self) -> Connection[Any, Any]:
        """See :meth:`scalems.radical.launch.Server.connect`."""
        try:
            greeting = self._begin()
        except (HostError, BackendError) as error:
            raise BackendError(error.cause, remedy=error.remedy) from error
        assert self._link
        ours, theirs = socket.socketpair()
        for work in (self._send, self._receive):
            threading.Thread(target=work, args=(self._link, theirs), daemon=True).start()
        link: Connection[Any, Any] = Connection(ours.detach())
        with contextlib.suppress(OSError):  # if it died at once: the reader will tell
            wire.send(link, greeting)
        self._staging.connected(self)
        return link

    def _begin(self) -> Settings | str:
        """Connect, and find or start a server; return what is said to it first.

        :raises ScalemsError: there is no such warm pilot, or it cannot be started.
        """
        settings = self.settings
        assert settings.host
        assert settings.python
        self._link = link = Link(settings.host, entry=elsewhere.ENTRY)
        pilot = None
        if settings.keep is None:
            pilot = self._choose(lambda: elsewhere.known(link))
        if pilot is not None:
            link.call("join", name=pilot.name)
            self._notify(f"using the warm pilot {pilot.name} on {link.hostname}")
            self._warm = True
            self.settings = replace(settings, run=pilot.run, folder=Path(pilot.folder))
            runs.note_host(self.settings.run, settings.host)
            return "use"
        told = link.call(
            "start",
            run=settings.run,
            label=settings.label,
            python=str(settings.python),
            builds=[str(folder) for folder in _held(settings)],
            name=settings.keep.name if settings.keep else "",
        )
        keep = settings.keep
        if keep is not None:
            keep = replace(keep, address=Path(told["address"]), key=told["key"])
        self.settings = replace(settings, folder=Path(told["folder"]), keep=keep)
        self._notify(f"the session runs on {link.hostname}, in {told['folder']}")
        runs.note_host(self.settings.run, settings.host)
        return self.settings

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
        return self._warm or (ready and self.settings.keep is not None)

    def end(self, limit: float) -> bool:
        """See :meth:`scalems.radical.launch.Server.end`; the far side sweeps."""
        if self._link is None:
            return True
        orderly = self._warm or self._over.wait(limit)
        self._staging.disconnected()
        self._link.close()
        return orderly

    def failure(self, what: str) -> BackendError:
        """See :meth:`scalems.radical.launch.Server.failure`; the far side has read the logs."""
        told = self._problem
        return told or BackendError(
            what, remedy=f"the logs are in {self.folder} there; {BUNDLE} packs them"
        )

    def renewed(self) -> RemoteServer:
        """See :meth:`scalems.radical.launch.Server.renewed`."""
        self.end(0.0)
        settings = replace(self.settings, run=runs.new()[0])
        return RemoteServer(settings, self._notify, self._staging)

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
                    if told := message.get("problem"):
                        self._problem = BackendError(
                            f"on {link.hostname}: {told['cause']}", remedy=told["remedy"]
                        )
                    break
                elif "note" not in message:
                    self._answers.put((message, data))
        except ScalemsError as error:
            self._problem = BackendError(error.cause, remedy=error.remedy)
        except (OSError, ValueError):
            pass  # the client has left
        self._over.set()
        self._answers.put(None)
        self._staging.disconnected()
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
        near.close()
        link.close()


def _held(settings: Settings) -> list[Path]:
    """Return the builds that the far side holds: what scalems did not build cannot be held."""
    assert settings.python
    own = [settings.build.folder] if settings.build.place is None else []
    return [settings.python.parents[2], *own]
