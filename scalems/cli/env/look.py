"""``scalems env list``, ``show``, ``diff``, ``explain`` and ``explain-key``: what is there."""

from __future__ import annotations

import argparse

from scalems.cli.command import Commands, add, add_project, add_resource
from scalems.errors import ExitCode


def configure(commands: Commands) -> None:
    """Add these commands."""
    _add_list(commands)
    _add_show(commands)
    _add_diff(commands)
    _add_explain(commands)
    _add_explain_key(commands)


def _add_list(commands: Commands) -> None:
    command = add(
        commands,
        "list",
        "list all builds: which resource and generation has each, and whether a run uses it",
        "  scalems env list\n  scalems env list --json | jq '.[].folder'",
    )
    command.add_argument(
        "--resource", metavar="LABEL", help="on the host of this resource (default: this machine)"
    )
    command.set_defaults(run=_list)


def _add_show(commands: Commands) -> None:
    command = add(
        commands,
        "show",
        "show all that is known of an environment in use",
        "  scalems env show task\n  scalems env show task --resource local.localhost --json",
    )
    command.add_argument("name", metavar="NAME", help="environment, such as task")
    add_resource(command)
    command.set_defaults(run=_show)


def _add_diff(commands: Commands) -> None:
    command = add(
        commands,
        "diff",
        "compare two environments, builds, venvs or locks",
        "  scalems env diff pilot task\n"
        "  scalems env diff task lock:task       what is built, and what the lock says\n"
        "  scalems env diff task#1 task#2        two generations\n"
        "  scalems env diff client /path/to/venv\n\n"
        "Each side is an environment (NAME, or LABEL/NAME), one of its generations (NAME#NUMBER),\n"
        "lock:NAME, client, or the folder of a venv or a build.\n\n"
        "exit codes: 0 the same, 1 they differ, 2 wrong use",
    )
    command.add_argument("sides", nargs=2, metavar="SIDE", help="what to compare, see below")
    command.add_argument("--files", action="store_true", help="name the files of builds too")
    add_resource(command)
    add_project(command)
    command.set_defaults(run=_diff)


def _add_explain(commands: Commands) -> None:
    command = add(
        commands,
        "explain",
        "say which specs, constraints and locks put a package there, and who has which version",
        "  scalems env explain numpy",
    )
    command.add_argument("package", metavar="PACKAGE", help="name of a distribution")
    add_project(command)
    command.set_defaults(run=_explain)


def _add_explain_key(commands: Commands) -> None:
    command = add(
        commands,
        "explain-key",
        "say why two input fingerprints differ: what would have to be equal for one build",
        "  scalems env explain-key task                 the build in use, and what a sync would "
        "build\n"
        "  scalems env explain-key task#1 task#2        two generations\n"
        "  scalems env explain-key lab.slurm/task local.localhost/task\n"
        "  scalems env explain-key 3f2a91 lock:task     a build by the start of its fingerprint\n\n"
        "exit codes: 0 the same, 1 they differ, 2 wrong use",
    )
    command.add_argument(
        "sides", nargs="+", metavar="SIDE", help="one or two; the second by default lock:NAME"
    )
    add_resource(command)
    add_project(command)
    command.set_defaults(run=_explain_key)


def _list(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import inventory, layout
    from scalems.env.verification import find

    synced = find(options.resource) if options.resource else None
    if synced and synced.host:
        from scalems.env.remote import far

        root, found = far.builds(synced.host)
        folder = root / "builds"
    else:
        found, folder = inventory.builds(layout.default()), layout.default().builds
    if options.json:
        render.print_json([one.to_dict() for one in found])
    else:
        render.print_builds(found, folder)
    return ExitCode.DONE


def _show(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import describe

    described = describe.describe(options.name, options.resource)
    if options.json:
        render.print_json(described)
    else:
        render.print_description(described)
    return ExitCode.DONE


def _diff(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import compare

    one, other = (
        compare.side(text, resource=options.resource, folder=options.project)
        for text in options.sides
    )
    difference = compare.difference(one, other, files=options.files)
    if options.json:
        render.print_json(difference.to_dict())
    else:
        render.print_difference(difference)
    return ExitCode.DONE if difference.same else ExitCode.FAILED


def _explain_key(options: argparse.Namespace) -> int:
    from scalems.cli import render, render_share
    from scalems.env import keys
    from scalems.errors import UsageError

    sides = options.sides
    if len(sides) == 1:
        name = sides[0].rpartition("/")[2].partition("#")[0]
        sides = [*sides, f"lock:{name}"]
    if len(sides) != 2:
        raise UsageError("two sides can be compared, not more", remedy="see --help for examples")
    with render.progress(quiet=options.quiet or options.json) as notify:
        one, other = (
            keys.find(text, resource=options.resource, folder=options.project, notify=notify)
            for text in sides
        )
    difference = keys.compare(one, other)
    if options.json:
        render.print_json(difference.to_dict())
    else:
        render_share.print_key_difference(difference)
    return ExitCode.DONE if difference.same else ExitCode.FAILED


def _explain(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env import explain
    from scalems.resource.config import find_project

    explained = explain.explain(options.package, find_project(options.project))
    if options.json:
        render.print_json(explained.to_dict())
    else:
        render.print_explanation(explained)
    return ExitCode.DONE
