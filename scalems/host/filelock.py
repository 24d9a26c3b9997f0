"""A lock between processes that child processes share.

``filelock`` was weighed: its lock ends with its process, but an installer that outlives a
killed `env sync` must go on holding the folder that it writes to. An open file description
with ``flock`` does that: it is free when the last process that inherited it has ended.

Who holds a lock is written in its file, for those who wait. On NFS, Linux makes of ``flock`` a
lock of the server that all hosts see (flock(2), since 2.6.12). Where a file system has no
locks, or only such that other hosts do not see or that outlive a host which crashes, a
:mod:`claim <scalems.host.claim>` stands in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scalems.host import claim
from scalems.host.process import Identity, myself

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What ``flock`` says where a file system cannot lock."""

_MOST = 4096


@contextlib.contextmanager
def hold(
    path: Path, *, shared: bool = False, on_wait: Callable[[str], None] | None = None
) -> Iterator[int]:
    """Hold a lock file, waiting for whoever has it; yield the descriptor to pass to children.

    :param shared: together with others that hold it shared; alone where claims must do.
    :param on_wait: called once if somebody else holds it, with who that is and since when.
    :raises OSError: it cannot be created, as on a read-only disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mount = claim.mount_of(path)
        if not (mount.seen_by_all and _locked(descriptor, shared, on_wait, far=mount.is_far)):
            with claim.hold(path, on_wait=on_wait) as child_descriptor:
                yield child_descriptor
            return
        _sign(descriptor, far=mount.is_far)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(
    descriptor: int, shared: bool, on_wait: Callable[[str], None] | None, *, far: bool
) -> bool:
    """Lock an open file; return whether the file system can do that."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait:
            on_wait(_holder(descriptor))
        _wait(descriptor, kind, far=far)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _wait(descriptor: int, kind: int, *, far: bool) -> None:
    """Wait until a lock is free.

    A client of NFS that waits in the kernel asks anew only after up to half a minute
    (``NFS4_LOCK_MAXTIMEOUT`` in Linux's fs/nfs/nfs4proc.c), when nobody has it any more.
    """
    pause = 0.05
    while far:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        else:
            return
    fcntl.flock(descriptor, kind)


def _sign(descriptor: int, *, far: bool) -> None:
    """Write who holds a lock into its file; on a full disk nobody is told.

    A client of NFS sends what is written when the file is closed, unless it is asked to.
    """
    text = json.dumps({**myself().to_dict(), "since": time.time()})
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, text.ljust(_MOST // 8).encode(), 0)
        if far:
            os.fsync(descriptor)


def _holder(descriptor: int) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        data = json.loads(os.pread(descriptor, _MOST, 0))
        owner = Identity.from_dict(data)
        if owner.is_gone:
            return f"what {owner} left running"
        return owner.holding(float(data["since"]))
    return "another process"
