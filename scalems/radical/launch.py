"""What holds RADICAL-Pilot's session for a workflow: a server of its own, or a warm pilot's."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scalems.errors import BackendError
from scalems.host.files import make_private
from scalems.radical import diagnosis, processes, runs, spawn, warm, wire
from scalems.radical.surroundings import Place

if TYPE_CHECKING:
    from scalems.radical.settings import Settings
    from scalems.radical.staging import Staging
    from scalems.radical.warm import WarmPilot


class Server(Protocol):
    """A session server, as its client sees it."""

    staging: Staging | None
    """Brings the files of calls to where they run, if that is elsewhere."""

    @property
    def folder(self) -> Path:
        """Folder of its run, with the logs."""
        ...

    @property
    def resource(self) -> str:
        """RP's label of the resource."""
        ...

    @property
    def counts(self) -> bool:
        """Whether its pilot is one of those that the run may start (``--max-pilots``)."""
        ...

    @property
    def afterwards(self) -> str:
        """What can be done when its pilot has ended before the run had."""
        ...

    def connect(self) -> Connection[Any, Any]:
        """Return a connection with it; a server of one's own is started.

        :raises BackendError: it cannot be started, or does not answer.
        """
        ...

    def ended(self) -> bool:
        """Whether its process is known to have ended."""
        ...

    def stays(self, *, ready: bool) -> bool:
        """Whether it goes on without this client.

        :param ready: whether its Workers have been ready.
        """
        ...

    def end(self, limit: float) -> bool:
        """Wait for its end, and leave nothing of its run behind.

        :param limit: seconds, after which it is ended.
        :return: whether it has ended by itself.
        """
        ...

    def failure(self, what: str) -> BackendError:
        """Return the error of its unexpected end, with the cause if its logs tell it.

        :param what: a sentence that says what has happened.
        """
        ...

    def renewed(self) -> Server:
        """End it at once; return another one that was not started yet."""
        ...


OWN_AFTERWARDS = (
    "what has finished is kept: run it again; with --max-pilots 2 another pilot goes on by itself"
)
"""See :attr:`Server.afterwards`, of a pilot that the run has started."""


def warm_afterwards(label: str, env: str) -> str:
    """Return :attr:`Server.afterwards` of a warm pilot."""
    return (
        "what has finished is kept: run it again, on a pilot of its own with --pilot new, "
        f"or after `scalems pilot start --resource {label} --venv {env}`"
    )


class OwnServer:
    """A server for this client, in a process of its own."""

    staging: Staging | None = None
    counts = True
    afterwards = OWN_AFTERWARDS

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """See :attr:`Server.folder`."""
        return self.settings.folder

    @property
    def resource(self) -> str:
        """See :attr:`Server.resource`."""
        return self.settings.label

    def connect(self) -> Connection[Any, Any]:
        """See :meth:`Server.connect`."""
        try:
            return self._start()
        except OSError as error:
            raise BackendError(
                f"The RADICAL-Pilot session cannot be started in {self.folder}: {error}",
                remedy="make room there, or set XDG_STATE_HOME to another folder",
            ) from error

    def _start(self) -> Connection[Any, Any]:
        settings = self.settings
        make_private(settings.folder, exist_ok=False)
        settings.data.mkdir(mode=0o700)
        runs.prune(settings.folder, *(Path(one.folder) for one in warm.known() if one.alive))
        self._process, ours = spawn.start(Path(sys.executable), settings.run, settings.folder)
        link: Connection[Any, Any] = Connection(ours.detach())
        with contextlib.suppress(OSError):  # if it died at once: the reader will tell
            wire.send(link, settings)
        return link

    def ended(self) -> bool:
        """See :meth:`Server.ended`."""
        return self._process is not None and self._process.poll() is not None

    def stays(self, *, ready: bool) -> bool:
        """See :meth:`Server.stays`."""
        return ready and self.settings.keep is not None

    def end(self, limit: float) -> bool:
        """See :meth:`Server.end`."""
        if self._process is None:
            return True
        try:
            self._process.wait(limit)
            orderly = True
        except subprocess.TimeoutExpired:
            orderly = False
        processes.sweep(self.settings.run, self.settings.folder)
        self._process.wait()
        shutil.rmtree(self.settings.data, ignore_errors=True)
        return orderly

    def failure(self, what: str) -> BackendError:
        """See :meth:`Server.failure`."""
        return diagnosis.failure(what, Place(label=self.resource, folder=self.folder))

    def renewed(self) -> OwnServer:
        """See :meth:`Server.renewed`."""
        self.end(0.0)
        name, folder = runs.new()
        return OwnServer(replace(self.settings, run=name, folder=folder))


class WarmServer:
    """The server of a warm pilot, which others may be using too.

    :param settings: of the pilot that goes on when this one has ended.
    :param counts: whether it is what was asked for; else it was taken because it was there, and
        the run goes on without it.
    """

    staging: Staging | None = None

    def __init__(self, pilot: WarmPilot, settings: Settings, *, counts: bool) -> None:
        self._pilot = pilot
        self._settings = settings
        self.counts = counts

    @property
    def folder(self) -> Path:
        """See :attr:`Server.folder`."""
        return Path(self._pilot.folder)

    @property
    def resource(self) -> str:
        """See :attr:`Server.resource`."""
        return self._pilot.label

    @property
    def afterwards(self) -> str:
        """See :attr:`Server.afterwards`."""
        return warm_afterwards(self._pilot.label, self._pilot.env)

    def connect(self) -> Connection[Any, Any]:
        """See :meth:`Server.connect`."""
        try:
            link = warm.connect(self._pilot)
            wire.send(link, "use")
        except OSError as error:
            raise BackendError(
                f"The warm pilot {self._pilot.name!r} does not answer: {error}",
                remedy=f"remove what is left of it with `scalems pilot stop {self._pilot.name}`; "
                f"its logs are in {self.folder}",
            ) from error
        return link

    def ended(self) -> bool:
        """See :meth:`Server.ended`."""
        return not self._pilot.alive

    def stays(self, *, ready: bool) -> bool:
        """See :meth:`Server.stays`."""
        return True

    def end(self, limit: float) -> bool:
        """Not this client's to do."""
        return True

    def failure(self, what: str) -> BackendError:
        """See :meth:`Server.failure`."""
        return diagnosis.failure(what, Place(label=self.resource, folder=self.folder))

    def renewed(self) -> OwnServer:
        """Return one of the run's own; what is left of this one is not this client's to end."""
        return OwnServer(self._settings)
