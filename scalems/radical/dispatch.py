"""Which calls travel together: the queue between a workflow and RADICAL-Pilot's tasks."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scalems.workflow.call import Call, Outcome

_WINDOW = 4  # batches under way for each slot: RP needs some 0.1 s to bring the next one
_DURATION = 0.5  # seconds of work that one batch may take, as far as calls have shown
_LARGEST = 1000  # calls in a batch


class Dispatcher:
    """Groups calls into batches while there are many short ones.

    It knows nothing of RADICAL-Pilot, and is used by one thread only.

    :param slots: how many calls can run at a time.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._queued: OrderedDict[int, Call] = OrderedDict()
        self._away: dict[str, list[Call]] = {}
        self._place: dict[int, str] = {}
        self._mean: float | None = None

    def __len__(self) -> int:
        """Number of calls that have no outcome."""
        return len(self._queued) + len(self._place)

    def add(self, call: Call) -> None:
        """Queue a call."""
        self._queued[call.id] = call

    def batch(self) -> list[Call]:
        """Return the calls to send next; none if enough are under way."""
        if not self._queued or len(self._away) >= _WINDOW * self._slots:
            return []
        size = 1
        if self._mean is not None:
            fair = len(self._queued) // (_WINDOW * self._slots)
            size = max(1, min(fair, int(_DURATION / max(self._mean, 1e-6)), _LARGEST))
        return [self._queued.popitem(last=False)[1] for _ in range(min(size, len(self._queued)))]

    def sent(self, name: str, calls: list[Call]) -> None:
        """Note that calls are under way, under a name."""
        self._away[name] = calls
        for call in calls:
            self._place[call.id] = name

    def returned(self, name: str, outcomes: Iterable[Outcome] = ()) -> list[Call]:
        """Note that a batch has ended; return its calls that have no outcome."""
        calls = {call.id: call for call in self._away.pop(name, ())}
        for ident in calls:
            self._place.pop(ident, None)
        for outcome in outcomes:
            calls.pop(outcome.id, None)
            self._learn(outcome.ended - outcome.started)
        return list(calls.values())

    def withdraw(self, call_id: int) -> Call | None:
        """Take back a call that was not sent."""
        return self._queued.pop(call_id, None)

    def _learn(self, duration: float) -> None:
        # A long call weighs at once, a short one slowly: a batch that is too small costs
        # little, one that is too large keeps finished results waiting.
        if self._mean is None or duration > self._mean:
            self._mean = duration
        else:
            self._mean += 0.1 * (duration - self._mean)
