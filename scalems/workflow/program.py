"""Programs on the far side: laid out, run and collected there.

The client makes calls of :func:`run`, see :mod:`scalems.workflow.executable`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Number
from pathlib import Path, PurePosixPath

from scalems.errors import TaskError, UsageError
from scalems.workflow import call, file, mpi
from scalems.workflow import needs as needs_of
from scalems.workflow.file import File
from scalems.workflow.needs import NONE, Needs

_SHOWN = 2000


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
class Program:
    """What is to be run; futures in it have their values by then."""

    argv: Sequence[object]
    stdin: object = None
    env: Mapping[str, object] = field(default_factory=dict)
    cwd: str | None = None
    """``None``: a folder of its own."""
    inputs: Mapping[str, object] = field(default_factory=dict)
    """Names in the working folder, and what is laid there."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Labels, and the names in the working folder."""
    exit_codes: Collection[int] = (0,)
    """Those that mean that it has ended well."""
    needs: Needs = NONE
    """MPI ranks to start it on, and cores of each."""
    pre_exec: Sequence[str] = ()
    """Shell lines to run once before it is started."""
    pre_rank: Sequence[str] = ()
    """Shell lines to run in each rank before it."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What comes back from the far side: a program that has ended, well or not."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    file: Mapping[str, File] = field(default_factory=dict)
    """Its output files by their labels, if it has ended well."""


def run(program: Program) -> Printed:
    """Run a program and wait for it.

    :raises ExecutableError: if it cannot start, or has not made an output.
    :raises FileError: if an input is not there, or is not what it was.
    """
    words = [word(value, index) for index, value in enumerate(program.argv)]
    settings = {key: word(value, key) for key, value in program.env.items()}
    with _working_folder(program.cwd) as folder:
        for name, source in program.inputs.items():
            file.laid(source, folder / relative(name))
        try:
            start, variables = _start(program.needs)
            process = subprocess.run(
                [*mpi.shell(program.pre_exec), *start, *mpi.shell(program.pre_rank), *words],
                input=_bytes(program.stdin),
                capture_output=True,
                env={**variables, **settings},
                cwd=folder,
                check=False,
            )
        except OSError as error:
            failure = _start_failure(words[0], program.cwd, error)
            raise ExecutableError(failure, argv=tuple(words)) from None
        printed = Printed(
            argv=tuple(words),
            returncode=process.returncode,
            stdout=process.stdout,
            stderr=process.stderr,
        )
        if process.returncode not in program.exit_codes:
            return printed
        return replace(printed, file=_collected(program, folder, printed))


def _start(needs: Needs) -> tuple[list[str], dict[str, str]]:
    """Return the words before a program, and its variables."""
    running = call.running()
    if running is not None:
        needs = replace(needs, hosts=running.needs.hosts)
    if needs.ranks == 1:
        return [], {**os.environ, **needs_of.variables(needs, ())}
    return mpi.command(needs), mpi.environment(needs)


def how(returncode: int) -> str:
    """Return how a program ended, in words."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    if returncode == -signal.SIGXCPU:
        return "has used up its CPU time (SIGXCPU)"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def relative(name: str) -> PurePosixPath:
    """Return the path of a file in the working folder of a program.

    :raises UsageError: it leads out of that folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise UsageError(
            f"{name!r} is no name of a file in the working folder of a program.",
            remedy="inputs and outputs have relative paths without '..'",
        )
    return path


def tail(stderr: bytes) -> str:
    """Return the end of what a program wrote to its standard error."""
    return stderr.decode(errors="replace").rstrip()[-_SHOWN:]


@contextlib.contextmanager
def _working_folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="task-", dir=file.scratch()) as folder:
        yield Path(folder)


def _collected(program: Program, folder: Path, printed: Printed) -> dict[str, File]:
    paths = {label: folder / relative(name) for label, name in program.outputs.items()}
    missing = [label for label, path in paths.items() if not path.is_file()]
    if not missing:
        return {label: file.kept(path) for label, path in paths.items()}
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = ", ".join(repr(program.outputs[label]) for label in missing)
    end = tail(printed.stderr)
    raise ExecutableError(
        f"{printed.argv[0]} {how(printed.returncode)} and has not made {names}"
        + (f"; it has left {', '.join(there[:10])}" if there else "; it has left no file")
        + (f"; the end of its stderr:\n{end}" if end else "; its stderr is empty"),
        argv=printed.argv,
        returncode=printed.returncode,
        stderr=end,
    )


def word(value: object, place: int | str) -> str:
    """Return a word of a command line, or the value of a variable.

    :raises UsageError: it cannot be one.
    """
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
