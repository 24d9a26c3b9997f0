"""The command ``python -m scalems.radical``: its options, and the backend that they ask for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import ScalemsError

if TYPE_CHECKING:
    from scalems.radical.backend import RadicalBackend
    from scalems.radical.fleet import Fleet
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
            (
                "python -m scalems.radical --resource lab.slurm:queue=short"
                " --resource lab.slurm:queue=long,nodes=4 --venv task script.py",
                "on two pilots at a time, whichever is active",
            ),
        ],
    )
    group = new.add_argument_group("radical options")
    options.add_pilot(group, several=True)
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


def make_backend(options: argparse.Namespace, notify: Notify) -> RadicalBackend | Fleet:
    """Return the backend that the options ask for; nothing is started.

    :raises UsageError: if there is no such resource, Task venv, pilot option or warm pilot.
    :raises EnvironmentNotReady: if the environments are not what was built.
    """
    from scalems.radical import asked, assembly

    pilots = {title: (own, make_settings(own)) for title, own in asked.pilots(options).items()}
    if options.dry_run:
        show_request(options, *(settings for _, settings in pilots.values()))
        options.json = False  # it has been printed
        raise SystemExit(0)
    return assembly.backend(options, pilots, notify)


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
        spare=options.spare_cores,
        runtime=options.runtime,
        options=fields,
        pin=options.pin,
        policies=invocation.policies(options),
        environment=invocation.environment(resource, options.venv),
        host=resource.host,
        python=resource.pilot.python if resource.host else None,
    )


def show_request(options: argparse.Namespace, *pilots: Settings) -> None:
    """Print what pilots would ask for; as JSON an object, or a list of them if they are several.

    :raises UsageError: a resource cannot give it.
    """
    from scalems.radical import request

    found = [request.preview(settings) for settings in pilots]
    if options.json:
        told = [one.to_dict() for one in found]
        print(json.dumps(told if len(told) > 1 else told[0], indent=2))
    else:
        print("\n".join(one.text() for one in found))


def main() -> int:
    """Run the command; return its exit code."""
    from scalems import invocation

    return invocation.main(make_parser(), make_backend)
