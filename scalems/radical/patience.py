"""Says what is waited for, and how long at most, when a wait takes longer than a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST = 10.0  # seconds
_LONGEST = 600.0  # seconds between two notes

WORDS = {
    "PMGR_LAUNCHING_PENDING": "to be launched",
    "PMGR_LAUNCHING": "being launched",
    "PMGR_ACTIVE_PENDING": "launched, waiting for its agent",
    "PMGR_ACTIVE": "active",
    "DONE": "ended",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}
"""States of a pilot, for people."""

AWAITED = {
    "PMGR_ACTIVE_PENDING": "the pilot's agent (or, in a batch system, for its job to start)",
    "PMGR_LAUNCHING": "the pilot to be launched",
}
"""What is waited for in a state."""


class Patience:
    """Tells of waits: first after seconds, then less and less often.

    :param tell: told one line.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._what = ""
        self._next = _FIRST

    def waits(self, what: str, waited: float, limit: float) -> None:
        """Note that something is still waited for.

        :param waited: seconds since the wait began.
        :param limit: seconds after which it is given up.
        """
        if what != self._what:
            self._what, self._next = what, _FIRST
        if waited >= self._next:
            self._next = waited + min(2 * self._next, _LONGEST)
            self._tell(f"waiting for {what}: {span(waited)} of at most {span(limit)}")


def span(seconds: float) -> str:
    """Return a duration in words of the right size: ``40 s``, ``5 min``, ``48 h``."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
