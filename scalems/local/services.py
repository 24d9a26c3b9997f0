"""Services on this machine."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.workflow import serving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scalems.workflow.backend import Told
    from scalems.workflow.process import Launch

_LOOK = 0.05  # seconds
_END_LIMIT = 15.0  # seconds


class Services:
    """The services that a backend has started, by their numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[int, Path] = {}
        self._watchers: list[threading.Thread] = []

    def start(self, ident: int, wanted: Mapping[str, Any], told: Told, launch: Launch) -> None:
        """Start one, and tell how it stands with it until it has ended."""
        folder = Path(tempfile.mkdtemp(prefix="scalems-service-"))
        with self._lock:
            self._folders[ident] = folder / "service"
        words = serving.laid(folder / "service", {**wanted, "host": "127.0.0.1"})
        process = subprocess.Popen(
            [launch.python, *words],
            env=launch.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us
        )
        watcher = threading.Thread(
            target=self._watch, args=(ident, process, told), name=f"scalems-service-{ident}"
        )
        watcher.daemon = True
        self._watchers.append(watcher)
        watcher.start()

    def stop(self, ident: int) -> bool:
        """Have one end; tell if there is one."""
        with self._lock:
            folder = self._folders.get(ident)
        if folder is None:
            return False
        with contextlib.suppress(OSError):
            (folder / serving.STOP).touch()
        return True

    def close(self) -> None:
        """End all, and wait for that."""
        for ident in list(self._folders):
            self.stop(ident)
        for watcher in self._watchers:
            watcher.join(_END_LIMIT)

    def _watch(self, ident: int, process: subprocess.Popen[bytes], told: Told) -> None:
        folder = self._folders[ident]
        last: dict[str, Any] = {}
        while True:
            ended = process.poll() is not None
            state = serving.state(folder)
            if ended and state.get("state") != "ended":
                state = {"state": "ended", "how": "was killed", "stderr": ""}
            if state and state != last:
                last = state
                if state["state"] == "ended":
                    break
                told(state)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
        process.wait()
        with self._lock:
            del self._folders[ident]
        shutil.rmtree(folder.parent, ignore_errors=True)
        told(last)
