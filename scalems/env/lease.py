"""Leases: what a run uses is not taken away.

A lease is a shared ``flock`` on a file beside a build. The kernel gives it back when the last
process that holds it has ended, however it ended, so none is ever stale. Where the file system
has no such locks, each run claims a file of its own (:mod:`scalems.host.claim`).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from scalems import probe

_held: dict[Path, int] = {}


def path(folder: Path) -> Path:
    """Return the file that a build is leased by."""
    return folder.with_name(f".{folder.name}.lease")


def hold(folder: Path) -> None:
    """Hold a build, and the one that it adds to, until this process ends.

    Nothing happens where the lease cannot be written, nor read: such a build belongs to
    somebody else, whose own commands decide of it.
    """
    from scalems.host import claim

    base = probe.manifest_of(folder / "venv").get("base")
    if isinstance(base, dict) and "folder" in base:
        hold(folder.with_name(str(base["folder"])))
    if folder not in _held and (descriptor := _open(path(folder))) is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            locked = True
        except OSError as error:
            if not _no_locks(error):
                raise
            locked = False
        if not (locked and claim.mount_of(path(folder)).seen_by_all):
            os.close(descriptor)
            own = contextlib.ExitStack()
            try:
                descriptor = own.enter_context(claim.hold(_own(folder)))
            except OSError:
                return  # as above
            atexit.register(own.close)
        _held[folder] = descriptor


def descriptors() -> tuple[int, ...]:
    """Return what a child must inherit to hold the same builds as this process."""
    return tuple(_held.values())


def held(folder: Path) -> bool:
    """Whether a process holds a build."""
    with free(folder) as nobody:
        return not nobody


@contextlib.contextmanager
def free(folder: Path) -> Iterator[bool]:
    """Tell whether nobody holds a build; if so, nobody can before the context ends."""
    descriptor = _open(path(folder), create=False)
    if descriptor is None:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        nobody = True
    except BlockingIOError:
        nobody = False
    except OSError as error:
        if not _no_locks(error):
            raise
        nobody = True
    try:
        yield nobody and not _claimed(folder)
    finally:
        os.close(descriptor)


def _own(folder: Path) -> Path:
    from scalems.host.process import mark  # only now: most file systems have locks

    return folder.with_name(f"{path(folder).name}.{mark()}")


def _no_locks(error: OSError) -> bool:
    from scalems.host.filelock import NO_LOCKS  # only now: most file systems have locks

    return error.errno in NO_LOCKS


def _claimed(folder: Path) -> bool:
    start = f"{path(folder).name}."
    names = os.listdir(folder.parent)  # noqa: PTH208
    claims = [name for name in names if name.startswith(start) and name.endswith(".claim")]
    if not claims:
        return False
    from scalems.host import claim  # only now: most file systems have locks

    return any(claim.is_held(folder.parent / name) for name in claims)


def _open(lease: Path, *, create: bool = True) -> int | None:
    # To lock alone, NFS needs it open for writing.
    for flags in (os.O_RDWR | (os.O_CREAT if create else 0), os.O_RDONLY):
        try:
            return os.open(lease, flags | os.O_CLOEXEC, 0o644)
        except OSError:
            continue
    return None
