"""Entering an environment as a task does: the one place that knows how."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scalems.env import check
from scalems.env.check import Depth
from scalems.env.finding import not_ready
from scalems.env.selection import select
from scalems.env.verify import sync_command
from scalems.errors import EnvironmentNotReady, UsageError


def shell_lines(venv: Path) -> list[str]:
    """Return the shell lines by which a Worker enters a venv.

    Without the first, the packages of the Pilot venv would come before those of the Task venv.
    """
    return [
        "unset PYTHONPATH PYTHONHOME",
        f". {shlex.quote(str(venv / 'bin' / 'activate'))}",
    ]


def ready(text: str, resource: str | None, *, verified: bool) -> Path:
    """Return the venv of an environment in use, after a look at it.

    :param text: see :func:`scalems.env.selection.select`.
    :param verified: refuse one that is not what was built.
    :raises UsageError: there is no such environment.
    :raises EnvironmentNotReady: it is not what was built.
    """
    synced, env = select(text, resource=resource)
    venv = env.folder / "venv"
    findings = check.inspect(env.name, env.folder, depth=Depth.FAST) if verified else []
    if findings:
        problem = not_ready(synced.label, findings)
        raise EnvironmentNotReady(
            problem.cause, remedy=f"{sync_command(synced.label)}; or enter it with --no-check"
        )
    return venv


def replace_by(venv: Path, words: Sequence[str]) -> int:
    """Replace this process by a command in a venv.

    :raises UsageError: there is no such command there.
    """
    if not shutil.which(words[0], path=f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"):
        raise UsageError(
            f"there is no command {words[0]!r} in {venv} nor on PATH",
            remedy="check the spelling; commands come after --",
        )
    lines = [*shell_lines(venv), 'exec "$@"']
    os.execvp("bash", ["bash", "-c", "\n".join(lines), "scalems", *words])


def replace_by_shell(venv: Path, *, prompt: str) -> int:
    """Replace this process by an interactive bash in a venv."""
    handle, name = tempfile.mkstemp(prefix="scalems-shell-")
    with os.fdopen(handle, "w") as stream:
        stream.write('[ -f ~/.bashrc ] && . ~/.bashrc\nrm -f "$SCALEMS_RCFILE"\n')
        stream.write("unset SCALEMS_RCFILE\nexport VIRTUAL_ENV_DISABLE_PROMPT=1\n")
        stream.write("\n".join(shell_lines(venv)))
        stream.write(f'\nPS1={shlex.quote(f"({prompt}) ")}"$PS1"\n')
    os.environ["SCALEMS_RCFILE"] = name
    os.execvp("bash", ["bash", "--rcfile", name, "-i"])
