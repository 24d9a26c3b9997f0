"""Calls that wait: those with the highest priority first, then in the order that they came."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scalems.workflow.call import Call

T = TypeVar("T")


class Waiting(Generic[T]):
    """A queue of things, each of which belongs to a call, or to a block of calls."""

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, tuple[Call, T]]] = {}
        self._lane_of: dict[int, int] = {}  # of blocks, and of those that have a priority
        self._numbers = itertools.count(-1, -1)  # of blocks: several may be parts of one
        self._count = 0

    def __len__(self) -> int:
        """Number of calls, those in blocks included."""
        return self._count

    def __iter__(self) -> Iterator[tuple[Call, T]]:
        for priority in sorted(self._lanes, reverse=True):
            yield from self._lanes[priority].values()

    def add(self, call: Call, thing: T, *, first: bool = False) -> None:
        """Add a call at the end, or before all others of its priority."""
        priority = call.needs.priority
        key = call.id if call.items is None else next(self._numbers)
        self._lanes.setdefault(priority, OrderedDict())[key] = (call, thing)
        if priority or key < 0:
            self._lane_of[key] = priority
        if first:
            self._lanes[priority].move_to_end(key, last=False)
        self._count += _count(call)

    def first(self) -> tuple[Call, T]:
        """Return the next one, which stays."""
        lane = self._next()[1]
        return lane[next(iter(lane))]

    def take(self, most: int | None = None) -> tuple[Call, T]:
        """Take the next one out.

        :param most: of a block, take so many calls only.
        """
        priority, lane = self._next()
        key, (call, thing) = lane.popitem(last=False)
        self._forget(key, call, priority)
        if call.items is not None and most is not None and most < len(call.items):
            self.add(replace(call, items=call.items[most:]), thing, first=True)
            call = replace(call, items=call.items[:most])
        return call, thing

    def take_last(self) -> tuple[Call, T]:
        """Take out the one whose turn would come last; a block as a whole."""
        priority = min(self._lanes)
        key, (call, thing) = self._lanes[priority].popitem()
        self._forget(key, call, priority)
        return call, thing

    def remove(self, call_id: int, item: int | None = None) -> tuple[Call, T] | None:
        """Take a call out, if it is there.

        :param item: its position, if it is one of a block.
        """
        if item is not None:
            return self._remove_item(call_id, item)
        priority = self._lane_of.get(call_id, 0)
        lane = self._lanes.get(priority)
        entry = lane.pop(call_id, None) if lane is not None else None
        if entry is not None:
            self._forget(call_id, entry[0], priority)
        return entry

    def remove_block(self, call_id: int) -> list[int]:
        """Take out all that waits of a block; return which of its calls those are."""
        found: list[int] = []
        for key, priority in list(self._lane_of.items()):
            call, _ = self._lanes[priority][key]
            if key < 0 and call.id == call_id:
                del self._lanes[priority][key]
                self._forget(key, call, priority)
                found.extend(call.items or ())
        return found

    def clear(self) -> None:
        """Take all out."""
        self._lanes.clear()
        self._lane_of.clear()
        self._count = 0

    def _remove_item(self, call_id: int, item: int) -> tuple[Call, T] | None:
        for key, priority in self._lane_of.items():
            call, thing = self._lanes[priority][key]
            if key < 0 and call.id == call_id and call.items is not None and item in call.items:
                break
        else:
            return None
        del self._lanes[priority][key]
        self._forget(key, call, priority)
        index = call.items.index(item)
        for rest in (call.items[index + 1 :], call.items[:index]):
            if rest:
                self.add(replace(call, items=rest), thing, first=True)
        return replace(call, items=call.items[index : index + 1]), thing

    def _next(self) -> tuple[int, OrderedDict[int, tuple[Call, T]]]:
        priority = max(self._lanes) if len(self._lanes) > 1 else next(iter(self._lanes))
        return priority, self._lanes[priority]

    def _forget(self, key: int, call: Call, priority: int) -> None:
        self._lane_of.pop(key, None)
        self._count -= _count(call)
        if not self._lanes[priority]:
            del self._lanes[priority]


def _count(call: Call) -> int:
    return 1 if call.items is None else len(call.items)
