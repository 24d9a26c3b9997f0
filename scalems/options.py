"""Options that several commands have. It loads nothing, so that ``--help`` is instant."""

from __future__ import annotations

import argparse


def add_pilot(group: argparse._ActionsContainer) -> None:
    """Add the options that describe a pilot and what runs in it."""
    group.add_argument(
        "--resource", metavar="LABEL", required=True, help="where to run, such as local.localhost"
    )
    group.add_argument(
        "--venv", metavar="NAME", required=True, help="the Task venv that the calls run in"
    )
    add_policies(group)
    group.add_argument(
        "--cores",
        metavar="N",
        type=_positive,
        help="cores to run calls on (default: --max-workers, or all of this machine's or a node's)",
    )
    group.add_argument(
        "--runtime",
        metavar="MIN",
        type=_positive,
        help="minutes after which the pilot ends (default: 60; a week on this machine)",
    )
    group.add_argument(
        "--pilot-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a field of RADICAL-Pilot's PilotDescription, such as queue=short; repeatable",
    )


def add_policies(group: argparse._ActionsContainer) -> None:
    """Add the options that say what to do about environments that are not what they must be."""
    for name, what in (
        ("parity", "client, pilot and task environments differ"),
        ("drift", "an environment is not what was verified"),
    ):
        group.add_argument(
            f"--{name}",
            choices=("error", "warn", "off"),
            default="error",
            help=f"if {what} where it matters: refuse, tell, or say nothing (default: %(default)s)",
        )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive number"  # argparse shows it
