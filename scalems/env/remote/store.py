"""Files that were shipped to a host, each in a folder named after its content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import BinaryIO

from scalems.env.layout import Layout
from scalems.env.remote import boot
from scalems.failpoint import failpoint
from scalems.host.process import is_left, mark

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]{0,250}")

_KEPT = 30 * 86400.0  # seconds after its last use
_HALF = 3600.0  # seconds


class Store:
    """The shipped files of a state folder."""

    def __init__(self, place: Layout) -> None:
        self._root = place.root / "shipped"

    def path(self, sha256: str, name: str) -> Path:
        """Return where a file is.

        :raises ValueError: no file of the store can have such a name.
        """
        if not (_SHA256.fullmatch(sha256) and _NAME.fullmatch(name)):
            raise ValueError(f"no name of a shipped file: {name!r}")
        return self._root / sha256 / name

    def has(self, sha256: str, name: str) -> bool:
        """Whether a file is here, and what it was when it came."""
        path = self.path(sha256, name)
        try:
            with path.open("rb") as stream:
                return _digest(stream) == sha256
        except OSError:
            return False

    def receive(self, source: BinaryIO, *, sha256: str, name: str, size: int) -> None:
        """Keep a file that follows in a stream; one that is not what it should be is dropped.

        :raises OSError: it cannot be written, or the stream has ended. Nothing is kept.
        """
        path = self.path(sha256, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(path.parent):  # noqa: PTH208
            if name.endswith(".part") and is_left(name.removeprefix(".")):
                path.with_name(name).unlink(missing_ok=True)
        temporary = path.with_name(f".{mark()}.part")
        hashed = hashlib.sha256()
        try:
            with temporary.open("wb") as target:
                while size:
                    block = source.read(min(size, 1 << 20))
                    if not block:
                        raise EOFError("the connection was lost")
                    hashed.update(block)
                    target.write(block)
                    size -= len(block)
                target.flush()
                os.fsync(target.fileno())
            failpoint("shipped.written")
            if hashed.hexdigest() == sha256:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self, *, dry_run: bool) -> int:
        """Remove all; what is needed again is shipped again. Return the bytes that it has."""
        size = sum(one.stat().st_size for one in self._root.rglob("*") if one.is_file())
        if not dry_run:
            shutil.rmtree(self._root, ignore_errors=True)
        return size


def clear_code(place: Layout, *, dry_run: bool) -> int:
    """Remove code of scalems that no client has used for long; return the bytes that it has."""
    size, now = 0, time.time()
    for folder in (place.root / "runtime").glob("*"):
        listing = folder / boot.LISTING
        used = (listing if listing.is_file() else folder).stat().st_mtime
        # What has no listing was being put in place when its process was killed.
        if now - used > (_KEPT if listing.is_file() else _HALF):
            size += sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
    return size


def _digest(stream: BinaryIO) -> str:
    hashed = hashlib.sha256()
    while block := stream.read(1 << 20):
        hashed.update(block)
    return hashed.hexdigest()
