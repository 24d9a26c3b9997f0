"""Keep pilots warm: session, pilot and Workers live on between scripts."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from scalems import options
from scalems.cli.command import Commands, add
from scalems.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scalems.radical.elsewhere import Elsewhere
    from scalems.radical.launch import Server
    from scalems.radical.settings import Settings
    from scalems.radical.warm import WarmPilot
    from scalems.workflow.backend import Notify

_IDLE = 30  # minutes
_PRIVATE = ("key", "address", "seen_from", "lives", "report")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add these commands."""
    parser.epilog = (
        "examples:\n"
        "  scalems pilot start --resource local.localhost --venv task\n"
        "  python -m scalems.radical --resource local.localhost --venv task script.py\n"
        "  scalems pilot list\n"
        "  scalems pilot stop\n"
        "  scalems pilot list --resource lab.cluster\n\n"
        "With the --resource of another host, list, stop and logs look there.\n"
        "A script on scalems.radical finds a warm pilot of its resource and Task venv by itself."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_start(commands)
    listing = add(
        commands,
        "list",
        "show the warm pilots",
        "  scalems pilot list\n  scalems pilot list --resource lab.cluster    those on its host",
    )
    _add_resource(listing)
    listing.set_defaults(run=_list)
    stop = add(
        commands,
        "stop",
        "end warm pilots, and give back what they hold",
        "  scalems pilot stop            the only one\n"
        "  scalems pilot stop task       the one of that name\n"
        "  scalems pilot stop --all\n"
        "  scalems pilot stop --resource lab.cluster task",
    )
    _add_resource(stop)
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
    _add_resource(logs)
    logs.add_argument("name", nargs="?", metavar="NAME", help="name of the pilot")
    logs.add_argument(
        "--bundle",
        metavar="FILE",
        nargs="?",
        const="",
        help="pack the logs, versions, definitions and manifests for a report",
    )
    logs.set_defaults(run=_logs)


def _add_resource(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resource",
        metavar="LABEL",
        help="warm pilots of this resource only, on the host where it is",
    )


def _add_start(commands: Commands) -> None:
    start = add(
        commands,
        "start",
        "start a pilot that stays until it is stopped, or nobody has used it for a while",
        "  scalems pilot start --resource local.localhost --venv task\n"
        "  scalems pilot start --resource lab.slurm --venv task --nodes 4 --runtime 4h\n"
        "  scalems pilot start --resource local.localhost --venv task --idle 120 --name mine\n"
        "  scalems pilot start --resource lab.cluster --venv task    on a host over SSH",
    )
    options.add_pilot(start)
    start.add_argument("--name", help="name of the pilot (default: that of the Task venv)")
    start.add_argument(
        "--idle",
        metavar="MIN",
        type=options.above_zero,
        default=_IDLE,
        help="minutes after which it ends when nobody uses it (default: %(default)s)",
    )
    start.set_defaults(run=_start, max_workers=None)


def _start(given: argparse.Namespace) -> int:
    from scalems import radical
    from scalems.cli import render
    from scalems.radical import warm
    from scalems.radical.backend import RadicalBackend

    name = given.name or given.venv
    settings = radical.make_settings(given)
    if settings.host is None:
        warm.check_free(name)
    if given.dry_run:
        radical.show_request(given, settings)
        return ExitCode.DONE
    with render.progress(quiet=given.quiet or given.json) as notify:
        server, undo = _server(settings, name, given.idle * 60, notify)
        backend = RadicalBackend(server, notify=notify, label=name)
        try:
            backend.start()
        except BaseException:
            backend.close(abort=True)
            undo()
            raise
        backend.close()
    with _pilots(given.resource) as pilots:
        pilot, report = next(one for one in pilots.known() if one[0].name == name)
    if given.json:
        render.print_json(_fields(pilot, report))
    elif not given.quiet:
        print(
            f"{name} is warm: {pilot.slots} calls at a time on {pilot.label}, in the Task venv "
            f"{pilot.env!r}; it ends after {warm.age(pilot.idle)} without use"
        )
    return ExitCode.DONE


def _server(
    settings: Settings, name: str, idle: float, notify: Notify
) -> tuple[Server, Callable[[], object]]:
    """Return the session server that is to stay, and what is to be done if it does not start."""
    from dataclasses import replace
    from pathlib import Path

    from scalems.radical import warm
    from scalems.radical.launch import OwnServer
    from scalems.radical.remote import RemoteServer
    from scalems.radical.settings import Keep
    from scalems.radical.staging import Staging

    if settings.host is not None:  # which makes address and key
        keep = Keep(name=name, idle=idle, address=Path(), key="")
        staging = Staging(settings.host.name, notify)
        return RemoteServer(replace(settings, keep=keep), notify, staging), lambda: None
    keep = Keep(name=name, idle=idle, address=warm.new_address(), key=warm.new_key())
    return OwnServer(replace(settings, keep=keep)), keep.address.parent.rmdir


class _Pilots:
    """The warm pilots of this machine, or of a resource and the host where it is."""

    def __init__(self, label: str | None, there: Elsewhere | None) -> None:
        self._label = label
        self._there = there

    def known(self) -> list[tuple[WarmPilot, dict[str, Any] | None]]:
        """Return them, with what their servers say."""
        from scalems.radical import warm

        found: list[tuple[WarmPilot, dict[str, Any] | None]]
        if self._there is not None:
            found = [(one, one.report) for one in self._there.known()]
        else:
            found = [(one, warm.ask(one)) for one in warm.known()]
        return [one for one in found if self._label in (None, one[0].label)]

    def one(self, name: str | None) -> WarmPilot:
        """Return that of a name; without one, the only one."""
        from scalems.errors import UsageError
        from scalems.radical import warm

        found = [pilot for pilot, _ in self.known()]
        if name is not None:
            return warm.named(name, found)
        if len(found) != 1:
            raise UsageError(
                "there is no warm pilot" if not found else f"there are {len(found)} warm pilots",
                remedy="name one of: " + ", ".join(pilot.name for pilot in found)
                if found
                else "start one with `scalems pilot start`",
            )
        return found[0]

    def stop(self, pilot: WarmPilot) -> None:
        """End one."""
        from scalems.radical import warm

        (self._there or warm).stop(pilot)

    def log(self, pilot: WarmPilot) -> list[str]:
        """Return the end of what its server has printed."""
        from scalems.radical import warm

        return (self._there or warm).log(pilot)

    def folder(self, pilot: WarmPilot) -> Path:
        """Return the folder of its run here; of one that is elsewhere it says where that is."""
        from pathlib import Path

        from scalems.radical import runs

        if self._there is None:
            return Path(pilot.folder)
        return runs.note_host(pilot.run, self._there.host)


@contextlib.contextmanager
def _pilots(label: str | None) -> Iterator[_Pilots]:
    """Look at warm pilots here; or where a resource is, if it is named."""
    from scalems.env import layout, state
    from scalems.errors import UsageError
    from scalems.tomlfile import near

    place = layout.default()
    synced = None if label is None else state.read(place, label)
    if synced is None or synced.host is None:
        here = _Pilots(label, None)
        if label is not None and synced is None and not here.known():
            raise UsageError(
                f"{label} has no warm pilot, and was not synced{near(label, state.labels(place))}",
                remedy="see `scalems pilot list`",
            )
        yield here
        return
    from scalems.radical.elsewhere import Elsewhere

    with Elsewhere(synced.host) as there:
        yield _Pilots(label, there)


def _list(given: argparse.Namespace) -> int:
    from scalems.cli import render

    with _pilots(given.resource) as pilots:
        found = pilots.known()
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

    with (
        _pilots(given.resource) as pilots,
        render.progress(quiet=given.quiet or given.json) as notify,
    ):
        known = pilots.known()
        found = [one for one, _ in known] if given.all else [pilots.one(given.name)]
        reports = {one.name: report or {} for one, report in known}
        for pilot in found:
            users = int(reports.get(pilot.name, {}).get("clients", 0))
            who = f", though {users} run{' uses' if users == 1 else 's use'} it" if users else ""
            notify(f"ending {pilot.name}{who}")
            pilots.stop(pilot)
    if given.json:
        render.print_json({"stopped": [pilot.name for pilot in found]})
    elif not given.quiet:
        print(f"ended: {', '.join(pilot.name for pilot in found) or 'nothing to end'}")
    return ExitCode.DONE


def _logs(given: argparse.Namespace) -> int:
    from pathlib import Path

    from scalems.cli import render

    with _pilots(given.resource) as pilots:
        pilot = pilots.one(given.name)
        lines, folder = pilots.log(pilot), pilots.folder(pilot)
    if given.bundle is not None:
        from scalems.radical import bundle

        packed = bundle.pack(folder, Path(given.bundle) if given.bundle else None)
        if given.json:
            render.print_json({"name": pilot.name, "folder": pilot.folder, "bundle": str(packed)})
        else:
            print(packed)
        return ExitCode.DONE
    if given.json:
        render.print_json({"name": pilot.name, "folder": pilot.folder, "server": lines})
    else:
        print("\n".join([pilot.folder, *(f"  {line}" for line in lines)]))
    return ExitCode.DONE


def _fields(pilot: WarmPilot, report: dict[str, Any] | None) -> dict[str, Any]:
    from dataclasses import asdict

    fields = {key: value for key, value in asdict(pilot).items() if key not in _PRIVATE}
    return {**fields, "alive": report is not None, **(report or {})}
