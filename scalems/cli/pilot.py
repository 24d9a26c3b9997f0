"""Keep pilots warm: session, pilot and Workers live on between scripts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from scalems import options
from scalems.cli.command import Commands, add
from scalems.errors import BackendError, ExitCode

if TYPE_CHECKING:
    from scalems.radical.warm import WarmPilot

_IDLE = 30  # minutes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add these commands."""
    parser.epilog = (
        "examples:\n"
        "  scalems pilot start --resource local.localhost --venv task\n"
        "  python -m scalems.radical --resource local.localhost --venv task script.py\n"
        "  scalems pilot list\n"
        "  scalems pilot stop\n\n"
        "A script on scalems.radical finds a warm pilot of its resource and Task venv by itself."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_start(commands)
    listing = add(commands, "list", "show the warm pilots", "  scalems pilot list")
    listing.set_defaults(run=_list)
    stop = add(
        commands,
        "stop",
        "end warm pilots, and give back what they hold",
        "  scalems pilot stop            the only one\n"
        "  scalems pilot stop task       the one of that name\n"
        "  scalems pilot stop --all",
    )
    which = stop.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="name of the pilot")
    which.add_argument("--all", action="store_true", help="all of them")
    stop.set_defaults(run=_stop)
    logs = add(
        commands,
        "logs",
        "show where a warm pilot's logs are, and the end of its server's",
        "  scalems pilot logs task\n  scalems pilot logs task --bundle report.tar.gz",
    )
    logs.add_argument("name", nargs="?", metavar="NAME", help="name of the pilot")
    logs.add_argument(
        "--bundle",
        metavar="FILE",
        nargs="?",
        const="",
        help="pack the logs, versions, definitions and manifests for a report",
    )
    logs.set_defaults(run=_logs)


def _add_start(commands: Commands) -> None:
    start = add(
        commands,
        "start",
        "start a pilot that stays until it is stopped, or nobody has used it for a while",
        "  scalems pilot start --resource local.localhost --venv task\n"
        "  scalems pilot start --resource lab.slurm --venv task --nodes 4 --runtime 4h\n"
        "  scalems pilot start --resource local.localhost --venv task --idle 120 --name mine",
    )
    options.add_pilot(start)
    start.add_argument("--name", help="name of the pilot (default: that of the Task venv)")
    start.add_argument(
        "--idle",
        metavar="MIN",
        type=float,
        default=_IDLE,
        help="minutes after which it ends when nobody uses it (default: %(default)s)",
    )
    start.set_defaults(run=_start, max_workers=None)


def _start(given: argparse.Namespace) -> int:
    from dataclasses import replace

    from scalems import radical
    from scalems.cli import render
    from scalems.errors import UsageError
    from scalems.radical import warm
    from scalems.radical.backend import RadicalBackend
    from scalems.radical.launch import OwnServer
    from scalems.radical.settings import Keep

    name = given.name or given.venv
    warm.check_free(name)
    settings = radical.make_settings(given)
    if settings.host:
        raise UsageError(
            f"{settings.label} is on {settings.host.name}: a pilot there cannot be kept warm "
            "from here",
            remedy="run scripts there without one: each starts its own pilot",
        )
    if given.dry_run:
        radical.show_request(given, settings)
        return ExitCode.DONE
    keep = Keep(name=name, idle=given.idle * 60, address=warm.new_address(), key=warm.new_key())
    with render.progress(quiet=given.quiet or given.json) as notify:
        backend = RadicalBackend(OwnServer(replace(settings, keep=keep)), notify=notify, label=name)
        try:
            backend.start()
        except BaseException:
            backend.close(abort=True)
            keep.address.parent.rmdir()
            raise
        backend.close()
    pilot = warm.named(name)
    if given.json:
        render.print_json(_fields(pilot, warm.ask(pilot)))
    elif not given.quiet:
        print(
            f"{name} is warm: {pilot.slots} calls at a time on {pilot.label}, in the Task venv "
            f"{pilot.env!r}; it ends after {warm.age(pilot.idle)} without use"
        )
    return ExitCode.DONE


def _list(given: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.radical import warm

    found = [(pilot, warm.ask(pilot)) for pilot in warm.known()]
    if given.json:
        render.print_json([_fields(pilot, report) for pilot, report in found])
    else:
        empty = "no warm pilots; start one with `scalems pilot start`"
        render.print_rows([_row(pilot, report) for pilot, report in found], empty=empty)
    return ExitCode.DONE


def _row(pilot: WarmPilot, report: dict[str, Any] | None) -> dict[str, str]:
    from scalems.radical import warm

    left, idle, calls, way = pilot.until - warm.now(), "", "", ""
    if report is None:
        state = f"no answer (on {pilot.host})" if pilot.alive else "gone"
    else:
        state, calls = "in use" if report["clients"] else "ready", str(report["calls"])
        way = report["route"]
        if not report["clients"]:
            idle, left = warm.age(report["idle"]), min(left, pilot.idle - report["idle"])
    return {
        "name": pilot.name,
        "resource": pilot.label,
        "venv": pilot.env,
        "state": state,
        "calls": calls,
        "at a time": str(pilot.slots),
        "calls go by": way,
        "idle for": idle,
        "ends in": warm.age(left),
    }


def _stop(given: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.radical import warm

    pilots = warm.known() if given.all else [_one(given.name)]
    with render.progress(quiet=given.quiet or given.json) as notify:
        for pilot in pilots:
            notify(f"ending {pilot.name}")
            warm.stop(pilot)
    if given.json:
        render.print_json({"stopped": [pilot.name for pilot in pilots]})
    elif not given.quiet:
        print(f"ended: {', '.join(pilot.name for pilot in pilots) or 'nothing to end'}")
    return ExitCode.DONE


def _logs(given: argparse.Namespace) -> int:
    from pathlib import Path

    from scalems.cli import render

    pilot = _one(given.name)
    folder = Path(pilot.folder)
    if given.bundle is not None:
        from scalems.radical import bundle

        packed = bundle.pack(folder, Path(given.bundle) if given.bundle else None)
        if given.json:
            render.print_json({"name": pilot.name, "folder": pilot.folder, "bundle": str(packed)})
        else:
            print(packed)
        return ExitCode.DONE
    try:
        lines = (folder / "server.log").read_text(errors="replace").splitlines()[-20:]
    except OSError as error:
        raise BackendError(f"{folder}: there are no logs: {error.strerror}") from error
    if given.json:
        render.print_json({"name": pilot.name, "folder": pilot.folder, "server": lines})
    else:
        print("\n".join([pilot.folder, *(f"  {line}" for line in lines)]))
    return ExitCode.DONE


def _one(name: str | None) -> WarmPilot:
    """Return the warm pilot of a name; without one, the only one."""
    from scalems.errors import UsageError
    from scalems.radical import warm

    if name is not None:
        return warm.named(name)
    found = warm.known()
    if len(found) != 1:
        raise UsageError(
            "there is no warm pilot" if not found else f"there are {len(found)} warm pilots",
            remedy="name one of: " + ", ".join(pilot.name for pilot in found)
            if found
            else "start one with `scalems pilot start`",
        )
    return found[0]


def _fields(pilot: WarmPilot, report: dict[str, Any] | None) -> dict[str, Any]:
    from dataclasses import asdict

    fields = {key: value for key, value in asdict(pilot).items() if key not in ("key", "address")}
    return {**fields, "alive": report is not None, **(report or {})}
