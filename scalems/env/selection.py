"""The environment that a person means by ``NAME``, ``LABEL/NAME`` or ``NAME#GENERATION``."""

from __future__ import annotations

import re

from scalems.env import layout, state
from scalems.env.state import Synced, SyncedEnv
from scalems.env.verification import find
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.tomlfile import near

_SELECTOR = re.compile(r"(?:(?P<label>[^/#]+)/)?(?P<name>[^/#]+)(?:#(?P<generation>\d+))?")


def select(text: str, *, resource: str | None = None) -> tuple[Synced, SyncedEnv]:
    """Return an environment that was synced, and the resource that it belongs to.

    :param text: ``NAME``, ``LABEL/NAME``, and either with ``#GENERATION``.
    :param resource: label, where the text has none.
    :raises UsageError: there is none, or there are several; near names are offered.
    :raises EnvironmentNotReady: nothing was synced yet.
    """
    match = _SELECTOR.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} does not name an environment",
            remedy="write NAME, LABEL/NAME or NAME#GENERATION, such as task or task#2",
        )
    label = match["label"] or resource
    synced = [find(label)] if label else _all()
    if match["generation"]:
        synced = [_generation(one, int(match["generation"])) for one in synced]
    found = [(one, env) for one in synced for env in one.envs if env.name == match["name"]]
    if len(found) == 1:
        return found[0]
    if found:
        labels = " or ".join(f"{one.label}/{match['name']}" for one, _ in found)
        raise UsageError(
            f"several resources have an environment {match['name']!r}", remedy=f"say {labels}"
        )
    known = sorted({env.name for one in synced for env in one.envs})
    where = label or "any resource that was synced"
    raise UsageError(
        f"there is no environment {match['name']!r} in {where}{near(match['name'], known)}",
        remedy=f"use one of: {', '.join(known)}",
    )


def _all() -> list[Synced]:
    place = layout.default()
    found = [one for label in state.labels(place) if (one := state.read(place, label))]
    if not found:
        raise EnvironmentNotReady(
            "no resource was synced yet", remedy="scalems env sync --resource local.localhost"
        )
    return found


def _generation(synced: Synced, number: int) -> Synced:
    known = state.generations(layout.default(), synced.label)
    for one in known:
        if one.generation == number:
            return one
    numbers = ", ".join(str(one.generation) for one in known)
    raise UsageError(
        f"{synced.label} has no generation {number}", remedy=f"choose one of: {numbers}"
    )
