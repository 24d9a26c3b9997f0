"""Processes of this machine, and who a process is among those of all machines."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


def lives(pid: int) -> bool:
    """Whether a process of this machine runs; one that only waits to be reaped does not."""
    return bool(_started(pid))


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since the boot; empty if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # from the third on: see proc(5)
    return "" if fields[0] in ("Z", "X") else fields[19]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process, such that no other of any machine is taken for it.

    :param space: identifies the boot of the host, and the namespace that ``pid`` counts in.
    :param started: clock ticks since the boot.
    """

    host: str
    space: str
    pid: int
    started: str

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Identity:
        """Read what :meth:`to_dict` returned.

        :raises ValueError: it is something else.
        """
        texts = [data.get(key) for key in ("host", "space", "started")]
        pid = data.get("pid")
        if not (all(isinstance(text, str) for text in texts) and type(pid) is int):
            raise ValueError("not the identity of a process")
        return cls(host=str(texts[0]), space=str(texts[1]), pid=pid, started=str(texts[2]))

    @property
    def is_gone(self) -> bool | None:
        """Whether it has ended; ``None`` where that cannot be seen from here."""
        if self.host != os.uname().nodename:
            return None
        boot, _, space = self.space.partition(" ")
        here_boot, _, here = _space().partition(" ")
        if boot != here_boot:
            return True
        return None if space != here else _started(self.pid) != self.started

    def holding(self, since: float) -> str:
        """Say who it is, and since when it holds something.

        :param since: seconds since the epoch.
        """
        return f"{self} since {time.strftime('%H:%M:%S', time.localtime(since))}"

    def __str__(self) -> str:
        where = "" if self.host == os.uname().nodename else f" on {self.host}"
        return f"process {self.pid}{where}"


@functools.cache
def _space() -> str:
    found = []
    with contextlib.suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found)


def mark() -> str:
    """Return what the name of a file begins with that is this process's alone, of all hosts.

    :func:`is_left` tells when nobody is going to use such a file any more.
    """
    return f"{_spot()}{os.getpid()}"


def is_left(name: str) -> bool:
    """Whether a process of this host has left a file behind whose name begins with its mark."""
    spot = _spot()
    pid = name.removeprefix(spot).partition(".")[0]
    return name.startswith(spot) and pid.isdigit() and not lives(int(pid))


@functools.cache
def _spot() -> str:
    """Name the place that process numbers count in: several hosts may share a name."""
    return f"{os.uname().nodename}-{hashlib.sha256(_space().encode()).hexdigest()[:8]}-"


def myself() -> Identity:
    """Return who this process is."""
    pid = os.getpid()
    return Identity(host=os.uname().nodename, space=_space(), pid=pid, started=_started(pid))
