"""``scalems env adopt``: a venv that scalems did not build."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalems.cli.command import Commands, add
from scalems.errors import ExitCode


def configure(commands: Commands) -> None:
    """Add this command."""
    command = add(
        commands,
        "adopt",
        "look at a venv that scalems did not build, and take it for --venv as it is now",
        "  scalems env adopt ~/venvs/md\n"
        "  python -m scalems.local --venv ~/venvs/md script.py\n\n"
        "A run with --venv /PATH looks at it in the same way, and refuses it when it has changed\n"
        "since it was adopted.\n\n"
        "exit codes: 0 it can be used, 2 it is no venv, 3 it differs from the client too much",
    )
    command.add_argument("venv", type=Path, metavar="FOLDER", help="the venv")
    command.add_argument("--dry-run", action="store_true", help="only look at it")
    command.set_defaults(run=_adopt)


def _adopt(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from scalems.cli import plain, render
    from scalems.env import adopt
    from scalems.env.finding import errors

    found = adopt.inspect(options.venv)
    # To take it as it is now is what was asked for.
    kept = tuple(one for one in found.findings if options.dry_run or one.kind != adopt.CHANGED)
    found = replace(found, findings=kept)
    usable = not errors(found.findings)
    if usable and not options.dry_run:
        adopt.remember(found)
    if options.json:
        render.print_json({**found.to_dict(), "ok": usable})
    else:
        print(render.parity_table(found.parity))
        render.print_findings(found.findings)
        if usable:
            print(plain.styled(f"{found.path} can be used", "green"))
    return ExitCode.DONE if usable else ExitCode.NOT_READY
