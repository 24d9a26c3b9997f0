"""Reads RADICAL-Pilot's logs for the reason why a run failed.

RP itself tells a client only that something has failed; the reason is in one of some
thirty files.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TAIL = 20_000  # bytes read of each file
_LINES = 12  # lines shown in all
_SETTLED = 2.0  # seconds after which a traceback is taken to be whole

_REASON = re.compile(
    r"\bERROR\b|\bCRITICAL\b|[A-Za-z]*Error\b|Exception\b|not found|No such file|does not exist"
    r"|cannot|can't|denied|No space left|failed\b|Killed|Segmentation"
)
_SCRIPT = re.compile(r"^\S+\.sh: line \d+: ")  # names a script of RP's, in its sandbox
_NOISE = re.compile(
    r"Warning\b|envp excepted|cannot start MPI tasks|gtod\.sh: No such"
    r"|(dig|ping): command not found|tar: \*"
)


def explain(sandbox: Path | None, folder: Path, *, task: str | None = None) -> list[str]:
    """Return the lines that most likely say why, each with the file it is from.

    :param sandbox: the pilot's folder.
    :param folder: the run's folder.
    :param task: the task that failed, if it is one.
    """
    lines: list[str] = []
    for path in _files(sandbox, folder, task):
        for line in _reasons(path):
            shown = f"{path.name}: {line}"
            if shown not in lines:
                lines.append(shown)
        if len(lines) >= _LINES:
            break
    return lines[:_LINES]


def crashed(sandbox: Path | None) -> bool:
    """Tell if a part of the agent has left a traceback, and nothing after it for a while.

    RP waits ten minutes for such a part before it gives up.
    """
    if sandbox is None or not sandbox.is_dir():
        return False
    for path in sandbox.glob("agent_[a-z]*.err"):  # agent_0.err has harmless ones
        try:
            settled = time.time() - path.stat().st_mtime > _SETTLED
        except OSError:
            continue
        if settled and "Traceback (most recent call last)" in _tail(path):
            return True
    return False


def _files(sandbox: Path | None, folder: Path, task: str | None) -> Iterator[Path]:
    if sandbox is not None and task is not None:
        for suffix in ("err", "launch.out", "out", "log"):
            yield sandbox / task / f"{task}.{suffix}"
    if sandbox is not None:
        yield from _existing(sandbox, "agent_*.err", "bootstrap_0.out", "bootstrap_0.err")
        yield from _existing(sandbox, "agent_*.log")
    yield from _existing(folder, "*/pmgr_launching.*.log", "*/*.err", "*/*.log", "server.log")


def _existing(folder: Path, *patterns: str) -> Iterable[Path]:
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


def _reasons(path: Path) -> Iterator[str]:
    """Yield the lines of a file that give a reason; of a traceback only the last line."""
    inside = False
    for line in _tail(path).splitlines():
        if "Traceback (most recent call last)" in line:
            inside = True
        elif inside and line.startswith((" ", "\t")):
            continue
        elif line.strip():
            if (inside or _REASON.search(line)) and not _NOISE.search(line):
                yield _SCRIPT.sub("", line.strip())[:400]
            inside = False


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
