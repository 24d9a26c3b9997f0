"""Which pilot a workflow runs on: a warm one that fits, or one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalems.errors import UsageError
from scalems.radical import warm

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Sequence

    from scalems.radical.settings import Settings
    from scalems.radical.warm import WarmPilot
    from scalems.workflow.backend import Notify


_SHORT = 20.0  # seconds of run time that are not worth to begin in
_SOON = 24 * 3600.0  # seconds; who has more left needs not be told


def choose(
    options: argparse.Namespace,
    settings: Settings,
    notify: Notify,
    taken: Collection[str] = (),
    known: Callable[[], Sequence[WarmPilot]] = warm.known,
) -> WarmPilot | None:
    """Return the warm pilot to run on; ``None`` to start one.

    :param options: of the command line: ``pilot`` is ``auto``, ``new``, ``warm`` or a name.
    :param notify: told why a warm pilot of the same resource and Task venv does not fit.
    :param taken: names of those that another pilot of the run is already.
    :param known: tells those that there are, where the session is to be.
    :raises UsageError: a warm pilot was asked for, and none fits.
    """
    if options.pilot == "new":
        return None
    if options.pilot not in ("auto", "warm"):
        pilot = warm.named(options.pilot, known())
        if pilot.name in taken:
            return None
        if reason := _why_not(pilot, settings):
            raise _unfit(pilot, reason)
        return _used(pilot, notify)
    reasons: list[tuple[WarmPilot, str]] = []
    for pilot in known():
        if pilot.name in taken:
            continue
        if not (reason := _why_not(pilot, settings)):
            return _used(pilot, notify)
        if (pilot.label, pilot.env) == (settings.label, settings.build.name):
            reasons.append((pilot, reason))
    if options.pilot == "warm":
        if reasons:
            raise _unfit(*reasons[0])
        raise UsageError(
            f"there is no warm pilot of {settings.label} with the Task venv "
            f"{settings.build.name!r}",
            remedy=f"scalems pilot start --resource {settings.label} --venv {settings.build.name}",
        )
    for pilot, reason in reasons:
        notify(f"the warm pilot {pilot.name} is not used: {reason}")
    return None


def _used(pilot: WarmPilot, notify: Notify) -> WarmPilot:
    if (left := pilot.until - warm.now()) < _SOON:
        notify(f"the run time of the warm pilot {pilot.name} is over in {warm.age(left)}")
    return pilot


def _why_not(pilot: WarmPilot, settings: Settings) -> str:
    if reason := pilot.why_not(settings.label, settings.build, settings.slots):
        return reason
    if not pilot.alive:
        return "its process has ended"
    if (left := pilot.until - warm.now()) < _SHORT:
        return f"its run time is over in {warm.age(left)}"
    if settings.options or settings.runtime:
        return "pilot options were given, and they are for a new pilot"
    return ""


def _unfit(pilot: WarmPilot, reason: str) -> UsageError:
    return UsageError(
        f"the warm pilot {pilot.name!r} cannot be used: {reason}",
        remedy=f"scalems pilot stop {pilot.name}, then scalems pilot start with the same options, "
        "or run with --pilot new",
    )
