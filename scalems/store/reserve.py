"""A little room on the disk, kept to record there that it is full."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SIZE = 64 * 1024  # bytes; a change of one row takes a page of 4 KiB, or a few


class Reserve:
    """Keeps it as a file.

    :param folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".reserve"

    def make(self) -> None:
        """Keep it, if there is so much room."""
        with contextlib.suppress(OSError):
            if not self._path.exists():
                self._path.write_bytes(os.urandom(_SIZE))  # of zeros a file system may keep nothing

    def give_back(self) -> None:
        """Let it be used."""
        with contextlib.suppress(OSError):
            self._path.unlink()
