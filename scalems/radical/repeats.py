"""Which calls are run again that were lost with their Worker or their pilot.

They may have begun. Whether a call may be begun twice is its author's to say: a task whose result
may be kept and taken for that of another run (``cache``) has no effect but its value.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalems.workflow.call import Call

MOST = 2
"""How often a call is run again: it may be what its Workers are lost by."""


class Repeats:
    """Counts how often each call was run again."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def inherit(self, call: Call, former: Call) -> None:
        """Count on for a call that is what was left of another."""
        self._counts[call.id] = self._counts[former.id]

    def why_not(self, call: Call) -> str:
        """Return why a call must not be run again; empty if it is, which counts."""
        if call.needs.once:
            return "it may have begun, and its task has cache=False"
        if self._counts[call.id] >= MOST:
            return f"it was lost {MOST + 1} times: it may be what its Workers are lost by"
        self._counts[call.id] += 1
        return ""
