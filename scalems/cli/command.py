"""What commands have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

ENGINES = ("auto", "uv", "pip")


def add(
    commands: Commands,
    name: str,
    about: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command with the options that all have."""
    from scalems.cli import formatter

    command = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=formatter(),
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument(
        "-q", "--quiet", action="store_true", help="no progress; only what is wrong"
    )
    command.add_argument("-v", "--verbose", action="store_true", help="log what is run")
    return command


def add_project(command: argparse.ArgumentParser) -> None:
    """Add the option that names the project."""
    command.add_argument(
        "-C", "--project", type=Path, metavar="FOLDER", help="project folder, if not this one"
    )


def add_engine(command: argparse.ArgumentParser) -> None:
    """Add the options of what resolves and installs."""
    command.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what resolves and installs: uv, or virtualenv with pip-tools (default: uv if there)",
    )
    command.add_argument(
        "--upgrade", action="store_true", help="take the newest versions that the specs allow"
    )
    command.add_argument(
        "--upgrade-package",
        action="append",
        default=[],
        metavar="NAME",
        help="the same, of this package only; repeatable",
    )
    command.add_argument(
        "--offline", action="store_true", help="use cached packages only, no network"
    )


def add_resource(command: argparse.ArgumentParser) -> None:
    """Add the option that names one of the resources that were synced."""
    command.add_argument(
        "--resource", metavar="LABEL", help="resource, where several have such an environment"
    )
