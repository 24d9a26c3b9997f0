"""What a run on RADICAL-Pilot needs to know to start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scalems.env import Build
    from scalems.env.finding import About, Policy
    from scalems.host.address import Host


FILES = "files"
"""Folder of the files of workflows whose clients are elsewhere, in the state folder."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How a warm pilot is kept."""

    name: str
    idle: float
    """Seconds after which it ends when it has no client."""
    address: Path
    """Of the socket for clients."""
    key: str
    """What a client must know, in hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run."""

    run: str
    """Name of the run, and of RP's session."""
    folder: Path
    """Private folder of the run: logs, and files between client and Worker."""
    label: str
    """RP's label of the resource."""
    build: Build
    """The Task venv, as it was verified."""
    slots: int | None
    """How many calls run at a time."""
    runtime: int | None
    """Minutes."""
    options: Mapping[str, Any]
    """Fields of RP's PilotDescription."""

    policies: Mapping[About, Policy]
    """What to do about a Worker that is not what was verified."""

    spare: int | None = None
    """Cores that no Worker gets: those of services, and of tasks of RP's own."""

    pin: str = "auto"
    """Whether calls are pinned to CPUs, see :func:`scalems.workflow.cores.for_calls`."""

    environment: str = ""
    """Content fingerprint that results are kept under; empty if differences were let pass."""

    keep: Keep | None = None
    """How the pilot stays when the client that started it is gone; ``None`` if it does not."""

    host: Host | None = None
    """Where the session and the pilot are; ``None`` is this machine."""

    python: Path | None = None
    """Interpreter of the Pilot venv on that host, which runs the session server."""

    @property
    def data(self) -> Path:
        """Folder for what is too large for RP's messages."""
        return self.folder / "data"

    @property
    def area(self) -> str:
        """Where the files of tasks are on another host, see ``scalems.workflow.file.area``.

        Empty on this machine, where the client decides. The files of all runs there are kept
        together, so that each is sent once and one pilot has what another has made.
        """
        return str(self.folder.parents[1] / FILES / "scratch" / self.run) if self.host else ""

    @property
    def log(self) -> Path:
        """What the process that holds RP's session has printed."""
        return self.folder / "server.log"
