"""``scalems env run`` and ``scalems env shell``: into the environment that a task sees."""

from __future__ import annotations

import argparse

from scalems.cli.command import Commands, add, add_resource


def configure(commands: Commands) -> None:
    """Add these commands."""
    command = add(
        commands,
        "run",
        "run a command in an environment, as a task would",
        "  scalems env run task -- python -c 'import openmm; print(openmm.__version__)'",
    )
    _add_common(command)
    command.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="command")
    command.set_defaults(run=_run)
    command = add(
        commands,
        "shell",
        "start a shell in an environment, as a task would see it",
        "  scalems env shell task",
    )
    _add_common(command)
    command.set_defaults(run=_shell)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="environment, such as task")
    add_resource(command)
    command.add_argument(
        "--no-check", action="store_true", help="enter it even if it is not what was built"
    )


def _run(options: argparse.Namespace) -> int:
    from scalems.env import enter
    from scalems.errors import UsageError

    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise UsageError(
            "there is no command to run",
            remedy=f"scalems env run {options.name} -- python --version",
        )
    lines = enter.ready(options.name, options.resource, verified=not options.no_check)
    return enter.replace_by(lines, words)


def _shell(options: argparse.Namespace) -> int:
    from scalems.env import enter

    lines = enter.ready(options.name, options.resource, verified=not options.no_check)
    return enter.replace_by_shell(lines, prompt=options.name)
