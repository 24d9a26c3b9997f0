"""Compiled files of a build: would Python run something else than the source that it shows?

Python loads ``__pycache__/NAME.TAG.pyc`` in place of ``NAME.py`` if the time and size of the
source that it was made from, or its hash, are in the header (PEP 3147, PEP 552). So a file with
the right header and another body is run, and nobody who looks at the source sees it. What is
compiled at build is in the table of files. What Python writes later, when something is imported
for the first time, is not, and is no drift: it must be what its source gives.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_NAME = r"(?P<module>.+)\.(?P<tag>[a-z]+-\d+)(\.opt-(?P<level>\w*))?\.pyc"
_HEADER = 16
_TOGETHER = 300


def is_cached(path: str) -> bool:
    """Whether a file is where Python puts what it compiles."""
    folder, _, name = path.rpartition("/")
    return name.endswith(".pyc") and (folder == "__pycache__" or folder.endswith("/__pycache__"))


def wrong(venv: Path, paths: Iterable[str], *, tag: str, python: str, deep: bool) -> Iterator[str]:
    """Yield those of some compiled files that do not come from the source beside them.

    Files that this Python would not load are passed over.

    :param tag: of the Pythons whose files count, such as ``cpython-311``.
    :param python: the interpreter to compile with.
    :param deep: compile the sources, and compare; otherwise only the headers are looked at:
        those that tell Python never to look at the source are wrong.
    """
    loaded: list[tuple[str, str, int]] = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        match = re.fullmatch(_NAME, name)
        if match is None or match["tag"] != tag:
            continue
        source = f"{folder.rpartition('__pycache__')[0]}{match['module']}.py"
        verdict = _header(f"{venv}/{path}", f"{venv}/{source}")
        if verdict is False:
            yield path
        elif verdict and deep:
            level = match["level"] or "0"
            loaded.append((path, source, int(level) if level.isdigit() else 0))
    if loaded:
        yield from _compiled_otherwise(venv, loaded, python)


def _header(path: str, source: str) -> bool | None:
    """Whether the header of a file is a good one; ``None`` if Python would not load the file."""
    try:
        status = os.stat(source)  # noqa: PTH116  # of hundreds of files
    except OSError:
        return None
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
        head = stream.read(_HEADER)
    flags = int.from_bytes(head[4:8], "little")
    if os.path.islink(path) or flags & 0b11 == 0b01:  # noqa: PTH114
        return False  # an unchecked hash: whatever the source says
    time_and_size = head[8:16] == b"".join(
        (int(number) & 0xFFFFFFFF).to_bytes(4, "little")
        for number in (status.st_mtime, status.st_size)
    )
    return True if flags or time_and_size else None


def _compiled_otherwise(
    venv: Path, files: list[tuple[str, str, int]], python: str
) -> Iterator[str]:
    from scalems.host.local import CommandFailed, run  # only now: a launch comes this far never

    def differing(part: list[tuple[str, str, int]]) -> list[str]:
        # Without site: nothing of the venv may run.
        argv = [python, "-I", "-S", "-B", "-c", _COMPARE, str(venv), json.dumps(part)]
        try:
            return list(json.loads(run(argv, cwd=Path("/")).stdout))
        except (CommandFailed, ValueError):
            # One of them brings the interpreter down: find it.
            if len(part) == 1:
                return [part[0][0]]
            middle = len(part) // 2
            return differing(part[:middle]) + differing(part[middle:])

    from concurrent.futures import ThreadPoolExecutor

    parts = [files[start : start + _TOGETHER] for start in range(0, len(files), _TOGETHER)]
    if parts:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(differing, parts):
                yield from found


_COMPARE = """
import importlib.util, json, marshal, os, sys
wrong = []
root, files = sys.argv[1], json.loads(sys.argv[2])
for path, source, level in files:
    try:
        with open(os.path.join(root, path), "rb") as stream:
            data = stream.read()
        if data[:4] != importlib.util.MAGIC_NUMBER:
            continue
        with open(os.path.join(root, source), "rb") as stream:
            text = stream.read()
        code = compile(text, path, "exec", dont_inherit=True, optimize=level)
        same = marshal.loads(data[16:]) == code
    except Exception:
        same = False
    if not same:
        wrong.append(path)
print(json.dumps(wrong))
"""
