"""A lock between processes that child processes share.

``filelock`` was weighed: its lock ends with its process, but an installer that outlives a
killed `env sync` must go on holding the folder that it writes to. An open file description
with ``flock`` does that: it is free when the last process that inherited it has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def hold(
    path: Path, *, shared: bool = False, on_wait: Callable[[], None] | None = None
) -> Iterator[int]:
    """Hold a lock file, waiting for whoever has it; yield the descriptor to pass to children.

    :param shared: together with others that hold it shared.
    :param on_wait: called once if somebody else holds it.
    :raises OSError: it cannot be created, as on a read-only disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait:
                on_wait()
            fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)
