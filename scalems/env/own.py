"""The digest of scalems' own files, computed once for given files.

Every launch compares the client's code with that of the environments. What a file holds is
taken to be the same while its size, times and inode are: the time of the last change of an
inode (``st_ctime``) cannot be set back as that of the file can.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import scalems
from scalems.env import layout, wheel
from scalems.host.files import write_atomic

_SETTLED = 2.0  # seconds; a file that is younger may change again without another time


def source_digest(version: str, *, keep: bool = False) -> str:
    """Return :func:`scalems.env.wheel.source_digest` of the running package.

    :param version: of the running package.
    :param keep: write it down for the next time. A sync does; a check writes nothing.
        The folder of scalems must be there.
    """
    root = Path(scalems.__file__).parent
    stamps = sorted(_stamps(str(root), ""))
    stamp = hashlib.sha256(repr([version, str(root), stamps]).encode()).hexdigest()
    place = layout.default()
    cache = place.root / "own" / hashlib.sha256(str(root).encode()).hexdigest()[:16]
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # nothing to trust
    found = wheel.source_digest(root, version)
    newest = max(max(times) for _, _, *times, _ in stamps)
    if keep and time.time() - newest / 1e9 > _SETTLED:
        with contextlib.suppress(OSError):
            cache.parent.mkdir(mode=0o755, exist_ok=True)
            write_atomic(cache, json.dumps({"stamp": stamp, "digest": found}))
    return found


def _stamps(root: str, below: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield path, size, times and inode of each file that is part of the package."""
    with os.scandir(f"{root}/{below}") as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _stamps(root, f"{path}/")
            elif not path.endswith(".pyc"):
                status = entry.stat()
                times = status.st_mtime_ns, status.st_ctime_ns
                yield path, status.st_size, *times, status.st_ino
