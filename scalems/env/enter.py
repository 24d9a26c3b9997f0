"""Entering an environment as a task does: the one place that knows how."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from scalems.env import caches
from scalems.env.check import Depth
from scalems.env.finding import not_ready
from scalems.env.role import Role
from scalems.env.selection import select
from scalems.env.site import Site
from scalems.env.verification import see, sync_command
from scalems.errors import EnvironmentNotReady
from scalems.host import ssh
from scalems.host.address import Host


def shell_lines(
    venv: Path, site: Site, more: Sequence[str] = (), *, conda: bool = False
) -> list[str]:
    """Return the shell lines by which a Worker enters a venv: those of its site come first.

    What modules set for another Python must go: packages that ``PYTHONPATH`` names would come
    before those of the venv, as those of the Pilot venv would.

    :param more: lines to run in it, before what it is entered for.
    :param conda: whether it is a conda environment, which has no script to activate it.
    """
    return [
        *site.lines,
        "unset PYTHONPATH PYTHONHOME",
        caches.LINE,
        *_activation(venv, conda=conda),
        *more,
    ]


def _activation(venv: Path, *, conda: bool) -> list[str]:
    if not conda:
        return [f". {shlex.quote(str(venv / 'bin' / 'activate'))}"]
    quoted = shlex.quote(str(venv))
    hooks = f"{quoted}/etc/conda/activate.d/*.sh"
    return [
        f"export CONDA_PREFIX={quoted} PATH={quoted}/bin:$PATH",
        "unset VIRTUAL_ENV",
        f'for hook in {hooks}; do [ ! -r "$hook" ] || . "$hook"; done',
    ]


def ready(text: str, resource: str | None, *, verified: bool) -> tuple[Host | None, list[str]]:
    """Return the shell lines into an environment in use, after a look at it, and its host.

    :param text: see :func:`scalems.env.selection.select`.
    :param verified: refuse one that is not what was built.
    :raises UsageError: there is no such environment.
    :raises EnvironmentNotReady: it is not what was built.
    """
    synced, env = select(text, resource=resource)
    seen, *base = see(synced, env.parts, depth=Depth.FAST)
    findings = [finding for one in (seen, *base) for finding in one.findings]
    if findings and verified:
        problem = not_ready(synced.label, findings)
        steps = [step for step in (problem.remedy, sync_command(synced.label)) if step]
        raise EnvironmentNotReady(
            problem.cause, remedy=f"{'; then '.join(steps)}; or enter it with --no-check"
        )
    site = Site.from_dict(seen.manifest.site) if seen.manifest else Site()
    more = (env.lines + synced.lines).pre_exec if env.role.plays(Role.TASK) else ()
    return synced.host, shell_lines(env.folder / "venv", site, more)


def replace_by(host: Host | None, lines: Sequence[str], words: Sequence[str]) -> int:
    """Replace this process by a command in an environment; bash tells if it is not there.

    :param host: where the environment is; ``None`` is this machine.
    """
    script = "\n".join([*lines, 'exec "$@"'])
    _replace(host, ["bash", "-c", script, "scalems", *words])


def _replace(host: Host | None, words: Sequence[str]) -> NoReturn:
    if host is None:
        os.execvp(words[0], list(words))
    argv = ssh.interactive(host)
    os.execvp(argv[0], [*argv, f"exec {shlex.join(words)}"])


def replace_by_shell(host: Host | None, lines: Sequence[str], *, prompt: str) -> int:
    """Replace this process by an interactive bash in an environment.

    :param host: where the environment is; ``None`` is this machine.
    """
    if host is not None:
        name = shlex.quote(f"({prompt} on {host.name}) ")
        start = ["[ -f ~/.bashrc ] && . ~/.bashrc", *lines, f'PS1={name}"$PS1"']
        inner = 'exec bash --rcfile <(printf "%s" "$1") -i'
        _replace(host, ["bash", "-c", inner, "scalems", "\n".join(start) + "\n"])
    handle, name = tempfile.mkstemp(prefix="scalems-shell-")
    with os.fdopen(handle, "w") as stream:
        stream.write('[ -f ~/.bashrc ] && . ~/.bashrc\nrm -f "$SCALEMS_RCFILE"\n')
        stream.write("unset SCALEMS_RCFILE\nexport VIRTUAL_ENV_DISABLE_PROMPT=1\n")
        stream.write("\n".join(lines))
        stream.write(f'\nPS1={shlex.quote(f"({prompt}) ")}"$PS1"\n')
    os.environ["SCALEMS_RCFILE"] = name
    os.execvp("bash", ["bash", "--rcfile", name, "-i"])
