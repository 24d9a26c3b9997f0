"""Files of workflows on the host where their tasks run, while their clients are elsewhere.

They are objects as the client has them (:mod:`scalems.workflow.file`), each named after its
content: one that is here is not sent again. What nobody has used for a week is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from scalems.env.layout import Layout
from scalems.env.remote.agent import Notify
from scalems.errors import ScalemsError, UsageError
from scalems.host.files import make_private
from scalems.host.process import is_left, mark
from scalems.radical import runs
from scalems.radical.settings import FILES
from scalems.workflow.file import OBJECTS, object_path

_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEPT = 7 * 86400.0  # seconds after the last use
_BLOCK = 1 << 20  # bytes


class Files:
    """The files of workflows in this user's state folder."""

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or runs.state() / FILES
        self._parts: dict[str, Path] = {}  # files that are coming
        self._problems: dict[str, str] = {}

    def lacks(self, place: Layout, notify: Notify, *, digests: Sequence[str]) -> list[str]:
        """Return which files are not here, whole and as they were sent.

        :raises ScalemsError: one that was sent could not be written.
        """
        for digest in digests:
            if digest in self._problems:
                raise ScalemsError(
                    self._problems.pop(digest), remedy=f"make room in {self._base} there"
                )
        return [digest for digest in digests if not self._has(digest)]

    def read(
        self, place: Layout, notify: Notify, *, digest: str, offset: int, count: int
    ) -> dict[str, int]:
        """Send a piece of a file; return its size and permissions.

        :raises OSError: it is not here.
        """
        with self._object(digest).open("rb") as opened:
            opened.seek(offset)
            data = opened.read(count)
            status = os.fstat(opened.fileno())
        notify.send({"bytes": len(data)}, data)
        return {"size": status.st_size, "mode": status.st_mode & 0o111}

    def receive(self, source: BinaryIO, piece: Mapping[str, Any]) -> None:
        """Take a piece of a file; with the last one it is here, if it is what was meant.

        :param piece: ``digest``, ``size`` and ``mode`` of the file, ``offset`` and ``count``.
        """
        data = source.read(piece["count"])
        digest, size = str(piece["digest"]), piece["size"]
        if not _DIGEST.fullmatch(digest):
            return
        try:
            if piece["offset"] == 0:
                self._problems.pop(digest, None)
                part = self._base / "parts" / f"{mark()}.{digest}"
                make_private(part.parent)
                part.write_bytes(b"")
                self._parts[digest] = part
            if digest not in self._parts:
                return  # an earlier piece could not be written
            with self._parts[digest].open("ab") as opened:
                opened.write(data)
                if piece["offset"] + len(data) == size:
                    opened.flush()
                    os.fsync(opened.fileno())
                    self._finish(digest, piece["mode"])
        except OSError as error:
            self._problems[digest] = f"a file could not be written: {error.strerror or error}"
            self._drop(digest)

    def prune(self) -> None:
        """Remove what nobody has used for long, and what runs that have ended left behind."""
        limit = time.time() - _KEPT
        for path in (self._base / OBJECTS).glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if max(status.st_mtime, status.st_atime) < limit:
                    path.unlink()
        for folder in ((self._base / "parts"), (self._base / "scratch")):
            for path in folder.glob("*"):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < limit or is_left(path.name):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def scratch(self, run: str) -> Path:
        """Return the folder for what does not outlive the tasks of a run."""
        return self._base / "scratch" / run

    def end(self) -> None:
        """Remove what has not come whole."""
        for digest in list(self._parts):
            self._drop(digest)

    def _finish(self, digest: str, mode: int) -> None:
        part = self._parts.pop(digest)
        if _digest(part) == digest:
            part.chmod(0o444 | (mode & 0o111))
            target = self._object(digest)
            make_private(target.parent)
            part.replace(target)
        part.unlink(missing_ok=True)

    def _drop(self, digest: str) -> None:
        if (part := self._parts.pop(digest, None)) is not None:
            part.unlink(missing_ok=True)

    def _has(self, digest: str) -> bool:
        path = self._object(digest)
        with contextlib.suppress(OSError):
            if _digest(path) == digest:
                os.utime(path)  # it is used
                return True
            path.unlink()  # it was spoilt
        return False

    def _object(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest!r} is not the digest of a file")
        return object_path(self._base / OBJECTS, digest)


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            hashed.update(block)
    return hashed.hexdigest()
