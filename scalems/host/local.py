"""The one door through which child processes of the environment manager start."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scalems.errors import ScalemsError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)

LEAKING = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables through which the caller's Python would leak into another one."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A command that has ended."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


_PASSWORD = re.compile(r"(UV|PIP|TWINE)_\w*(PASSWORD|TOKEN)")
_GRACE = 1.0  # seconds for what a command has printed to be read after its end


class CommandFailed(ScalemsError):
    """A command could not start, or ended with a non-zero exit code.

    :param completed: the command and what it printed; ``None`` if it never started.
    """

    def __init__(
        self, cause: str, *, completed: Completed | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(cause, remedy=remedy)
        self.completed = completed


class CommandLate(CommandFailed):
    """A command has reached its limit of time, and was killed."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what leaks our Python into a child's."""
    env = {key: value for key, value in os.environ.items() if key not in LEAKING}
    env.update(extra or {})
    return env


def without_credentials(text: str) -> str:
    """Hide the user and password of each URL, and what variables name as passwords of an index."""
    text = re.sub(r"(\w+://)[^/\s]+@", r"\1***@", text)
    for name, value in os.environ.items():
        if _PASSWORD.fullmatch(name) and len(value) > 3:
            text = text.replace(value, "***")
    return text


def is_credential(name: str, value: str) -> bool:
    """Whether an environment variable holds a password or token of a package index."""
    named = name.startswith(("UV_", "PIP_", "TWINE_")) and re.search(r"://[^/\s]*@", value)
    return bool(named or _PASSWORD.fullmatch(name))


_running: set[subprocess.Popen[str]] = set()
_ending = threading.Event()


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads to run commands in, all of which are ended if the context is left early.

    Only the main thread hears of Ctrl-C. The others see their command killed.
    """
    from concurrent.futures import ThreadPoolExecutor  # only now: most commands are for one thread

    with ThreadPoolExecutor(max_workers=count) as pool:
        try:
            yield pool
        except BaseException:
            _ending.set()
            for process in tuple(_running):
                _kill(process)
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            _ending.clear()


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    holding: int | None = None,
    limit: float | None = None,
) -> Completed:
    """Run a command to its end in a process group of its own, without standard input.

    :param env: added to :func:`clean_environment`.
    :param on_line: called with each line of standard error as it comes.
    :param holding: descriptor of a lock that the command must hold as long as it lives.
    :param limit: seconds after which it is killed.
    :raises CommandFailed: it cannot start, ends with a non-zero code, or reaches the limit.
        The error shows the end of what it printed.
    """
    words = tuple(os.fspath(word) for word in argv)
    log.debug("run: %s", without_credentials(shlex.join(words)))
    if _ending.is_set():
        raise CommandFailed(f"{words[0]} was not run: the command is being ended")
    try:
        process = subprocess.Popen(
            words,
            env=clean_environment(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=() if holding is None else (holding,),
        )
    except OSError as error:
        raise CommandFailed(f"cannot run {words[0]}: {error.strerror or error}") from error
    stdout: list[str] = []
    stderr: list[str] = []
    with _ended_with_us(process):
        readers = [
            threading.Thread(target=_read, args=one, daemon=True)
            for one in ((process.stdout, stdout, None), (process.stderr, stderr, on_line))
        ]
        for reader in readers:
            reader.start()
        late = limit is not None and _is_late(process, readers, limit)
        _join(readers, None if limit is None else _GRACE)
        process.wait()
    if late:
        raise CommandLate(f"{shlex.join(words)[:200]} did not end in {limit:.0f} s")
    done = Completed(
        argv=words,
        returncode=process.returncode,
        stdout="".join(stdout),
        stderr=without_credentials("".join(stderr)),
    )
    if done.returncode:
        printed = without_credentials(done.stdout)
        shown = (done.stderr.strip() or printed.strip()).splitlines()[-25:]
        command = without_credentials(shlex.join(words[:6]))
        log.debug("failed (%d): %s\n%s\n%s", done.returncode, command, printed, done.stderr)
        raise CommandFailed(
            f"{command}{' ...' if len(words) > 6 else ''} "
            f"ended with exit code {done.returncode}:\n" + "\n".join(f"    {s}" for s in shown),
            completed=replace(done, stdout=printed),
        )
    return done


def _is_late(
    process: subprocess.Popen[str], readers: Sequence[threading.Thread], limit: float
) -> bool:
    """Whether a command does not end within a limit. Nothing of it runs on afterwards."""
    waiter = threading.Thread(target=_wait, args=(process.pid,), daemon=True)
    waiter.start()
    waiter.join(limit)
    late = waiter.is_alive()
    if not late:  # what it has left behind may hold its output open
        _join(readers, _GRACE)
    _kill(process)
    return late


def _join(readers: Sequence[threading.Thread], limit: float | None) -> None:
    end = None if limit is None else time.monotonic() + limit
    for reader in readers:
        reader.join(None if end is None else max(0.0, end - time.monotonic()))


def _wait(pid: int) -> None:
    """Wait for the end of a child that keeps its number."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _read(stream: IO[str], lines: list[str], on_line: Callable[[str], None] | None) -> None:
    with stream:
        for line in stream:
            lines.append(line)
            if on_line:
                on_line(without_credentials(line.rstrip()))


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the whole process group if we leave early, on Ctrl-C too."""
    _running.add(process)
    try:
        if _ending.is_set():  # since it was started
            _kill(process)
        yield
    except BaseException:
        _kill(process)
        process.wait()
        raise
    finally:
        _running.discard(process)


def _kill(process: subprocess.Popen[str]) -> None:
    # A command that was waited for has no process group any more, and its number may be another's.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
