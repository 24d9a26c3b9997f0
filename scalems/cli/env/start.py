"""``scalems env init``: first specs, to edit."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalems.cli.command import Commands, add
from scalems.errors import ExitCode


def configure(commands: Commands) -> None:
    """Add these commands."""
    command = add(
        commands,
        "init",
        "write first env specs and a resource config, with comments, to edit",
        "  scalems env init\n"
        "  scalems env init --resource access.bridges2 --from requirements.txt\n"
        "  scalems env init --from pyproject.toml --extra plot --group simulation\n"
        "  scalems env init --from environment.yml   of conda\n"
        "  scalems env init --from $VIRTUAL_ENV      what you use now\n\n"
        "Files that are there stay as they are.",
    )
    command.add_argument(
        "--resource",
        default="local.localhost",
        metavar="LABEL",
        help="resource of RADICAL-Pilot's, or a new one (default: %(default)s)",
    )
    command.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="requirements.txt, pyproject.toml, pylock.toml, conda's environment.yml, or a venv "
        "(default: a file of these names that is here)",
    )
    command.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME",
        help="with these optional dependencies of the pyproject.toml; repeatable",
    )
    command.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME",
        help="with this dependency group of the pyproject.toml; repeatable",
    )
    command.add_argument(
        "-C", "--project", type=Path, metavar="FOLDER", help="where to write (default: here)"
    )
    command.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env.initialize import initialize
    from scalems.errors import UsageError

    folder = (options.project or Path.cwd()).absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", remedy=f"mkdir -p {folder}")
    result = initialize(
        folder,
        options.resource,
        source=options.source,
        extras=options.extra,
        groups=options.group,
    )
    if options.json:
        render.print_json(result.to_dict())
    else:
        render.print_initialized(result)
    return ExitCode.DONE
