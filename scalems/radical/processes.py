"""Finds and ends what a run has left behind on this machine.

Every process of a run carries its name in an environment variable, which RP's own
processes and the pilot's inherit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

RUN = "SCALEMS_RUN"
"""Environment variable that names the run a process belongs to."""

_TERM_LIMIT = 1.0  # seconds


def members(run: str, folder: Path) -> list[int]:
    """Return the processes of a run, without this one.

    :param folder: the run's folder; what works in it belongs to the run too.
    """
    mark = f"{RUN}={run}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            place = (entry / "cwd").readlink()
            inside = place == folder or folder in place.parents
            # RP's processes that set their title have overwritten their environment.
            if inside or mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def sweep(run: str, folder: Path) -> int:
    """End all processes of a run, without this one; return how many there were.

    Afterwards none is left: they are asked to leave, and killed if they stay.
    """
    seen: set[int] = set()
    limit = time.monotonic() + _TERM_LIMIT
    while left := members(run, folder):
        seen.update(left)
        number = signal.SIGTERM if time.monotonic() < limit else signal.SIGKILL
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        time.sleep(0.05)
    return len(seen)
