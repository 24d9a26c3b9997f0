"""``scalems env export``: an environment in the formats of other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalems.cli.command import Commands, add, add_project
from scalems.errors import ExitCode

FORMATS = ("requirements", "pylock", "conda", "cyclonedx")


def configure(commands: Commands) -> None:
    """Add these commands."""
    command = add(
        commands,
        "export",
        "write a lock in the format of another tool",
        "  scalems env export task > requirements.txt\n"
        "  scalems env export task --format pylock -o pylock.task.toml      PEP 751\n"
        "  scalems env export task --format cyclonedx -o task.cdx.json      an SBOM\n"
        "  scalems env export task --format conda -o environment.yml",
    )
    command.add_argument("name", metavar="NAME", help="env spec, such as task")
    command.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s, with hashes"
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: standard output"
    )
    add_project(command)
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from scalems.env import export
    from scalems.host.files import write_atomic
    from scalems.resource.config import find_project

    text = export.export(find_project(options.project), options.name, options.format)
    if options.output:
        write_atomic(options.output, text)
    else:
        print(text, end="")
    return ExitCode.DONE
