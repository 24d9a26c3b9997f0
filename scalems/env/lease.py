"""Leases: what a run uses is not taken away.

A lease is a shared ``flock`` on a file beside a build. The kernel gives it back when the last
process that holds it has ended, however it ended, so none is ever stale.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_held: dict[Path, int] = {}


def path(folder: Path) -> Path:
    """Return the file that a build is leased by."""
    return folder.with_name(f".{folder.name}.lease")


def hold(folder: Path) -> None:
    """Hold a build until this process ends.

    Nothing happens where the lease cannot be written, nor read: such a build belongs to
    somebody else, whose own commands decide of it.
    """
    if folder not in _held and (descriptor := _open(path(folder))) is not None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[folder] = descriptor


def descriptors() -> tuple[int, ...]:
    """Return what a child must inherit to hold the same builds as this process."""
    return tuple(_held.values())


def held(folder: Path) -> bool:
    """Whether a process holds a build."""
    try:
        descriptor = os.open(path(folder), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(lease: Path) -> int | None:
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(lease, flags | os.O_CLOEXEC, 0o644)
        except OSError:
            continue
    return None
