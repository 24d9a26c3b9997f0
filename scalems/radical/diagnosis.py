"""Reads RADICAL-Pilot's logs for the reason why a run failed, and names the cause.

RP itself tells a client only that something has failed; the reason is in one of some
thirty files.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import BackendError
from scalems.radical import causes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scalems.radical.surroundings import Place

_TAIL = 20_000  # bytes read of each file
_MOST = 12  # lines shown if the cause is not known
_FEW = 3  # lines shown if it is
_WIDTH = 400  # characters of a line
BUNDLE = "`python -m scalems.radical --debug-bundle`"
"""The command that packs the logs."""

_SETTLED = 2.0  # seconds after which a traceback is taken to be whole

_REASON = re.compile(
    r"\bERROR\b|\bCRITICAL\b|[A-Za-z]*Error\b|Exception\b|not found|No such file|does not exist"
    r"|cannot|can't|denied|No space left|failed\b|Killed|Segmentation"
)
_SCRIPT = re.compile(r"^\S+\.sh: line \d+: ")  # names a script of RP's, in its sandbox
_TOLD = re.compile(r"\s+\S+\.(err|out|log): ")  # of an earlier failure, in our own log
_NOISE = re.compile(
    r"Warning\b|envp excepted|cannot start MPI tasks|gtod\.sh: No such"
    r"|(dig|ping): command not found|tar: \*"
)


def failure(what: str, place: Place, *, task: str | None = None) -> BackendError:
    """Return the error of a run that has failed: what happened, why, and what mends it.

    :param what: a sentence that says what has happened.
    :param task: RP's name of the task that failed, if it is one.
    """
    files = list(_files(place.sandbox, place.folder, task))
    cause = causes.find(_lines(files), place)
    lines = _reasons_of(files)
    if cause is not None:
        what = f"{what}\n{cause.text}"
        lines = [cause.evidence[:_WIDTH]] if cause.evidence else lines[:_FEW]
    remedy = f"the logs are in {place.folder}; {BUNDLE} packs them for a report"
    if cause is not None:
        remedy = f"{cause.remedy}; {remedy}"
    return BackendError("\n".join([what, *(f"  {line}" for line in lines)]), remedy=remedy)


def explain(sandbox: Path | None, folder: Path, *, task: str | None = None) -> list[str]:
    """Return the lines that most likely say why, each with the file it is from.

    :param sandbox: the pilot's folder.
    :param folder: the run's folder.
    :param task: the task that failed, if it is one.
    """
    return _reasons_of(_files(sandbox, folder, task))


def _reasons_of(files: Iterable[Path]) -> list[str]:
    lines: list[str] = []
    for path in files:
        for line in _reasons(path):
            shown = f"{path.name}: {line}"
            if shown not in lines:
                lines.append(shown)
        if len(lines) >= _MOST:
            break
    return lines[:_MOST]


def _lines(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield what rules are held against: of logs only what is an error there."""
    for path in files:
        lines = _reasons(path) if path.suffix == ".log" else (line for line, _ in _plain(path))
        for line in lines:
            if not _NOISE.search(line):
                yield path.name, _SCRIPT.sub("", line.strip())


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
    for line, ends_traceback in _plain(path):
        telling = ends_traceback or _REASON.search(line)
        if telling and not _NOISE.search(line) and not _TOLD.match(line):
            yield _SCRIPT.sub("", line.strip())[:_WIDTH]


def _plain(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a file without frames of tracebacks, and whether each ends one."""
    inside = False
    for line in _tail(path).splitlines():
        if "Traceback (most recent call last)" in line:
            inside = True
        elif inside and line.startswith((" ", "\t")):
            continue
        elif line.strip():
            yield line, inside
            inside = False


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
