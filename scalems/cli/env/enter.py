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
    _add_options(command)


def _add_options(command: argparse.ArgumentParser) -> None:
    add_resource(command)
    command.add_argument(
        "--no-check", action="store_true", help="enter it even if it is not what was built"
    )


def _run(options: argparse.Namespace) -> int:
    from scalems.env import enter
    from scalems.errors import UsageError

    words = options.words
    if "--" in words and (words[0] == "--" or words[0].startswith("-")):
        # argparse takes options between NAME and the command for words of the command.
        own = argparse.ArgumentParser(prog="scalems env run NAME", add_help=False)
        _add_options(own)
        own.parse_args(words[: words.index("--")], namespace=options)
        words = words[words.index("--") + 1 :]
    if not words:
        raise UsageError(
            "there is no command to run",
            remedy=f"scalems env run {options.name} -- python --version",
        )
    host, lines = enter.ready(options.name, options.resource, verified=not options.no_check)
    return enter.replace_by(host, lines, words)


def _shell(options: argparse.Namespace) -> int:
    from scalems.env import enter

    host, lines = enter.ready(options.name, options.resource, verified=not options.no_check)
    return enter.replace_by_shell(host, lines, prompt=options.name)
