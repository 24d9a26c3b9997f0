"""Which calls are run again that were lost with their Worker or their pilot.

They may have begun. Whether a call may be begun twice is its author's to say: a task whose result
may be kept and taken for that of another run (``cache``) has no effect but its value.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from scalems.workflow.call import CANCELLED, LOST, Failure, failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scalems.radical.parts import Parts
    from scalems.workflow.backend import Done
    from scalems.workflow.call import Call

    Entry = tuple[Call, Done, bool]
    """A call that comes back, and whether it may have begun."""

    Refused = tuple[Call, Done, Failure]
    """A call that does not run again, and what to tell of it."""

MOST = 2
"""How often a call is run again: it may be what its Workers are lost by."""


class Repeats:
    """Counts how often each call was run again."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def sort(
        self, entries: Iterable[Entry], parts: Parts, how: str
    ) -> tuple[list[tuple[Call, Done]], list[Refused]]:
        """Sort calls that come back.

        :param parts: that they may be some of: of those only what was not told runs again.
        :param how: they were lost, for people.
        :return: those that are to run again; and those that are not, each with what to tell.
        """
        again: list[tuple[Call, Done]] = []
        refused: list[Refused] = []
        for call, done, begun in entries:
            if begun and (reason := self._why_not(call)):
                message = f"{call.name} was lost: {how} It is not run again, since {reason}."
                refused.append((call, done, Failure(type=LOST, message=message)))
                continue
            rest = parts.rest(call.id)
            if rest is None:
                again.append((call, done))
                continue
            for part, told in rest[0]:
                self._counts[part.id] = self._counts[call.id]
                again.append((part, told))
            cancelled = Failure(type=CANCELLED, message=f"{call.name} was cancelled")
            refused += [(item, told, cancelled) for item, told in rest[1]]
        return again, refused

    def _why_not(self, call: Call) -> str:
        """Return why a call must not be run again; empty if it is, which counts."""
        if call.needs.once:
            return "it may have begun, and its task has cache=False"
        if self._counts[call.id] >= MOST:
            return f"it was lost {MOST + 1} times: it may be what its Workers are lost by"
        self._counts[call.id] += 1
        return ""


def tell(refused: Iterable[Refused]) -> None:
    """Tell of calls that they do not run again."""
    for call, done, failure in refused:
        done(failed(call, failure))
