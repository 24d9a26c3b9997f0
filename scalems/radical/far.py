"""The far side of a session server on another host: starts it, and carries what both say."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from scalems.env import lease
from scalems.env.layout import Layout
from scalems.env.remote import agent
from scalems.env.remote.agent import Notify
from scalems.errors import UsageError
from scalems.radical import processes, runs, spawn
from scalems.radical.farfiles import Files

_PIECE = 1 << 18  # bytes
_RUN = re.compile(r"scalems\.[0-9A-Za-z.-]{1,80}")
_GIVE_BACK = 60.0  # seconds for the server to give back what it holds


class Session:
    """A session server, which ends with the connection."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._carrier: threading.Thread | None = None
        self._run = ""
        self._folder = Path()
        self.files = Files()

    def start(
        self, place: Layout, notify: Notify, *, run: str, python: str, builds: list[str]
    ) -> str:
        """Start it; return the folder of the run here.

        :param python: interpreter of the Pilot venv.
        :param builds: folders that it holds.
        """
        if not _RUN.fullmatch(run):
            raise UsageError(f"{run!r} is not the name of a run")
        for folder in builds:
            lease.hold(Path(folder))
        self._run, self._folder = run, runs.root() / run
        self._folder.mkdir(parents=True, mode=0o700)
        (self._folder / "data").mkdir(mode=0o700)
        runs.prune(self._folder)
        self.files.prune()
        self._process, self._socket = spawn.start(Path(python), run, self._folder)
        # It begins when the client speaks, and so after this has been answered.
        self._carrier = threading.Thread(target=self._carry, args=(notify,), daemon=True)
        return str(self._folder)

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
        if self._process is None:
            return
        assert self._socket
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GIVE_BACK)
        self._sweep()

    def _carry(self, notify: Notify) -> None:
        """Send the client what it says; tell its end, when nothing of the run is left."""
        assert self._socket
        assert self._process
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_PIECE):
                notify.send({"session": True, "bytes": len(data)}, data)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GIVE_BACK)
        self._sweep()
        notify.send({"ended": self._process.returncode})

    def _sweep(self) -> None:
        assert self._process
        processes.sweep(self._run, self._folder)
        self._process.wait()
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        self.files.end(self._run)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Serve a client until it is gone; see :func:`scalems.env.remote.agent.serve`."""
    session = Session()
    verbs: dict[str, agent.Verb] = {
        "start": session.start,
        "lacks_files": session.files.lacks,
        "read_file": session.files.read,
    }
    agent.serve(source, sink, verbs=verbs, guest=session)
