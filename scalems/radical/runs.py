"""The folders of runs on RADICAL-Pilot: logs, and files between client and Workers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.host.files import make_private, write_atomic

if TYPE_CHECKING:
    from scalems.host.address import Host

HOST = "host.json"
"""Of a run on another host: where its logs are."""

_KEPT = 10  # folders of former runs
_SANDBOX = "sandbox.path"
_QUIET = 3600.0  # seconds


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
        sandbox = _sandbox(folder)
        if not _in_use(folder) and (sandbox is None or _quiet(sandbox)):
            shutil.rmtree(folder, ignore_errors=True)
            if sandbox is not None:
                shutil.rmtree(sandbox, ignore_errors=True)


def note_sandbox(folder: Path, sandbox: Path) -> None:
    """Keep where RP has the files of a run, if that is elsewhere: they go with it.

    :param folder: of the run.
    :param sandbox: the pilot's folder, in that of RP's session.
    """
    with contextlib.suppress(OSError):
        (folder / _SANDBOX).write_text(str(sandbox.parent), encoding="utf-8")


def _sandbox(folder: Path) -> Path | None:
    """Return what RP has of a run elsewhere; nothing that is not named as the run is."""
    try:
        path = Path((folder / _SANDBOX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return path if path.is_absolute() and path.name == folder.name and path.is_dir() else None


def _quiet(sandbox: Path) -> bool:
    """Tell if nothing writes there any more: its job may be of another login node."""
    try:
        last = max(path.stat().st_mtime for path in (sandbox, *sandbox.glob("pilot.*/*")))
    except OSError:
        return False
    return time.time() - last > _QUIET


def _in_use(folder: Path) -> bool:
    pid = folder.name.split(".")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def note_host(run: str, host: Host) -> Path:
    """Keep on which host the logs of a run are; return its folder here."""
    folder = root() / run
    with contextlib.suppress(OSError):  # a full disk here does not matter
        make_private(folder)
        write_atomic(folder / HOST, json.dumps(asdict(host)), mode=0o600)
        prune(folder)
    return folder
