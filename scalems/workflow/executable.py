"""Programs as tasks: the client's side, see :mod:`scalems.workflow.program` for the other."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future as AnyFuture
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalems.errors import ScalemsError, UsageError
from scalems.workflow import argument, current, program
from scalems.workflow.file import File, file
from scalems.workflow.needs import Needs
from scalems.workflow.options import TaskOptions
from scalems.workflow.program import ExecutableError, Printed, Program

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from scalems.workflow.future import Future

__all__ = ["Completed", "ExecutableError", "executable"]


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A program that has ended well."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str | Path
    """What it printed, or the file that this was written to."""
    stderr: str | Path
    """What it printed to its standard error, or the file that this was written to."""
    file: Mapping[str, File] = field(default_factory=dict)
    """Its output files, by their labels."""


def executable(
    argv: Sequence[object],
    *,
    inputs: Mapping[str, object] | Sequence[object] = (),
    outputs: Mapping[str, str] | Sequence[str] = (),
    stdin: object = None,
    stdout: str | os.PathLike[str] | None = None,
    stderr: str | os.PathLike[str] | None = None,
    env: Mapping[str, object] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pre_exec: Sequence[str] = (),
    pre_rank: Sequence[str] = (),
    exit_codes: Collection[int] = (0,),
    cache: bool | None = None,
    retries: int | None = None,
    timeout: float | None = None,
    ranks: int = 1,
    cores_per_rank: int = 1,
    gpus_per_rank: int = 0,
    memory: int | str | None = None,
    cpu_time: float | None = None,
    priority: int = 0,
    route: str = "auto",
    tags: Sequence[str] = (),
    label: str = "",
    on_error: Literal["continue", "stop"] | None = None,
    backoff: float = 0.5,
) -> Future[Completed]:
    """Run a program as a task; no shell is in between.

    .. code-block:: python

        prepared = scalems.executable(
            ["gmx", "grompp", "-f", "md.mdp", "-c", "conf.gro", "-p", "topol.top"],
            inputs=["md.mdp", "conf.gro", "topol.top"],
            outputs=["topol.tpr"],
        )
        run = scalems.executable(
            ["gmx", "mdrun", "-s", prepared.file["topol.tpr"]],
            outputs={"trajectory": "traj_comp.xtc"},
        )
        run.result().file["trajectory"].copy_to("results/")

    :param argv: the program and its arguments: text, paths, numbers, files, or futures of these.
    :param inputs: what is laid into its working folder, as links to read-only files: paths on
        this machine, or a dict from names there to paths, :class:`~scalems.File`, content as
        bytes, or futures of files, text or bytes.
    :param outputs: what is kept of what it leaves in its working folder: relative paths, or a
        dict from labels to these. They are ``future.file[label]``, for other tasks and in the
        result. One that is missing is an error.
    :param stdin: name of a file on this machine; or the content as bytes, as a list of
        lines, or as a future of text, bytes or lines. Without it the standard input is empty.
    :param stdout: name of a file on this machine that the standard output is written to, whole
        and only when the program has ended, also if it failed.
    :param stderr: the same for the standard error.
    :param env: variables to add to the worker's environment.
    :param cwd: working folder, which must be there on the worker. Without it the program has a
        folder of its own, which is removed when it has ended.
    :param pre_exec: lines of bash to run once before the program, in its working folder: what
        they export is there for it, and for the ranks that are on the same host. The first that
        fails ends the task.
    :param pre_rank: the same in each rank, after the ``pre_rank`` lines of the environment.
    :param exit_codes: those by which it ends well.
    :param cache: do not run it again if it has ended well in a former run. That is so by itself
        if it has outputs, for then all that it is run for is known and kept.
    :param retries: how often it is run again if it fails.
    :param timeout: seconds that it may take; then it is ended, with all that it has started.
    :param ranks: MPI processes that it is started on, by the ``mpiexec`` of the worker.
    :param cores_per_rank: cores that each takes; ``OMP_NUM_THREADS`` tells it.
    :param gpus_per_rank: GPUs that each takes; ``CUDA_VISIBLE_DEVICES`` tells it.
    :param memory: what each of its processes on the worker's host may take, as for tasks.
    :param cpu_time: seconds of CPU that each of these may take; then it is ended by SIGXCPU.
    :param priority: programs and tasks with a higher one run first.
    :param route: ``worker`` or ``rp``, see :class:`~scalems.workflow.options.TaskOptions`.
    :param tags: words that it can be found by: ``scalems show --tag WORD``.
    :param label: its name in messages, by default that of the program.
    :param on_error: if it fails, ``continue`` with the run or ``stop`` it; by default what the
        run says.
    :param backoff: seconds before it is run again; the pause doubles each time.
    :return: a future of :class:`Completed`. If the program cannot start, or ends with another
        exit code, or leaves no output, it raises :class:`ExecutableError`.
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
            program.word(word, index)
    files = {"stdout": _target(stdout), "stderr": _target(stderr)}
    kept = _outputs(outputs)

    def finish(printed: Printed) -> Completed:
        return _completed(printed, files, exit_codes)

    options = TaskOptions(
        cache=bool(kept) if cache is None else cache,
        retries=retries,
        timeout=timeout,
        ranks=ranks,
        cores_per_rank=cores_per_rank,
        gpus_per_rank=gpus_per_rank,
        memory=memory,
        cpu_time=cpu_time,
        priority=priority,
        route=route,
        tags=tags,
        label=label,
        on_error=on_error,
        backoff=backoff,
    )
    wanted = Program(
        argv=words,
        stdin=_content(stdin),
        env=dict(env or {}),
        cwd=None if cwd is None else os.fspath(cwd),
        pre_exec=_lines("pre_exec", pre_exec),
        pre_rank=_lines("pre_rank", pre_rank),
        inputs=_inputs(inputs),
        outputs=kept,
        exit_codes=tuple(exit_codes),
        needs=Needs(ranks=ranks, cores_per_rank=cores_per_rank),
    )
    return graph.submit(
        program.run,
        (wanted,),
        {},
        name=label or _program_name(words[0]),
        finish=finish,
        # The function that starts the ranks runs once, and takes the cores of all of them.
        options=options.replaced(
            ranks=1,
            cores_per_rank=ranks * cores_per_rank,
            gpus_per_rank=ranks * gpus_per_rank,
            parts=ranks,
        ),
    )


def _lines(name: str, lines: object) -> tuple[str, ...]:
    if not isinstance(lines, (list, tuple)):
        raise UsageError(f"{name} is a list of shell lines, not {lines!r}.")
    for index, line in enumerate(lines):
        if not isinstance(line, str) or not line.strip() or set("\n\r\0") & set(line):
            raise UsageError(f"{name}[{index}] must be one line of shell, not {line!r}.")
    return tuple(lines)


def _program_name(word: object) -> str:
    return Path(str(word)).name if isinstance(word, (str, os.PathLike)) else "executable"


def _inputs(inputs: Mapping[str, object] | Sequence[object]) -> dict[str, object]:
    """Return what is laid where; a file of this machine is looked at now."""
    if isinstance(inputs, (str, bytes, os.PathLike)):
        raise UsageError(f"inputs is a list or a dict, not {inputs!r}.")
    if isinstance(inputs, Mapping):
        named = {str(program.relative(name)): source for name, source in inputs.items()}
    else:
        named = {_name(source): source for source in inputs}
        if len(named) < len(inputs):
            raise UsageError(
                "Two of the inputs have the same name.",
                remedy="give them names of their own: inputs={'a.pdb': 'one/a.pdb', …}",
            )
    return {
        name: file(source)
        if isinstance(source, (str, os.PathLike)) and not isinstance(source, File)
        else source
        for name, source in named.items()
    }


def _name(source: object) -> str:
    if isinstance(source, File):
        return source.name
    if isinstance(source, (str, os.PathLike)):
        return Path(source).name
    what = "a future" if isinstance(source, AnyFuture) else f"a {type(source).__name__}"
    raise UsageError(
        f"An input is {what}, and its name in the working folder is not known.",
        remedy="write a dict: inputs={'conf.gro': prepared.file['conf.gro']}",
    )


def _outputs(outputs: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    if isinstance(outputs, (str, bytes)):
        raise UsageError(f"outputs is a list or a dict, not {outputs!r}.")
    named = outputs if isinstance(outputs, Mapping) else {name: name for name in outputs}
    return {label: str(program.relative(name)) for label, name in named.items()}


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


def _target(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the absolute path of an output file: the working folder may change until then."""
    if name is None:
        return None
    path = Path(os.path.abspath(name))  # noqa: PTH100 - resolve() would follow a link at its end
    if path.is_dir():
        raise UsageError(f"The output cannot be written to {path}: it is a folder.")
    return path


def _completed(
    printed: Printed, files: Mapping[str, Path | None], exit_codes: Collection[int]
) -> Completed:
    """Write the output files and return what the user gets.

    :raises ExecutableError: if the exit code is not one of success.
    """
    shown: dict[str, Any] = {}
    for stream, path in files.items():
        data: bytes = getattr(printed, stream)
        shown[stream] = data.decode(errors="replace") if path is None else _write(path, data)
    if printed.returncode not in exit_codes:
        end = program.tail(printed.stderr)
        raise ExecutableError(
            f"{printed.argv[0]} {program.how(printed.returncode)}"
            + (f"; the end of its stderr:\n{end}" if end else "; its stderr is empty"),
            argv=printed.argv,
            returncode=printed.returncode,
            stderr=end,
        )
    return Completed(
        argv=printed.argv, returncode=printed.returncode, file=dict(printed.file), **shown
    )


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
