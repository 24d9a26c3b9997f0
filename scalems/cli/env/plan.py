"""``scalems env plan``: what an upgrade would touch, before anything is touched."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from scalems.cli.command import ENGINES, Commands, add, add_project
from scalems.errors import ExitCode, ScalemsError

if TYPE_CHECKING:
    from pathlib import Path

    from scalems.env.plan import UpgradePlan
    from scalems.resource.config import Project


def configure(commands: Commands) -> None:
    """Add these commands."""
    command = add(
        commands,
        "plan",
        "show what an upgrade would touch: resources, locks, runs, results; change nothing",
        "  scalems env plan --upgrade numpy\n"
        "  scalems env plan --upgrade radical.pilot==1.104\n"
        "  scalems env plan --upgrade numpy --json | jq '.steps[].command'\n\n"
        "exit codes: 0 it can be done, 1 a lock cannot have it, 2 wrong use",
    )
    command.add_argument(
        "--upgrade", required=True, metavar="PKG", help="package, or PACKAGE==VERSION"
    )
    command.add_argument("--engine", choices=ENGINES, default="auto", help="what resolves")
    command.add_argument(
        "--offline", action="store_true", help="use cached packages only, no network"
    )
    add_project(command)
    command.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from scalems.cli import render, render_share
    from scalems.env import plan
    from scalems.env.locking import Options
    from scalems.resource.config import find_project

    project = find_project(options.project)
    with render.progress(quiet=options.quiet or options.json) as notify:
        found = plan.upgrade(
            project,
            options.upgrade,
            Options(engine=options.engine, offline=options.offline, dry_run=True),
            notify=notify,
        )
    pilots, results = _pilots(found), _results(project, found)
    if options.json:
        render.print_json({**found.to_dict(), "warm_pilots": pilots, "results": results})
    else:
        render_share.print_plan(found, pilots, results)
    return ExitCode.FAILED if found.problems else ExitCode.DONE


def _pilots(found: UpgradePlan) -> list[dict[str, str]]:
    """Return the warm pilots that run in builds which would be replaced."""
    from scalems.radical import warm

    affected = {
        (one.label, env.name, env.role.value)
        for one in found.resources
        for env in one.envs
        if env.affected
    }
    hit = {(label, name) for label, name, _ in affected}
    agents = {label for label, _, role in affected if role != "task"}
    return [
        {"name": one.name, "resource": one.label, "env": one.env}
        for one in warm.known()
        if one.label in agents or (one.label, one.env) in hit
    ]


def _results(project: Project, found: UpgradePlan) -> dict[str, Any]:
    """Return how many results in the project's stores the new environments will not find."""
    from scalems.store import history

    names: dict[str, list[str]] = {}
    for one in found.resources:
        for env in one.envs:
            if env.affected and env.computes:
                names.setdefault(env.computes, []).append(f"{one.label}/{env.name}")
    envs = []
    stores = _stores(project)
    for store in stores:
        try:
            with history.History(store).closing() as past:
                kept = past.by_environment()
        except ScalemsError:
            continue
        envs += [
            {"env": ", ".join(names[digest]), "computes": digest, "store": str(store),
             "results": count, "bytes": size}
            for digest, (count, size) in kept.items()
            if digest in names
        ]  # fmt: skip
    return {"stores": [str(store) for store in stores], "envs": envs}


def _stores(project: Project) -> list[Path]:
    """Return the stores of scripts in the project's folder, and in folders down to two below it."""
    from scalems.store.database import FILE, FOLDER

    return sorted(
        path.parent
        for depth in ("", "*/", "*/*/")
        for path in project.root.glob(f"{depth}{FOLDER}/{FILE}")
    )
