"""Folders for the time of one step, in the system's temporary folder.

A process that is killed leaves its own behind. The next one of the same user and host that
changes something takes it away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scalems.host.process import is_left, mark

_PREFIX = "scalems-tmp-"


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Yield an empty folder, which is gone afterwards.

    :param purpose: a word of its name, for who finds it.
    :raises OSError: it cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{mark()}.{purpose}-") as name:
        yield Path(name)


def clear() -> None:
    """Remove what killed processes of this user have left of theirs."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if is_left(path.name.removeprefix(_PREFIX)) and path.lstat().st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)
