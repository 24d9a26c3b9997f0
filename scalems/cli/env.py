"""Build, verify and lock the environments of a resource.

Env specs are in envs/NAME.toml, resource configs in resource-configs/DOMAIN.toml of the
project: the folder that you are in, or one above it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import ExitCode

if TYPE_CHECKING:
    from scalems.env.state import Synced

ENGINES = ("auto", "uv", "pip")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of this group to a parser."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_sync(commands)
    _add_check(commands)
    _add_lock(commands)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    examples: str,
) -> argparse.ArgumentParser:
    from scalems.cli import formatter

    command = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=formatter(),
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    command.add_argument("-v", "--verbose", action="store_true", help="log what is run")
    command.add_argument(
        "-C", "--project", type=Path, metavar="FOLDER", help="project folder, if not this one"
    )
    return command


def _add_engine(command: argparse.ArgumentParser) -> None:
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
        "--offline", action="store_true", help="use cached packages only, no network"
    )


def _add_sync(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _add(
        commands,
        "sync",
        "make a resource's environments what their specs say",
        "  scalems env sync --resource local.localhost\n"
        "  scalems env sync --resource local.localhost --dry-run   show it, change nothing\n"
        "  scalems env sync --resource local.localhost --frozen    never touch a lock",
    )
    command.add_argument(
        "--resource", required=True, metavar="LABEL", help="resource, such as local.localhost"
    )
    _add_engine(command)
    command.add_argument(
        "--frozen", action="store_true", help="fail if a lock is not current, never resolve"
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would be resolved, built and written, with the exact diff",
    )
    command.add_argument(
        "--deep",
        action="store_true",
        help="read every byte of what is built, not sizes and times only, to find what to mend",
    )
    command.set_defaults(run=_sync)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _add(
        commands,
        "check",
        "compare builds with what was verified, and with the client",
        "  scalems env check\n"
        "  scalems env check --resource local.localhost --deep     read every byte\n"
        "  scalems env check --json | jq '.[].findings'\n\n"
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
    command.set_defaults(run=_check, depth="normal")


def _add_lock(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _add(
        commands,
        "lock",
        "resolve env specs into pinned and hashed locks beside them",
        "  scalems env lock                  those that are not current\n"
        "  scalems env lock task --upgrade   to the newest versions that the spec allows",
    )
    command.add_argument("names", nargs="*", metavar="NAME", help="env specs (default: all)")
    _add_engine(command)
    command.set_defaults(run=_lock)


def _sync(options: argparse.Namespace) -> int:
    from scalems.env import current
    from scalems.env.check import Depth
    from scalems.resource.config import find_project

    project = find_project(options.project)
    depth = Depth.DEEP if options.deep else Depth.NORMAL
    known = None if options.upgrade else current.find(project, options.resource, depth=depth)
    if known:
        return _in_sync(known, options)

    from scalems.cli import render
    from scalems.env.locking import Options
    from scalems.env.sync import sync

    with render.progress(quiet=options.quiet or options.json) as notify:
        result = sync(
            project,
            options.resource,
            Options(
                engine=options.engine,
                upgrade=options.upgrade,
                frozen=options.frozen,
                offline=options.offline,
                dry_run=options.dry_run,
                deep=options.deep,
            ),
            notify=notify,
        )
    if options.json:
        render.print_json(result.to_dict())
    elif not options.quiet:
        render.print_sync(result, dry_run=options.dry_run)
    return ExitCode.DONE


def _in_sync(known: Synced, options: argparse.Namespace) -> int:
    if options.json:
        envs = [
            {
                "name": env.name,
                "role": env.role.value,
                "action": "unchanged",
                "folder": str(env.folder),
                "seconds": 0.0,
            }
            for env in known.envs
        ]
        where = {"path": str(known.definition), "diff": "", "backup": None}
        print(
            json.dumps(
                {"resource": known.label, "envs": envs, "locks": [], "definition": where}, indent=2
            )
        )
    elif not options.quiet:
        names = ", ".join(env.name for env in known.envs)
        print(f"{known.label} is in sync ({names}); nothing to do")
    return ExitCode.DONE


def _check(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import layout, state
    from scalems.env.check import Depth
    from scalems.env.verify import examine
    from scalems.errors import EnvironmentNotReady

    labels = [options.resource] if options.resource else state.labels(layout.default())
    if not labels:
        raise EnvironmentNotReady(
            "no resource was synced yet", remedy="scalems env sync --resource local.localhost"
        )
    reports = [examine(label, depth=Depth(options.depth)) for label in labels]
    if options.json:
        render.print_json([report.to_dict() for report in reports])
    else:
        for report in reports:
            render.print_report(report)
    return ExitCode.DONE if all(report.ok for report in reports) else ExitCode.NOT_READY


def _lock(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env.locking import Options, make_locks
    from scalems.resource.config import find_project

    with render.progress(quiet=options.quiet or options.json) as notify:
        results = make_locks(
            find_project(options.project),
            options.names,
            Options(engine=options.engine, upgrade=options.upgrade, offline=options.offline),
            notify=notify,
        )
    if options.json:
        render.print_json(
            [
                {
                    "name": one.name,
                    "path": str(one.path),
                    "resolved_because": one.reason,
                    "changes": list(one.changes),
                }
                for one in results
            ]
        )
    else:
        render.print_locks(results, only_new=False)
    return ExitCode.DONE
