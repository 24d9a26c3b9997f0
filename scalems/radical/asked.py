"""Which pilots a command line asks for: ``--resource LABEL[:KEY=VALUE,...]``, ``--pilots N``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scalems import options as plain
from scalems.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_OWN: dict[str, Callable[[str], object]] = {
    "cores": plain.positive,
    "nodes": plain.positive,
    "spare-cores": plain.natural,
    "runtime": plain.minutes,
    "queue": str,
    "project": str,
    "pin": plain.pinning,
}
"""Options that a resource may have of its own; what else is named there is one of RP's."""


def pilots(options: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Return the options of each pilot, by a title for people.

    Without ``--pilots`` there is one for each resource; with it so many in all, in turn.

    :raises UsageError: a resource is not written as it must be, or there are fewer pilots than
        resources.
    """
    places = [_place(text, options) for text in options.resource]
    count = options.pilots or len(places)
    if count < len(places):
        raise UsageError(
            f"--pilots {count} is less than one for each of the {len(places)} resources",
            remedy="leave it out, or name fewer resources",
        )
    if count == 1:
        return dict(places)
    turns = [places[number % len(places)] for number in range(count)]
    return {f"{number} ({title})": one for number, (title, one) in enumerate(turns, 1)}


def _place(text: str, options: argparse.Namespace) -> tuple[str, argparse.Namespace]:
    label, _, rest = text.partition(":")
    own = argparse.Namespace(**{**vars(options), "resource": label})
    own.pilot_option = list(options.pilot_option)
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UsageError(
                f"--resource {text}: {pair!r} is not KEY=VALUE",
                remedy=f"write it such as --resource {label}:queue=short,nodes=2",
            )
        try:
            if key in _OWN:
                setattr(own, key.replace("-", "_"), _OWN[key](value))
            else:
                own.pilot_option.append(pair)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--resource {text}: wrong {key} {value!r}: {error}") from error
        except ValueError:
            kind = _OWN[key].__name__
            raise UsageError(f"--resource {text}: wrong {key} {value!r}: no {kind}") from None
    return text, own
