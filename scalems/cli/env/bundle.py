"""``scalems env bundle``: all of a resource in one file, for a machine without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalems.cli.command import Commands, add, add_project
from scalems.errors import ExitCode, UsageError


def configure(commands: Commands) -> None:
    """Add these commands."""
    from scalems.cli.command import ENGINES

    command = add(
        commands,
        "bundle",
        "write all that a resource needs into one file, for a machine without a network",
        "  scalems env bundle --resource lab.slurm -o lab.pyz\n"
        "  scalems env bundle --resource lab.slurm --target cp312-manylinux_2_28_x86_64 "
        "-o lab.pyz\n"
        "  scalems env bundle --resource lab.slurm --since lab.pyz -o new.pyz   what is new only\n"
        "  scalems env bundle --resource lab.slurm --with-python -o lab.pyz\n"
        "there, without Python:   sh lab.pyz --venv .venv\n"
        "there, without scalems:  python3 lab.pyz --venv .venv\n"
        "there, with it:          scalems env sync --bundle lab.pyz --offline\n"
        "                         scalems env bundle --have > have.json     for --since",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--resource", metavar="LABEL", help="resource, such as lab.slurm")
    what.add_argument(
        "--have", action="store_true", help="list what this machine has of bundles before, as JSON"
    )
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="the bundle")
    command.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TAG",
        help="Python and platform of the machine, such as cp312-manylinux_2_28_x86_64; repeatable "
        "(default: `targets` of the resource config, else this machine)",
    )
    command.add_argument(
        "--since",
        type=Path,
        metavar="FILE",
        help="leave out what the target has: a bundle that it was given, or a listing (--have)",
    )
    command.add_argument(
        "--with-python",
        nargs="?",
        const="",
        metavar="PYTHON",
        help="take a Python along: the client's, or this folder, interpreter or .tar.gz "
        "(`install_only` of python-build-standalone)",
    )
    command.add_argument("--engine", choices=ENGINES, default="auto", help="what resolves")
    command.add_argument(
        "--offline", action="store_true", help="only what was collected before, no network"
    )
    add_project(command)
    command.set_defaults(run=_bundle)


def _bundle(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import bundle
    from scalems.env.locking import Options
    from scalems.resource.config import find_project

    if options.have:
        render.print_json(bundle.have())
        return ExitCode.DONE
    if options.output is None:
        raise UsageError(
            "the bundle needs a name", remedy=f"add -o {options.resource.partition('.')[0]}.pyz"
        )
    with render.progress(quiet=options.quiet or options.json) as notify:
        result = bundle.make(
            find_project(options.project),
            options.resource,
            options.output.absolute(),
            targets=options.target,
            since=options.since,
            python=options.with_python,
            options=Options(engine=options.engine, frozen=True, offline=options.offline),
            notify=notify,
        )
    if options.json:
        render.print_json(result.to_dict())
    elif not options.quiet:
        from scalems.cli import render_share

        render_share.print_bundle(result)
    return ExitCode.DONE
