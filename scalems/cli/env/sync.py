"""``scalems env sync`` and ``scalems env lock``: from specs to environments."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.cli.command import Commands, add, add_engine, add_project
from scalems.errors import ExitCode, ScalemsError, UsageError

if TYPE_CHECKING:
    from scalems.env.wheelhouse import Wheelhouse
    from scalems.resource.config import Project


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
        "  scalems env sync --resource local.localhost --frozen    never touch a lock\n"
        "  scalems env sync --bundle lab.pyz --offline             where there is no network",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--resource", metavar="LABEL", help="resource, such as local.localhost")
    which.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="the resource of a bundle, with all that it brings: specs, locks and packages",
    )
    which.add_argument("--all", action="store_true", help="all resources of the project, in turn")
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
    command.add_argument(
        "--replace",
        action="store_true",
        help="with --bundle: overwrite specs and locks of the project that were edited here",
    )
    command.add_argument(
        "--sign",
        metavar="KEY",
        help="then sign the manifests with this SSH key (default: $SCALEMS_SIGNING_KEY, if set); "
        "envs/allowed_signers says who may",
    )
    command.set_defaults(run=_sync)


def _add_lock(commands: Commands) -> None:
    command = add(
        commands,
        "lock",
        "resolve env specs into pinned and hashed locks beside them",
        "  scalems env lock                  those that are not current\n"
        "  scalems env lock task --upgrade   to the newest versions that the spec allows\n"
        "  scalems env lock --target cp312-manylinux_2_28_aarch64   does it serve that machine?",
    )
    command.add_argument("names", nargs="*", metavar="NAME", help="env specs (default: all)")
    command.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TAG",
        help="prove that there are files for this Python and platform too, such as "
        "cp312-manylinux_2_28_aarch64; resource configs name more with `targets`",
    )
    add_project(command)
    add_engine(command)
    command.set_defaults(run=_lock)


def _sync(options: argparse.Namespace) -> int:
    if options.bundle:
        return _sync_bundle(options)
    result = _seen(options)
    if result is None:
        from scalems.resource.config import find_project

        project = find_project(options.project)
        if options.all:
            return _sync_all(project, options)
        result = _sync_one(project, options.resource, options)
    if options.json:
        print(json.dumps(result, indent=2))
    return ExitCode.DONE


def _seen(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the result if a resource was in sync, and nothing has moved since."""
    if options.all or options.deep or _upgrade(options) or _key(options):
        return None
    from scalems.env import layout, seen  # these alone: nothing else is loaded in most syncs
    from scalems.resource import root

    place, label = layout.default(), options.resource
    result = seen.recall(place.seen(label), root.find(options.project))
    if result:
        _tell_unchanged(result, options)
    return result


def _sync_all(project: Project, options: argparse.Namespace) -> int:
    """Sync each resource in turn; one that fails does not keep the others back."""
    from scalems.cli import render

    labels = project.labels()
    if not labels:
        raise UsageError(f"there is no resource in {project.configs}", remedy="scalems env init")
    worst: int = ExitCode.DONE
    results: dict[str, Any] = {}
    for label in labels:
        try:
            results[label] = _sync_one(project, label, options)
        except ScalemsError as error:
            worst = max(worst, error.exit_code)
            results[label] = {"ok": False, "error": error.cause, "remedy": error.remedy}
            if not options.json:
                render.print_error(error)
    if options.json:
        print(json.dumps(results, indent=2))
    return worst


def _sync_bundle(options: argparse.Namespace) -> int:
    """Put a bundle's project in place, here or where --project says, and sync its resource."""
    from scalems.cli import render
    from scalems.env import unbundle

    folder = (options.project or Path.cwd()).absolute()
    with (
        render.progress(quiet=options.quiet or options.json) as notify,
        unbundle.opened(
            options.bundle,
            folder,
            replace=options.replace,
            dry_run=options.dry_run,
            notify=notify,
        ) as unpacked,
    ):
        written = [str(path) for path in unpacked.written]
        for path in written:
            notify(f"{'would be written' if options.dry_run else 'written'}: {path}")
        result: dict[str, Any] = {"resource": unpacked.label}
        if not options.dry_run or not written:
            options.frozen = options.offline = True
            result = _sync_one(unpacked.project, unpacked.label, options, house=unpacked.house)
    if options.json:
        render.print_json({**result, "project": str(folder), "written": written})
    return ExitCode.DONE


def _sync_one(
    project: Project,
    label: str,
    options: argparse.Namespace,
    house: Wheelhouse | None = None,
) -> dict[str, Any]:
    """Sync a resource, and sign it if that was asked for; return the result.

    :param house: where to take all wheels from, rather than from an index.
    """
    result = _synced(project, label, options, house)
    key = _key(options)
    if key is None or options.dry_run:
        return result
    from scalems.env import signature
    from scalems.env.verification import examine

    report = examine(label)
    signed = signature.sign(report.synced, report.manifests, Path(key).expanduser())
    if not (options.json or options.quiet):
        print(f"signed: {', '.join(signed)}, with {key}")
    return {**result, "signed": signed}


def _synced(
    project: Project,
    label: str,
    options: argparse.Namespace,
    house: Wheelhouse | None,
) -> dict[str, Any]:
    """Sync a resource and print how it went, unless the caller is to; return the result."""
    from scalems.env import current
    from scalems.env.check import Depth

    depth = Depth.DEEP if options.deep else Depth.NORMAL
    known = None
    if not _upgrade(options):
        known = current.find(project, label, depth=depth, keep=not options.dry_run)
    if known:
        result = current.unchanged(known)
        _tell_unchanged(result, options)
        return result

    from scalems.cli import render
    from scalems.env.locking import Options
    from scalems.env.sync import sync

    with render.progress(quiet=options.quiet or options.json) as notify:
        synced = sync(
            project,
            label,
            Options(
                engine=options.engine,
                upgrade=_upgrade(options),
                frozen=options.frozen,
                offline=options.offline,
                dry_run=options.dry_run,
                deep=options.deep,
                house=house,
            ),
            notify=notify,
        )
    if not (options.json or options.quiet):
        render.print_sync(synced, dry_run=options.dry_run)
    return synced.to_dict()


def _tell_unchanged(result: dict[str, Any], options: argparse.Namespace) -> None:
    if not (options.json or options.quiet):
        names = ", ".join(env["name"] for env in result["envs"])
        print(f"{result['resource']} is in sync ({names}); nothing to do")


def _key(options: argparse.Namespace) -> str | None:
    """Return what manifests are to be signed with, if that was asked for."""
    return options.sign or os.environ.get("SCALEMS_SIGNING_KEY")


def _upgrade(options: argparse.Namespace) -> bool | tuple[str, ...]:
    return bool(options.upgrade) or tuple(options.upgrade_package)


def _lock(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.env.locking import Options, make_locks
    from scalems.resource.config import find_project

    with render.progress(quiet=options.quiet or options.json) as notify:
        results = make_locks(
            find_project(options.project),
            options.names,
            Options(engine=options.engine, upgrade=_upgrade(options), offline=options.offline),
            notify=notify,
            targets=options.target,
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
