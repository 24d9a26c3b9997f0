"""Programs as tasks.

The far side imports this module: :func:`run` is what executes there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import ScalemsError, TaskError, UsageError
from scalems.workflow import argument, current
from scalems.workflow.options import TaskOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scalems.workflow.future import Future

_SHOWN = 2000


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A program that has ended well."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str | Path
    """What it printed, or the file that this was written to."""
    stderr: str | Path
    """What it printed to its standard error, or the file that this was written to."""


class ExecutableError(TaskError):
    """A program could not start, or ended with a non-zero exit code."""

    def __init__(
        self,
        cause: str,
        *,
        remedy: str | None = None,
        argv: tuple[str, ...] = (),
        returncode: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(cause, remedy=remedy)
        self.argv = argv
        self.returncode = returncode
        """``None`` if it never started."""
        self.stderr = stderr


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What comes back from the far side: a program that has ended, well or not."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes


def executable(
    argv: Sequence[object],
    *,
    stdin: object = None,
    stdout: str | os.PathLike[str] | None = None,
    stderr: str | os.PathLike[str] | None = None,
    env: Mapping[str, object] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    cache: bool = False,
    retries: int = 0,
    timeout: float | None = None,
) -> Future[Completed]:
    """Run a program as a task; no shell is in between.

    .. code-block:: python

        log = scalems.executable(["gmx", "mdrun", "-s", prepared], stdout="log.txt")
        print(log.result().returncode)

    :param argv: the program and its arguments: text, paths, numbers, or futures of these.
    :param stdin: name of a file on this machine; or the content as bytes, as a list of
        lines, or as a future of text, bytes or lines. Without it the standard input is empty.
    :param stdout: name of a file on this machine that the standard output is written to, whole
        and only when the program has ended, also if it failed.
    :param stderr: the same for the standard error.
    :param env: variables to add to the worker's environment.
    :param cwd: working folder on the worker; without it the worker's own.
    :param cache: do not run it again if it has ended well in a former run: what it prints must
        be all that it is run for, since files that it leaves elsewhere are not kept.
    :param retries: how often it is run again if it fails.
    :param timeout: seconds that it may take; then it is ended, with all that it has started.
    :return: a future of :class:`Completed`. If the program cannot start, or ends with another
        exit code than 0, it raises :class:`ExecutableError`.
    :raises UsageError: if no workflow is running, or an argument cannot be what was meant.
    """
    if isinstance(argv, (str, bytes)) or not argv:
        raise UsageError(
            f"executable() takes a list of the program and its arguments, not {argv!r}.",
            remedy='write e.g. scalems.executable(["echo", "hello"])',
        )
    words = list(argv)
    graph = current.graph(f"the executable {words[0]!r} was called")
    for index, word in enumerate(words):
        if not argument.futures_in(word):
            _word(word, index)
    files = {"stdout": _target(stdout), "stderr": _target(stderr)}

    def finish(printed: Printed) -> Completed:
        return _completed(printed, files)

    return graph.submit(
        run,
        (words, _content(stdin), dict(env or {}), None if cwd is None else os.fspath(cwd)),
        {},
        name=Path(str(words[0])).name if isinstance(words[0], (str, os.PathLike)) else "executable",
        finish=finish,
        options=TaskOptions(cache=cache, retries=retries, timeout=timeout),
    )


def run(
    argv: Sequence[object], stdin: object, env: Mapping[str, object], cwd: str | None
) -> Printed:
    """Run a program in this process's place on the far side and wait for it.

    :raises ExecutableError: if it cannot start.
    """
    words = [_word(word, index) for index, word in enumerate(argv)]
    settings = {key: _word(value, key) for key, value in env.items()}
    try:
        process = subprocess.run(
            words,
            input=_bytes(stdin),
            capture_output=True,
            env={**os.environ, **settings},
            cwd=cwd,
            check=False,
        )
    except OSError as error:
        raise ExecutableError(_start_failure(words[0], cwd, error), argv=tuple(words)) from None
    return Printed(
        argv=tuple(words),
        returncode=process.returncode,
        stdout=process.stdout,
        stderr=process.stderr,
    )


def _word(value: object, place: int | str) -> str:
    if isinstance(value, (str, bytes, os.PathLike)):
        return os.fsdecode(value)
    if isinstance(value, (int, float, Number)) and not isinstance(value, bool):
        return str(value)
    where = f"argument {place}" if isinstance(place, int) else f"the variable {place}"
    hint = "take the part of it that you mean, in a task of its own"
    if isinstance(value, (list, tuple)):
        hint = "write its items one by one: [program, *items]"
    raise UsageError(
        f"An executable takes text, paths and numbers, and {where} is "
        f"{'None' if value is None else f'a {type(value).__name__}'}.",
        remedy=hint,
    )


def _content(stdin: object) -> object:
    if isinstance(stdin, (str, os.PathLike)):
        path = Path(stdin)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"The file for stdin cannot be read: {path}: {error.strerror}",
                remedy="a text is the name of a file; give content as bytes or a list of lines",
            ) from None
    return stdin


def _bytes(content: object) -> bytes:
    if content is None:
        return b""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, (list, tuple)) and all(isinstance(line, str) for line in content):
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in content).encode()
    raise UsageError(
        f"stdin takes text, bytes or a list of lines, not a {type(content).__name__}.",
        remedy="make text of it in a task of its own",
    )


def _start_failure(program: str, cwd: str | None, error: OSError) -> str:
    if cwd is not None and not Path(cwd).is_dir():
        return f"{program} did not start: there is no folder {cwd} on the worker"
    if isinstance(error, FileNotFoundError):
        place = "there" if "/" in program else f"in PATH={os.environ.get('PATH', '')}"
        return f"{program} did not start: there is no such program {place}"
    return f"{program} did not start: {error.strerror}"


def _target(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the absolute path of an output file: the working folder may change until then."""
    if name is None:
        return None
    path = Path(os.path.abspath(name))  # noqa: PTH100 - resolve() would follow a link at its end
    if path.is_dir():
        raise UsageError(f"The output cannot be written to {path}: it is a folder.")
    return path


def _completed(printed: Printed, files: Mapping[str, Path | None]) -> Completed:
    """Write the output files and return what the user gets.

    :raises ExecutableError: if the exit code is not 0.
    """
    shown: dict[str, Any] = {}
    for stream, path in files.items():
        data: bytes = getattr(printed, stream)
        shown[stream] = data.decode(errors="replace") if path is None else _write(path, data)
    if printed.returncode != 0:
        end = printed.stderr.decode(errors="replace").rstrip()[-_SHOWN:]
        raise ExecutableError(
            f"{printed.argv[0]} {_how(printed.returncode)}"
            + (f"; the end of its stderr:\n{end}" if end else "; its stderr is empty"),
            argv=printed.argv,
            returncode=printed.returncode,
            stderr=end,
        )
    return Completed(argv=printed.argv, returncode=0, **shown)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def _write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    except OSError as error:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()
        raise ScalemsError(
            f"The output could not be written to {path}: {error.strerror}",
            remedy="make room or choose another file, then run again",
        ) from error
    return path
