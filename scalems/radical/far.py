"""The far side of a session server on another host: starts it, and carries what both say."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from scalems.env import lease
from scalems.env.layout import Layout
from scalems.env.remote import agent
from scalems.env.remote.agent import Notify
from scalems.errors import BackendError, UsageError
from scalems.host.files import make_private
from scalems.radical import bundle, diagnosis, processes, runs, spawn, warm
from scalems.radical.farfiles import Files
from scalems.radical.surroundings import Place
from scalems.workflow.stamp import hostname

_PIECE = 1 << 18  # bytes
_RUN = re.compile(r"scalems\.[0-9A-Za-z.-]{1,80}")
_GIVE_BACK = 60.0  # seconds for the server to give back what it holds


class Session:
    """A session server, which ends with the connection."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._carrier: threading.Thread | None = None
        self._run = self._label = ""
        self._folder = Path()
        self._address: Path | None = None  # of a warm pilot that was started here
        self.files = Files()

    def start(
        self,
        place: Layout,
        notify: Notify,
        *,
        run: str,
        label: str,
        python: str,
        builds: list[str],
        name: str = "",
    ) -> dict[str, str]:
        """Start it; return the folder of the run here.

        :param label: RP's label of the resource.
        :param python: interpreter of the Pilot venv.
        :param builds: folders that it holds.
        :param name: of the warm pilot that it is to be; its address and key are returned too.
        """
        if not _RUN.fullmatch(run):
            raise UsageError(f"{run!r} is not the name of a run")
        if name:
            warm.check_free(name)
        for folder in builds:
            lease.hold(Path(folder))
        self._run, self._label, self._folder = run, label, runs.root() / run
        make_private(self._folder, exist_ok=False)
        (self._folder / "data").mkdir(mode=0o700)
        runs.prune(self._folder, *(Path(one.folder) for one in warm.known() if one.alive))
        self.files.prune()
        self._process, self._socket = spawn.start(Path(python), run, self._folder)
        # It begins when the client speaks, and so after this has been answered.
        self._carrier = threading.Thread(target=self._carry, args=(notify,), daemon=True)
        told = {"folder": str(self._folder)}
        if name:
            self._address = warm.new_address()
            told |= {"address": str(self._address), "key": warm.new_key()}
        return told

    def join(self, place: Layout, notify: Notify, *, name: str) -> None:
        """Connect the client with the server of a warm pilot, which stays.

        :raises BackendError: it does not answer.
        """
        pilot = warm.named(name)
        try:
            with warm.connect(pilot) as link:
                self._socket = socket.socket(fileno=os.dup(link.fileno()))
        except OSError as error:
            raise BackendError(
                f"the warm pilot {name!r} does not answer: {error}",
                remedy=f"scalems pilot stop --resource {pilot.label} {name}",
            ) from error
        self._carrier = threading.Thread(target=self._carry, args=(notify,), daemon=True)

    def take(self, source: BinaryIO, message: Mapping[str, Any]) -> bool:
        """See :class:`scalems.env.remote.agent.Guest`."""
        if "piece" in message:
            self.files.receive(source, message["piece"])
        elif "data" in message:
            self._feed(source.read(message["data"]))
        else:
            return False
        return True

    def _feed(self, data: bytes) -> None:
        """Give it what the client says."""
        if self._socket is not None and self._carrier is not None:
            if self._carrier.ident is None:
                self._carrier.start()
            with contextlib.suppress(OSError):  # it has ended, which the client is told
                self._socket.sendall(data)

    def end(self) -> None:
        """Let it give back what it holds, and leave nothing of the run behind."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._process is not None:
            self._wait()
        self.files.end()

    def _carry(self, notify: Notify) -> None:
        """Send the client what it says; tell its end, when nothing of the run is left."""
        assert self._socket
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_PIECE):
                notify.send({"session": True, "bytes": len(data)}, data)
        told: dict[str, Any] = {"ended": True}
        if self._process is not None and not self._stays():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GIVE_BACK)
            # It may have been ended: the client is told why, if it did not ask for it.
            place = Place(label=self._label, folder=self._folder)
            error = diagnosis.failure("The RADICAL-Pilot session ended unexpectedly.", place)
            told["problem"] = {"cause": error.cause, "remedy": error.remedy}
            self._wait()
        notify.send(told)

    def _wait(self) -> None:
        """Wait for the end of the server, if it ends with its client; sweep then."""
        assert self._process
        if self._stays():
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GIVE_BACK)
        if self._stays():  # it became a warm pilot meanwhile
            return
        processes.sweep(self._run, self._folder)
        self._process.wait()
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        shutil.rmtree(self.files.scratch(self._run), ignore_errors=True)
        if self._address is not None:
            shutil.rmtree(self._address.parent, ignore_errors=True)

    def _stays(self) -> bool:
        """Whether it has become a warm pilot."""
        return self._address is not None and any(
            one.run == self._run and one.alive for one in warm.known()
        )


def _pilots(place: Layout, notify: Notify, *, report: bool) -> list[dict[str, Any]]:
    """Return the warm pilots here, without what clients must know."""
    return [
        {
            **asdict(one),
            "key": "",
            "seen_from": hostname(),
            "lives": one.alive,
            "report": warm.ask(one) if report else None,
        }
        for one in warm.known()
    ]


def _stop(place: Layout, notify: Notify, *, name: str) -> None:
    """End a warm pilot."""
    warm.stop(warm.named(name))


def _bundle(place: Layout, notify: Notify, *, run: str) -> list[list[str]]:
    """Return the logs of a run here, the manifests, and what RP is told, without secrets."""
    if not _RUN.fullmatch(run):
        raise UsageError(f"{run!r} is not the name of a run")
    return [list(part) for part in bundle.there(runs.root() / run)]


def _log(place: Layout, notify: Notify, *, name: str) -> list[str]:
    """Return the end of what a warm pilot's server has printed."""
    return warm.log(warm.named(name))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Serve a client until it is gone; see :func:`scalems.env.remote.agent.serve`."""
    session = Session()
    verbs: dict[str, agent.Verb] = {
        "start": session.start,
        "join": session.join,
        "pilots": _pilots,
        "stop_pilot": _stop,
        "pilot_log": _log,
        "bundle": _bundle,
        "lacks_files": session.files.lacks,
        "read_file": session.files.read,
    }
    agent.serve(source, sink, verbs=verbs, guest=session)
