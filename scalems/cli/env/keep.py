"""``scalems env rollback`` and ``scalems env gc``: builds that are kept, and those that are not."""

from __future__ import annotations

import argparse

from scalems.cli.command import Commands, add
from scalems.errors import ExitCode
from scalems.options import natural, positive


def configure(commands: Commands) -> None:
    """Add these commands."""
    _add_rollback(commands)
    _add_gc(commands)


def _add_rollback(commands: Commands) -> None:
    command = add(
        commands,
        "rollback",
        "use the builds of an earlier generation again, until the next sync",
        "  scalems env rollback --resource local.localhost --dry-run\n"
        "  scalems env rollback --resource local.localhost            the one before\n"
        "  scalems env rollback --resource local.localhost --to 3\n\n"
        "exit codes: 0 done, 2 wrong use, 3 not ready: a build of it is gone or has changed, or\n"
        "the client is too different from it (a table shows in what)",
    )
    command.add_argument(
        "--resource", required=True, metavar="LABEL", help="resource, such as local.localhost"
    )
    command.add_argument("--to", type=positive, metavar="NUMBER", help="see `scalems env list`")
    command.add_argument("--dry-run", action="store_true", help="show it, change nothing")
    command.set_defaults(run=_rollback)


def _add_gc(commands: Commands) -> None:
    command = add(
        commands,
        "gc",
        "remove builds that no resource, no kept generation and no run refers to",
        "  scalems env gc --dry-run\n  scalems env gc --keep 0      only what is in use stays",
    )
    command.add_argument(
        "--keep",
        type=natural,
        default=3,
        metavar="N",
        help="generations of each resource to keep beside the one in use (default: %(default)s)",
    )
    command.add_argument(
        "--resource", metavar="LABEL", help="on the host of this resource (default: this machine)"
    )
    command.add_argument("--dry-run", action="store_true", help="show it, change nothing")
    command.set_defaults(run=_gc)


def _rollback(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env.rollback import rollback
    from scalems.env.verification import examine

    with render.progress(quiet=options.quiet or options.json) as notify:
        result = rollback(options.resource, to=options.to, dry_run=options.dry_run, notify=notify)
    report = None if options.dry_run else examine(options.resource)
    if options.json:
        render.print_json({**result.to_dict(), "report": report.to_dict() if report else None})
    else:
        render.print_rollback(result, report)
    return ExitCode.DONE if report is None or report.ok else ExitCode.NOT_READY


def _gc(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import inventory, layout
    from scalems.env.verification import find

    keep, dry_run = options.keep, options.dry_run
    synced = find(options.resource) if options.resource else None
    with render.progress(quiet=options.quiet or options.json) as notify:
        if synced and synced.host:
            from scalems.env.remote import far

            result = far.collect(synced, keep=keep, dry_run=dry_run, notify=notify)
        else:
            result = inventory.collect(layout.default(), keep=keep, dry_run=dry_run, notify=notify)
    if options.json:
        render.print_json(result.to_dict())
    else:
        render.print_collection(result, dry_run=options.dry_run)
    return ExitCode.DONE
