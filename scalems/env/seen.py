"""What was seen to be in sync, and stays so while nothing of what was looked at has moved.

To say that there is nothing to do, a sync reads specs, configs, locks and manifests and compares
every file of the builds (:mod:`scalems.env.current`). Its answer is kept with a digest of what all
of these looked like from outside: size, permissions, inode and both times, of which that of the
last change of the inode (``st_ctime``) cannot be set back. While this digest is the same the
answer is, and nothing has to be loaded to find it. Otherwise it is found anew.

This module loads little, for it runs before all others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from scalems.env.canonical import digest

VARIABLES = ("HOME", "RADICAL_CONFIG_USER_DIR", "SCALEMS_HOME", "XDG_DATA_HOME")
"""They say where the things of a user are."""

_SETTLED = 2.0  # seconds; a file that is younger may change again without another time
_pack = struct.Struct("=qqqQI").pack


class Places(TypedDict):
    """What to look at: files, venvs, and the folder of the code that looks."""

    files: list[str]
    venvs: list[str]
    code: str


def recall(file: Path, project: Path) -> dict[str, Any] | None:
    """Return the answer that was kept, if nothing has moved since.

    :param file: what :func:`keep` has written.
    :param project: folder of the project that is asked for.
    """
    try:
        kept = json.loads(file.read_bytes())
        if kept.pop("seal") != digest("seen 1", kept) or kept["facts"] != facts(project):
            return None
        answer: dict[str, Any] = kept["answer"]
        return answer if look(kept["places"]).hexdigest() == kept["digest"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # nothing to trust


def keep(
    file: Path,
    project: Path,
    answer: dict[str, Any],
    looked: Look,
    places: Places,
) -> None:
    """Keep an answer, unless it was found from files that have changed just now.

    Where it cannot be written it is found again the next time.

    :param looked: the :func:`look` at these places from before the answer was found.
    """
    if not looked.settled():
        return
    from scalems.host.files import write_atomic

    kept = {
        "facts": facts(project),
        "places": places,
        "digest": looked.hexdigest(),
        "answer": answer,
    }
    with contextlib.suppress(OSError, ValueError):
        file.parent.mkdir(mode=0o755, exist_ok=True)
        write_atomic(file, json.dumps({**kept, "seal": digest("seen 1", kept)}))


def facts(project: Path) -> dict[str, Any]:
    """Return what an answer depends on and is no file."""
    return {
        "project": str(project),
        "python": sys.version,
        "path": sys.path,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


def look(places: Places) -> Look:
    """Look at places, and at the folders that Python imports from.

    :raises OSError: a tree cannot be read.
    """
    looked = Look()
    looked.files([*places["files"], *(path or "." for path in sys.path)])
    looked.tree(places["code"], follow=True, skip="__pycache__")
    for venv in places["venvs"]:
        looked.tree(venv)
    return looked


class Look:
    """What files look like from outside: one digest of all that it was shown, in that order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._newest = 0

    def files(self, paths: Iterable[str]) -> None:
        """Look at files and folders themselves, and at what links lead to.

        A folder gets another time when a name in it comes or goes.
        """
        for path in paths:
            self._digest.update(os.fsencode(f"{path}\0"))
            for status in (os.lstat, os.stat):
                try:
                    self._add([status(path)])
                except OSError:
                    self._digest.update(b"missing")

    def tree(self, root: str, *, follow: bool = False, skip: str = ".lock") -> None:
        """Look at all files and links below a folder.

        :param follow: look at what links lead to in their place.
        :param skip: a name to pass over; the lock file of uv is none of a venv's.
        :raises OSError: it cannot be read.
        """
        stack = [root]
        while stack:
            folder = stack.pop()
            names, found = [folder], []
            # By its descriptor: the path of a folder is not looked up again for each file.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        name = entry.name
                        if name == skip:
                            continue
                        if entry.is_dir(follow_symlinks=follow):
                            stack.append(f"{folder}/{name}")
                            name += "/"
                        else:
                            found.append(entry.stat(follow_symlinks=follow))
                        names.append(name)
            finally:
                os.close(descriptor)
            self._digest.update(os.fsencode("\0".join(names)))
            self._add(found)

    def _add(self, found: Iterable[os.stat_result]) -> None:
        parts = []
        for one in found:
            changed = one.st_ctime_ns
            if changed > self._newest:
                self._newest = changed
            try:
                part = _pack(one.st_size, one.st_mtime_ns, changed, one.st_ino, one.st_mode)
            except struct.error:  # centuries from now
                raise OSError("a time that is none") from None
            parts.append(part)
        self._digest.update(b"\0%d;" % len(parts))
        self._digest.update(b"".join(parts))

    def hexdigest(self) -> str:
        """Return the digest of all that it was shown."""
        return self._digest.hexdigest()

    def settled(self) -> bool:
        """Whether all of it is so old that whatever changes it from now on gets another time."""
        return time.time() - self._newest / 1e9 > _SETTLED
