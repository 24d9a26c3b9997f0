"""What runs first on a host: it puts the code of scalems in place there and hands over to it.

It is sent as text and has the standard library only. Its messages are those of
:mod:`scalems.host.wire`, which is not there yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

READY = "<<<scalems ready>>>"
"""Line after which all output is messages: what came before is of the user's start-up files."""

LISTING = "files.json"

_UNPACKING = 60.0  # seconds that pass at most between two files


def begin() -> None:
    """Take over the streams of this process, and serve the other end of the connection."""
    source = sys.stdin.buffer
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed from here on is no message
    os.umask(0o077)
    sink.write(f"\n{READY}\n".encode())
    sink.flush()
    wanted = json.loads(source.readline())
    try:
        folder = place(source, sink, wanted)
    except OSError as error:
        text = f"{error.strerror or error}: {error.filename or wanted['root']}"
        _send(sink, {"error": {"cause": f"scalems cannot be put in place there: {text}"}})
        return
    sys.path.insert(0, str(folder))
    importlib.import_module(wanted["entry"]).serve(source, sink)


def place(source: BinaryIO, sink: BinaryIO, wanted: dict[str, str]) -> Path:
    """Return the folder of the code, which is asked for unless it is there and whole.

    :param wanted: its ``digest``, and the ``root`` of the state folder (empty: the default).
        Its module ``entry`` then serves the other end.
    :raises OSError: it cannot be written.
    """
    if wanted["root"]:
        os.environ["SCALEMS_HOME"] = os.path.expanduser(wanted["root"])  # noqa: PTH111
    root = _root()
    folder = root / "runtime" / wanted["digest"]
    there = _whole(folder)
    _send(sink, {"runtime": there})
    if there:
        with contextlib.suppress(OSError):
            os.utime(folder / LISTING)  # it is used
        return folder
    data = source.read(json.loads(source.readline())["size"])
    if hashlib.sha256(data).hexdigest() != wanted["digest"]:
        raise OSError(5, "what arrived is not what was sent")
    folder.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{folder.name[:16]}-{os.uname().nodename}-"
    for left in folder.parent.glob(f"{mine}*"):
        if _is_left(left, left.name.removeprefix(mine)):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f"{mine}{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(temporary)
            listing = {one.filename: one.file_size for one in archive.infolist()}
        (temporary / LISTING).write_text(json.dumps(listing))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:
            if not _whole(folder):  # another has put it there meanwhile
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _root() -> Path:
    """Return the state folder, as :func:`scalems.env.layout.default` does."""
    if home := os.environ.get("SCALEMS_HOME"):
        return Path(home).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "scalems"


def _is_left(folder: Path, pid: str) -> bool:
    """Whether a killed process has left a folder; containers of one name number theirs alike."""
    if not pid.isdigit() or Path("/proc", pid).exists() or not Path("/proc/self").exists():
        return False
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime > _UNPACKING
    return False


def _whole(folder: Path) -> bool:
    """Whether the code is there: file systems of clusters may remove what is old."""
    try:
        listing = json.loads((folder / LISTING).read_text())
        return all((folder / name).stat().st_size == size for name, size in listing.items())
    except (OSError, ValueError):
        return False


def _send(sink: BinaryIO, message: object) -> None:
    sink.write(json.dumps(message).encode() + b"\n")
    sink.flush()
