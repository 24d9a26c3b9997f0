"""``scalems env check`` and ``watch``: is it still what was verified?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scalems.cli.command import Commands, add
from scalems.errors import ExitCode
from scalems.options import above_zero

if TYPE_CHECKING:
    from scalems.env.verification import Report


def configure(commands: Commands) -> None:
    """Add these commands."""
    _add_check(commands)
    _add_watch(commands)


def _add_check(commands: Commands) -> None:
    command = add(
        commands,
        "check",
        "compare builds with what was verified, and with the client",
        "  scalems env check\n"
        "  scalems env check --resource local.localhost --deep     read every byte\n"
        "  scalems env check --json | jq '.[].findings'\n"
        "  scalems env check --venv ~/venvs/md     one that scalems did not build\n\n"
        "exit codes: 0 ready, 2 wrong use, 3 not ready",
    )
    command.add_argument(
        "--resource", metavar="LABEL", help="only this resource (default: all that were synced)"
    )
    depth = command.add_mutually_exclusive_group()
    depth.add_argument(
        "--fast",
        dest="depth",
        action="store_const",
        const="fast",
        help="what every launch does: manifest, interpreter, distributions",
    )
    depth.add_argument(
        "--deep", dest="depth", action="store_const", const="deep", help="read every byte"
    )
    command.add_argument(
        "--venv",
        metavar="FOLDER",
        help="look at a venv that scalems did not build, in full; with --resource on its host",
    )
    command.add_argument(
        "--repair", action="store_true", help="then sync what is not ready, and check it again"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="with --repair: show what it would do"
    )
    command.set_defaults(run=_check, depth="normal")


def _add_watch(commands: Commands) -> None:
    command = add(
        commands,
        "watch",
        "check again and again, and tell when an environment drifts or is well again",
        "  scalems env watch                    every 10 minutes, until Ctrl-C\n"
        "  scalems env watch --every 60 --json  a line of JSON at each change",
    )
    command.add_argument(
        "--resource", metavar="LABEL", help="only this resource (default: all that were synced)"
    )
    command.add_argument(
        "--every", type=above_zero, default=10.0, metavar="MINUTES", help="default: %(default)g"
    )
    command.set_defaults(run=_watch)


def _check(options: argparse.Namespace) -> int:
    if options.venv is not None:
        return _check_venv(options)
    from scalems.cli import render
    from scalems.env.check import Depth
    from scalems.env.verification import examine
    from scalems.errors import UsageError
    from scalems.host.address import HostError

    if options.dry_run and not options.repair:
        raise UsageError("--dry-run is for --repair", remedy="a check alone changes nothing")
    labels = _labels(options)
    reports, unreached = [], []
    for label in labels:
        try:
            reports.append(examine(label, depth=Depth(options.depth)))
        except HostError as error:  # which does not keep the others back
            if len(labels) == 1:
                raise
            unreached.append({"resource": label, "ok": False, "error": error.cause})
            render.print_error(error)
    if options.repair and not all(report.ok for report in reports):
        for report in reports:
            if not report.ok:
                _repair(report, options)
        if not options.dry_run:
            reports = [examine(report.label, depth=Depth(options.depth)) for report in reports]
    if options.json:
        render.print_json([*(report.to_dict() for report in reports), *unreached])
    elif not options.quiet:
        for report in reports:
            render.print_report(report)
    elif findings := [finding for report in reports for finding in report.findings]:
        render.print_findings(findings)
    ready = not unreached and all(report.ok for report in reports)
    return ExitCode.DONE if ready else ExitCode.NOT_READY


def _check_venv(options: argparse.Namespace) -> int:
    from scalems.cli.env import adopt
    from scalems.errors import UsageError

    if options.repair:
        raise UsageError(
            f"{options.venv} was not built by scalems, which does not change it",
            remedy="leave --repair out, and run the command that each finding names",
        )
    return adopt.look(options, keep=False)


def _labels(options: argparse.Namespace) -> list[str]:
    from scalems.env import layout, state
    from scalems.errors import EnvironmentNotReady

    labels = [options.resource] if options.resource else state.labels(layout.default())
    if not labels:
        raise EnvironmentNotReady(
            "no resource was synced yet", remedy="scalems env sync --resource local.localhost"
        )
    return labels


def _repair(report: Report, options: argparse.Namespace) -> None:
    from scalems.cli import render
    from scalems.env.locking import Options
    from scalems.env.sync import sync
    from scalems.resource.config import Project

    quiet = options.quiet or options.json
    if not quiet:
        render.print_findings(report.findings)
    with render.progress(quiet=quiet) as notify:
        plan = Options(deep=options.depth == "deep", dry_run=options.dry_run)
        result = sync(Project(report.synced.project), report.label, plan, notify=notify)
    if options.dry_run and not quiet:
        render.print_sync(result, dry_run=True)


def _watch(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env.watch import changes

    for change in changes(_labels(options), every=options.every * 60.0):
        if options.json:
            render.print_json_line(change.to_dict())
        else:
            render.print_watched(change)
    return ExitCode.DONE
