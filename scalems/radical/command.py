"""The command ``python -m scalems.radical``: its options, and the backend that they ask for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import ScalemsError

if TYPE_CHECKING:
    from scalems.radical.backend import RadicalBackend
    from scalems.radical.settings import Settings
    from scalems.workflow.backend import Notify


def make_parser() -> argparse.ArgumentParser:
    """Return a new parser of this command's options."""
    from scalems import invocation, options

    new = invocation.base_parser(
        "python -m scalems.radical",
        "Run a workflow on RADICAL-Pilot. The calls of its tasks run in a verified Task venv.",
        examples=[
            (
                "python -m scalems.radical --resource local.localhost --venv task script.py -n 10",
                "run script.py with its own option -n 10",
            ),
            (
                "python -m scalems.radical --resource lab.slurm --venv task --nodes 2"
                " --queue short --runtime 2h script.py",
                "on two nodes, in a job of the queue 'short'",
            ),
        ],
    )
    group = new.add_argument_group("radical options")
    options.add_pilot(group)
    group.add_argument(
        "--pilot",
        metavar="auto|new|warm|NAME",
        default="auto",
        help="use the warm pilot NAME, or a matching one if there is one (auto), or none but a "
        "matching one (warm), or one of this run's own (new) (default: %(default)s); "
        "see `scalems pilot --help`",
    )
    group.add_argument(
        "--preflight",
        choices=("error", "warn", "off"),
        default="error",
        help="if a call needs what the Task venv does not have, which is looked at while the pilot "
        "starts: refuse, tell, or do not look (default: %(default)s)",
    )
    group.add_argument(
        "--max-pilots",
        metavar="N",
        type=options.positive,
        default=1,
        help="pilots that there may be, one after the other: when the run time of one is over, or "
        "it is lost, the next one goes on with what is left to do (default: %(default)s)",
    )
    group.add_argument(
        "--debug-bundle",
        metavar="FILE",
        nargs="?",
        action=_Bundle,
        help="pack the logs of the last run, versions, definitions and manifests for a report, "
        "and exit; no script is run (default: a file of the run's name in this folder)",
    )
    return new


class _Bundle(argparse.Action):
    """Packs the logs of the last run, and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        from scalems.radical import bundle

        try:
            packed = bundle.pack(bundle.newest(), Path(str(values)) if values else None)
        except ScalemsError as error:
            parser.exit(error.exit_code, f"error: {error}\n")
        print(packed)
        parser.exit()


def make_backend(options: argparse.Namespace, notify: Notify) -> RadicalBackend:
    """Return the backend that the options ask for; nothing is started.

    :raises UsageError: if there is no such resource, Task venv, pilot option or warm pilot.
    :raises EnvironmentNotReady: if the environments are not what was built.
    """
    from scalems.env.finding import Policy
    from scalems.radical import choice
    from scalems.radical.backend import RadicalBackend
    from scalems.radical.launch import OwnServer, Server, WarmServer
    from scalems.radical.preflight import Preflight
    from scalems.workflow import shipping

    settings = make_settings(options)
    if options.dry_run:
        show_request(options, settings)
        options.json = False  # it has been printed
        raise SystemExit(0)
    label = f"radical {options.resource}/{options.venv}"
    pilot = choice.choose(options, settings, notify)
    shipping.far_side_has(settings.build.top_level)
    preflight = None
    if settings.host is not None:
        from scalems.radical.remote import RemoteServer  # most are on this machine

        server: Server = RemoteServer(settings, notify)
    elif pilot is None:
        server = OwnServer(settings)
        policy = Policy(options.preflight)
        preflight = Preflight(settings.build, settings.label, policy, notify=notify)
    else:
        server, label = WarmServer(pilot), f"{label} ({pilot.name})"
    return RadicalBackend(
        server,
        notify=notify,
        label=label,
        environment=settings.environment,
        environments={settings.build.content_digest: settings.build.versions},
        preflight=preflight,
        pilots=options.max_pilots if pilot is None else 1,
    )


def make_settings(options: argparse.Namespace) -> Settings:
    """Return the settings of the pilot that the options ask for; see :func:`make_backend`."""
    from scalems import invocation
    from scalems.radical import options as pilot_options
    from scalems.radical import runs
    from scalems.radical.settings import Settings

    plain = {key: getattr(options, key) for key in ("nodes", "queue", "project")}
    fields = pilot_options.parse(options.pilot_option, plain)
    resource = invocation.verify(options.resource, options.venv, options)
    name, folder = runs.new()
    return Settings(
        run=name,
        folder=folder,
        label=options.resource,
        build=resource.tasks[options.venv],
        slots=options.cores or options.max_workers,
        runtime=options.runtime,
        options=fields,
        policies=invocation.policies(options),
        environment=invocation.environment(resource, options.venv),
        host=resource.host,
        python=resource.pilot.python if resource.host else None,
    )


def show_request(options: argparse.Namespace, settings: Settings) -> None:
    """Print what the pilot of a run would ask for.

    :raises UsageError: the resource cannot give it.
    """
    from scalems.radical import request

    found = request.preview(settings)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.text())


def main() -> int:
    """Run the command; return its exit code."""
    from scalems import invocation

    return invocation.main(make_parser(), make_backend)
