"""Calls that a client has not sent yet: it sends no more than the server has a use for."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from scalems.radical.wire import call_row
from scalems.workflow.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scalems.radical.wire import Row
    from scalems.workflow.call import Call

MOST = 20_000
"""Calls of one priority that the server may have at a time."""
MOST_BYTES = 128 << 20
"""Bytes of payload, the same."""
TOGETHER = 1000
"""Calls in a message."""


class Outbox:
    """Lets calls go as outcomes come, those with the highest priority first.

    Each priority has a window of its own: so a call never waits behind less urgent ones here.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Waiting[None] = Waiting()
        self._away: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()
        self._closed = False

    def add(self, call: Call) -> None:
        """Take a call to be sent."""
        with self._changed:
            self._waiting.add(call, None)
            self._changed.notify()

    def remove(self, call_id: int) -> bool:
        """Take a call out; tell if it was there, and will not be sent."""
        with self._changed:
            return self._waiting.remove(call_id) is not None

    def answered(self, calls: Iterable[Call]) -> None:
        """Note that the server has calls no more that were sent."""
        with self._changed:
            for call in calls:
                self._away[call.needs.priority] -= 1
                self._bytes[call.needs.priority] -= len(call.payload)
            self._changed.notify()

    def wait(self) -> bool:
        """Wait until there is something to send; tell if there will be nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._open())
            return not self._closed

    def take(self) -> list[Row]:
        """Return the calls to send in the next message; may be none."""
        rows: list[Row] = []
        with self._changed:
            while len(rows) < TOGETHER and self._open():
                call, _ = self._waiting.take()
                self._away[call.needs.priority] += 1
                self._bytes[call.needs.priority] += len(call.payload)
                rows.append(call_row(call))
        return rows

    def restart(self, calls: Iterable[Call]) -> None:
        """Begin anew with these calls, with a server that has none."""
        with self._changed:
            self._waiting.clear()
            self._away.clear()
            self._bytes.clear()
            for call in calls:
                self._waiting.add(call, None)
            self._closed = False

    def close(self) -> None:
        """Let nothing go any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _open(self) -> bool:
        if not self._waiting:
            return False
        priority = self._waiting.first()[0].needs.priority
        return self._away[priority] < MOST and self._bytes[priority] < MOST_BYTES
