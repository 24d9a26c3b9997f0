"""Options that several commands have. It loads nothing, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import math
import re


def add_pin(group: argparse._ActionsContainer) -> None:
    """Add the option that says whether calls have CPUs of their own."""
    group.add_argument(
        "--pin",
        metavar="auto|always|never",
        type=pinning,
        default="auto",
        help="keep each call on CPUs of its own: in a job of a batch system that has its CPUs for "
        "itself (auto), everywhere (always), or not at all (default: %(default)s)",
    )


def add_pilot(group: argparse._ActionsContainer, *, several: bool = False) -> None:
    """Add the options that describe a pilot and what runs in it.

    :param several: whether there may be more pilots than one.
    """
    if several:
        group.add_argument(
            "--resource",
            metavar="LABEL",
            required=True,
            action="append",
            help="where to run, such as local.localhost, or with options of its own: "
            "lab.slurm:queue=short,nodes=2; repeatable: a pilot for each",
        )
        group.add_argument(
            "--pilots",
            metavar="N",
            type=positive,
            help="pilots at a time, on the resources in turn; calls go to those that are active, "
            "and what one has that is lost to the others (default: one for each --resource)",
        )
    else:
        group.add_argument(
            "--resource",
            metavar="LABEL",
            required=True,
            help="where to run, such as local.localhost",
        )
    group.add_argument(
        "--venv", metavar="NAME", required=True, help="the Task venv that the calls run in"
    )
    add_policies(group)
    group.add_argument(
        "--cores",
        metavar="N",
        type=positive,
        help="cores to run calls on (default: --max-workers, or all of this machine's or a node's)",
    )
    group.add_argument(
        "--spare-cores",
        metavar="N",
        type=natural,
        help="cores that are kept free of Workers, for services and for tasks with route='rp' "
        "(default: 0; 4 on this machine)",
    )
    group.add_argument(
        "--nodes",
        metavar="N",
        type=positive,
        help="nodes to use, evenly (default: as few as the cores need)",
    )
    group.add_argument(
        "--runtime",
        "--walltime",
        metavar="TIME",
        type=minutes,
        help="after which the pilot ends: minutes, or such as 90m, 2h, 1d12h, 01:30:00 "
        "(default: 60; a week on this machine)",
    )
    add_pin(group)
    group.add_argument("--queue", metavar="NAME", help="queue or partition of the batch system")
    group.add_argument("--project", metavar="NAME", help="project that the time is booked on")
    group.add_argument(
        "--pilot-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="another field of RADICAL-Pilot's PilotDescription, such as gpus=4; repeatable",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, show what a pilot would ask for, and start none",
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


_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", re.ASCII)  # of Slurm, with seconds always


def minutes(text: str) -> int:
    """Return a span of time in minutes, rounded up: ``90``, ``1h30m``, ``1d``, ``1-12:00:00``.

    ``1:30`` is none: Slurm reads it as minutes and seconds, others as hours and minutes.

    :raises argparse.ArgumentTypeError: it is none, or not above 0.
    """
    found = 0
    if text.isascii() and text.isdecimal():
        found = int(text)
    elif clock := _CLOCK.fullmatch(text):
        days, hours, mins, seconds = (int(part or 0) for part in clock.groups())
        found = (days * 24 + hours) * 60 + mins + math.ceil(seconds / 60)
    elif text and (span := _SPAN.fullmatch(text)):
        days, hours, mins = (int(part or 0) for part in span.groups())
        found = (days * 24 + hours) * 60 + mins
    if not 0 < found < 10**7:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no span of time: write minutes, or such as 90m, 2h, 1d12h, 01:30:00"
        )
    return found


def positive(text: str) -> int:
    """Return a whole number above 0.

    :raises ValueError: it is none.
    """
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = "positive number"  # argparse shows it


def above_zero(text: str) -> float:
    """Return a number above 0, with or without a fraction.

    :raises ValueError: it is none.
    """
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


above_zero.__name__ = "number above 0"


def pinning(text: str) -> str:
    """Return how calls are pinned to CPUs.

    :raises argparse.ArgumentTypeError: it is none of the ways.
    """
    if text not in ("auto", "always", "never"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, always and never")
    return text


def natural(text: str) -> int:
    """Return a whole number of at least 0.

    :raises ValueError: it is none.
    """
    value = int(text)
    if value < 0:
        raise ValueError
    return value


natural.__name__ = "whole number"
