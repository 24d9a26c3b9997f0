"""The folders of runs on RADICAL-Pilot: logs, and files between client and Workers."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path

_KEPT = 10  # folders of former runs


def state() -> Path:
    """Return the folder of what runs leave behind, below the user's state folder.

    It is that of the XDG base directories
    (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "scalems"


def root() -> Path:
    """Return the folder that holds them all."""
    return state() / "runs"


def new() -> tuple[str, Path]:
    """Return the name and the folder of a new run; nothing is made."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"scalems.{stamp}.{os.getpid()}.{secrets.token_hex(2)}"
    return name, root() / name


def prune(*keep: Path) -> None:
    """Remove the oldest folders of runs, but not these nor those in use."""
    folders = sorted(entry for entry in root().glob("scalems.*") if entry not in keep)
    for folder in folders[: max(0, len(folders) - _KEPT)]:
        if not _in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    pid = folder.name.split(".")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
