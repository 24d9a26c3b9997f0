"""``scalems env sync`` and ``scalems env lock``: from specs to environments."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from scalems.cli.command import Commands, add, add_engine, add_project
from scalems.errors import ExitCode

if TYPE_CHECKING:
    from scalems.env.state import Synced


def configure(commands: Commands) -> None:
    """Add these commands."""
    _add_sync(commands)
    _add_lock(commands)


def _add_sync(commands: Commands) -> None:
    command = add(
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
    add_project(command)
    add_engine(command)
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


def _add_lock(commands: Commands) -> None:
    command = add(
        commands,
        "lock",
        "resolve env specs into pinned and hashed locks beside them",
        "  scalems env lock                  those that are not current\n"
        "  scalems env lock task --upgrade   to the newest versions that the spec allows",
    )
    command.add_argument("names", nargs="*", metavar="NAME", help="env specs (default: all)")
    add_project(command)
    add_engine(command)
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
