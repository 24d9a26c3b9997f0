"""``scalems env adopt``: a venv that scalems did not build."""

from __future__ import annotations

import argparse

from scalems.cli.command import Commands, add
from scalems.errors import ExitCode


def configure(commands: Commands) -> None:
    """Add this command."""
    command = add(
        commands,
        "adopt",
        "look at a venv that scalems did not build, and take it for --venv as it is now",
        "  scalems env adopt ~/venvs/md\n"
        "  python -m scalems.local --venv ~/venvs/md script.py\n"
        "  scalems env adopt '~/venvs/md' --resource lab.cluster     on that resource's host\n\n"
        "A run with --venv /PATH looks at it in the same way, and refuses it when it has changed\n"
        "since it was adopted. `scalems env check --venv /PATH` only looks.\n\n"
        "exit codes: 0 it can be used, 2 it is no venv, 3 it differs from the client too much",
    )
    command.add_argument("venv", metavar="FOLDER", help="the venv")
    command.add_argument(
        "--resource", metavar="LABEL", help="on the host of this resource (default: this machine)"
    )
    command.add_argument("--dry-run", action="store_true", help="only look at it")
    command.set_defaults(run=_adopt)


def _adopt(options: argparse.Namespace) -> int:
    return look(options, keep=not options.dry_run)


def look(options: argparse.Namespace, *, keep: bool) -> int:
    """Look at the venv that the options name, and show what there is to say of it.

    :param keep: take it as it is now, if it can be used.
    """
    from dataclasses import replace

    from scalems.cli import plain, render
    from scalems.env import adopt
    from scalems.env.finding import errors

    found = adopt.inspect(options.venv, options.resource)
    # To take it as it is now is what was asked for.
    kept = tuple(one for one in found.findings if not keep or one.kind != adopt.CHANGED)
    found = replace(found, findings=kept)
    usable = not errors(found.findings)
    if usable and keep:
        adopt.remember(found)
    if options.json:
        render.print_json({**found.to_dict(), "ok": usable})
    else:
        if not options.quiet:
            print(render.parity_table(found.parity))
        render.print_findings(found.findings)
        if usable and not options.quiet:
            print(plain.styled(f"{found.shown} can be used", "green"))
    return ExitCode.DONE if usable else ExitCode.NOT_READY
