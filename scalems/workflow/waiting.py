"""Calls that wait: those with the highest priority first, then in the order that they came."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scalems.workflow.call import Call

T = TypeVar("T")


class Waiting(Generic[T]):
    """A queue of things, each of which belongs to a call."""

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, tuple[Call, T]]] = {}
        self._lane_of: dict[int, int] = {}  # only of those that have a priority

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __iter__(self) -> Iterator[tuple[Call, T]]:
        for priority in sorted(self._lanes, reverse=True):
            yield from self._lanes[priority].values()

    def add(self, call: Call, thing: T, *, first: bool = False) -> None:
        """Add a call at the end, or before all others of its priority."""
        priority = call.needs.priority
        lane = self._lanes.setdefault(priority, OrderedDict())
        lane[call.id] = (call, thing)
        if priority:
            self._lane_of[call.id] = priority
        if first:
            lane.move_to_end(call.id, last=False)

    def first(self) -> tuple[Call, T]:
        """Return the next one, which stays."""
        lane = self._next()[1]
        return lane[next(iter(lane))]

    def take(self) -> tuple[Call, T]:
        """Take the next one out."""
        priority, lane = self._next()
        ident, entry = lane.popitem(last=False)
        self._forget(ident, priority)
        return entry

    def take_last(self) -> tuple[Call, T]:
        """Take out the one whose turn would come last."""
        priority = min(self._lanes)
        ident, entry = self._lanes[priority].popitem()
        self._forget(ident, priority)
        return entry

    def remove(self, call_id: int) -> tuple[Call, T] | None:
        """Take a call out, if it is there."""
        priority = self._lane_of.get(call_id, 0)
        lane = self._lanes.get(priority)
        entry = lane.pop(call_id, None) if lane is not None else None
        if entry is not None:
            self._forget(call_id, priority)
        return entry

    def clear(self) -> None:
        """Take all out."""
        self._lanes.clear()
        self._lane_of.clear()

    def _next(self) -> tuple[int, OrderedDict[int, tuple[Call, T]]]:
        priority = max(self._lanes) if len(self._lanes) > 1 else next(iter(self._lanes))
        return priority, self._lanes[priority]

    def _forget(self, call_id: int, priority: int) -> None:
        self._lane_of.pop(call_id, None)
        if not self._lanes[priority]:
            del self._lanes[priority]
