"""Look at, check and write RADICAL-Pilot's resource definitions.

RP merges $HOME/.radical/pilot/configs/resource_DOMAIN.json over the definitions that it
brings. scalems sets only what belongs to its environments there.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from scalems.cli.command import Commands, add
from scalems.errors import ExitCode
from scalems.options import positive

if TYPE_CHECKING:
    from scalems.env.state import Synced


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of this group to a parser."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_list(commands)
    _add_show(commands)
    _add_check(commands)
    _add_write(commands)


def _add_list(commands: Commands) -> None:
    command = add(
        commands,
        "list",
        "list the resources that RADICAL-Pilot and the project here know, and who defines each",
        "  scalems resource list\n  scalems resource list access",
    )
    command.add_argument("match", nargs="?", default="", metavar="TEXT", help="part of the label")
    command.set_defaults(run=_list)


def _add_show(commands: Commands) -> None:
    command = add(
        commands,
        "show",
        "show every field of a definition as RADICAL-Pilot reads it, and who sets it",
        "  scalems resource show local.localhost\n"
        "  scalems resource show access.bridges2 --nodes 4    what a pilot would ask for",
    )
    command.add_argument("label", metavar="LABEL", help="resource, such as local.localhost")
    size = command.add_mutually_exclusive_group()
    size.add_argument(
        "--nodes", type=positive, metavar="N", help="what a pilot of N nodes asks for"
    )
    size.add_argument("--cores", type=positive, metavar="N", help="the same, of N cores")
    command.set_defaults(run=_show)


def _add_check(commands: Commands) -> None:
    command = add(
        commands,
        "check",
        "check definitions against the installed RADICAL-Pilot, and against what was synced",
        "  scalems resource check\n  scalems resource check local.localhost\n\n"
        "exit codes: 0 good, 2 wrong use, 3 not ready",
    )
    command.add_argument(
        "labels", nargs="*", metavar="LABEL", help="default: all that the user's files name"
    )
    command.set_defaults(run=_check)


def _add_write(commands: Commands) -> None:
    command = add(
        commands,
        "write",
        "write the definition of a resource again, for the environments that were synced",
        "  scalems resource write local.localhost --dry-run\n"
        "  scalems resource write local.localhost",
    )
    command.add_argument("label", metavar="LABEL", help="resource, such as local.localhost")
    command.add_argument("--dry-run", action="store_true", help="show the diff, change nothing")
    command.set_defaults(run=_write)


def _list(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import layout, state
    from scalems.resource import fields

    synced = set(state.labels(layout.default()))
    planned = dict.fromkeys(fields.planned_labels(), fields.PROJECT)
    found = [
        {"label": label, "defined by": origin, "synced": label in synced}
        for label, origin in sorted({**fields.known_labels(), **planned}.items())
        if options.match in label
    ]
    if options.json:
        render.print_json(found)
    else:
        render.print_rows(found, empty=f"no resource has {options.match!r} in its label")
    return ExitCode.DONE


def _show(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.resource import definition, fields
    from scalems.resource.fields import Request

    found = fields.of(options.label, _ours(options.label))
    effective = definition.effective(options.label)
    asked = None
    if options.nodes:
        asked = Request.of(effective, options.nodes)
    elif options.cores:
        asked = fields.request(effective, cores=options.cores)
    data: dict[str, Any] = {
        "resource": options.label,
        "environment": fields.mode(effective),
        "fields": [vars(one) for one in found],
        "request": vars(asked) if asked else None,
    }
    if options.json:
        render.print_json(data)
    else:
        render.print_resource(data)
    return ExitCode.DONE


def _check(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import redefine

    reports = redefine.check(options.labels)
    if options.json:
        render.print_json([report.to_dict() for report in reports])
    else:
        for report in reports:
            render.print_definition_report(report)
        if not reports:
            print("the user's files define no resource; RADICAL-Pilot's own are in use")
    return ExitCode.DONE if all(report.ok for report in reports) else ExitCode.NOT_READY


def _write(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import redefine

    change, backup = redefine.write(options.label, dry_run=options.dry_run)
    if options.json:
        data = {"path": str(change.path), "diff": change.diff}
        render.print_json({**data, "backup": str(backup) if backup else None})
    else:
        render.print_change(change, backup, dry_run=options.dry_run)
    return ExitCode.DONE


def _ours(label: str) -> dict[str, Any]:
    from scalems.env import layout, state

    synced: Synced | None = state.read(layout.default(), label)
    return dict(synced.fields) if synced else {}
