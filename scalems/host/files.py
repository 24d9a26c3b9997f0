"""Files that others read while we write them."""

from __future__ import annotations

import os
from pathlib import Path

from scalems.failpoint import failpoint


def write_atomic(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Put a whole text file in place, durably: readers see the former one or the new one.

    What a killed process left half-written beside it is taken away.

    :raises OSError: it cannot be written; the former file is as it was.
    """
    import tempfile  # only now: most commands only read

    from scalems.host import process

    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    prefix = f".{path.name}.{process.mark()}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        failpoint("file.written")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_private(folder: Path, *, exist_ok: bool = True) -> None:
    """Make a folder for its owner alone, and those above it that are not there, by any umask.

    So wants it the XDG base directory specification; `Path.mkdir` leaves the folders above to the
    umask, and who may write to one of them may put another in the place of ours.

    :raises OSError: it cannot be made.
    """
    if not folder.parent.is_dir():
        make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=exist_ok)


def _sweep(path: Path) -> None:
    """Remove temporary files of writers of this host that are no more."""
    from scalems.host import process

    start = f".{path.name}."
    for name in os.listdir(path.parent):  # noqa: PTH208  # a glob would read special characters
        ours = name.startswith(start) and name.endswith(".tmp")
        if ours and process.is_left(name.removeprefix(start)):
            (path.parent / name).unlink(missing_ok=True)
