"""Large values in a store: files that are named after their content, beside the database."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.failpoint import failpoint
from scalems.workflow import file as file_of
from scalems.workflow.file import OBJECTS, object_path
from scalems.workflow.large import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence


def keep(folder: Path, blob: Blob) -> str:
    """Write a blob to a file; return its name. Its memory is given back: it is that file then.

    :param folder: of the store.
    :raises OSError: it cannot be written.
    """
    name = blob.digest
    path = object_path(folder / OBJECTS, name)
    if not is_whole(folder, name):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                for block in blob.blocks():
                    _write(file.fileno(), memoryview(block))
                os.fsync(file.fileno())
            failpoint("store.object.written")
            Path(part).replace(path)
            file_of.sync(path.parent)
            failpoint("store.object.kept")
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    blob.move(path)
    return name


def find(folder: Path, name: str) -> Blob | None:
    """Return a value, which is read when it is asked for; ``None`` if it is not what it was."""
    path = object_path(folder / OBJECTS, name)
    try:
        blob = Blob.stored(path, path.stat().st_size)
        return blob if blob.digest == name else None
    except Exception:  # it is gone, or cannot be read
        return None


def is_whole(folder: Path, name: str) -> bool:
    """Return whether a file is there, and has the content that it is named after."""
    path = object_path(folder / OBJECTS, name)
    try:
        status = path.stat()
        key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_dev)
        return file_of.content_digest(str(path), key) == name
    except OSError:
        return False


def lend(folder: Path, names: Sequence[str]) -> None:
    """Let a run that keeps its files elsewhere find those of a store."""
    for name in names:
        file_of.borrow(name, object_path(folder / OBJECTS, name))


def _write(descriptor: int, view: memoryview) -> None:
    while view.nbytes:
        view = view[os.write(descriptor, view) :]
