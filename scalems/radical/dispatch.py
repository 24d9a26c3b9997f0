"""Which calls go where, and how many at a time: the queue between workflows and Workers.

A Worker is given calls by credit: what it can run at once, and of short calls as many more as it
does in a moment, so that it never waits for the next ones. All others wait here, where the one
with the highest priority goes first, and whatever Worker has room takes it. Of calls that take
longer than that moment none is sent before it can begin: so a Worker that is lost takes with it
only what had begun, and short ones behind it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from scalems.radical.gang import Gangs
from scalems.radical.wire import duration_of, is_some, needs_of, size_of
from scalems.workflow.needs import NONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scalems.radical.wire import Row

AHEAD = 0.2  # seconds of work that a Worker gets beyond what it runs
MOST = 1000  # calls, the same, for each slot
MOST_BYTES = 64 << 20  # bytes of calls that a Worker has not answered


class Queue:
    """Calls that wait: those with the highest priority first, then in the order they came."""

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, Row]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[int]:
        for lane in self._lanes.values():
            yield from lane

    def add(self, row: Row, *, first: bool = False) -> None:
        """Add a call at the end, or before all others of its priority."""
        lane = self._lanes.setdefault(needs_of(row).priority, OrderedDict())
        lane[row[0]] = row
        if first:
            lane.move_to_end(row[0], last=False)

    def first(self) -> Row | None:
        """Return the next call, which stays; ``None`` if there is none."""
        lane = self._next()
        return None if lane is None else lane[next(iter(lane))]

    def take(self) -> Row:
        """Take out the next call; there must be one."""
        lane = self._next()
        assert lane is not None
        return lane.popitem(last=False)[1]

    def remove(self, ident: int) -> Row | None:
        """Take out a call, if it is there."""
        for lane in self._lanes.values():
            if (row := lane.pop(ident, None)) is not None:
                return row
        return None

    def _next(self) -> OrderedDict[int, Row] | None:
        for priority in sorted(self._lanes, reverse=True):
            if lane := self._lanes[priority]:
                return lane
            del self._lanes[priority]
        return None


class Place:
    """Where calls run: a Worker, or all those that are reached through RP.

    :param slots: cores that calls run on.
    :param host: its name, for those who start ranks there; empty if none can be.
    :param most: calls that one batch has at most.
    """

    def __init__(
        self, name: str, slots: int, *, host: str = "", ahead: float = AHEAD, most: int = MOST
    ) -> None:
        self.name = name
        self.slots = slots
        self.host = host
        self.away: dict[int, Row] = {}
        """The calls that it has."""
        self.load = 0
        """Cores that these need."""
        self.bytes = 0
        self.paused = False
        """Whether it gets no more calls for now."""
        self.recalled = False
        """Whether it was asked to give back what it has not begun."""
        self.stalled = False
        """Whether it has done nothing since it gave calls back."""
        self._ahead = ahead
        self._most = most
        self._mean: float | None = None

    @property
    def window(self) -> int:
        """Cores of calls that it may have at a time."""
        if self._mean is None or self.stalled:
            return self.slots
        return self.slots * (1 + min(self._most, int(self._ahead / max(self._mean, 1e-6))))

    def batch(self, seconds: float) -> int:
        """Return how many calls take so long, as far as calls have shown."""
        if self._mean is None:
            return 1
        return max(1, min(self._most, int(seconds / max(self._mean, 1e-6))))

    def took(self, row: Row) -> None:
        """Note that it has a call."""
        self.away[row[0]] = row
        self.load += needs_of(row).cores
        self.bytes += size_of(row)

    def lost(self, ident: int) -> Row | None:
        """Note that it has a call no more; return that, if it had it."""
        row = self.away.pop(ident, None)
        if row is not None:
            self.load -= needs_of(row).cores
            self.bytes -= size_of(row)
        return row

    def learn(self, duration: float) -> None:
        """Note how long a call took, in seconds."""
        # A long call weighs at once, a short one slowly: too small a batch costs little, too
        # large a one keeps others waiting.
        if self._mean is None or duration > self._mean:
            self._mean = duration
        else:
            self._mean += 0.1 * (duration - self._mean)


class Dispatcher:
    """Gives calls to places. It knows nothing of RADICAL-Pilot, and belongs to one thread."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.places: dict[str, Place] = {}
        self._total = self._largest = 0  # slots of all places, and of the largest one
        self.gangs = Gangs()

    def __iter__(self) -> Iterator[int]:
        """Yield the ids of all calls that have no outcome."""
        yield from self.queue
        for place in self.places.values():
            yield from place.away

    def __len__(self) -> int:
        """Number of calls that have no outcome."""
        return len(self.queue) + sum(len(place.away) for place in self.places.values())

    def open(self, place: Place) -> None:
        """Let a place have calls."""
        self.places[place.name] = place

    def close(self, name: str) -> list[Row]:
        """Let a place have calls no more; return those that it had."""
        place = self.places.pop(name, None)
        rows = list(place.away.values()) if place is not None else []
        for row in rows:
            self.gangs.release(row[0])
        return rows

    def batches(self, name: str | None = None) -> Iterator[tuple[Place, list[Row]]]:
        """Yield calls to send now, and where to; those with the least load come first.

        :param name: of the only place that has room.
        """
        if not len(self.queue):
            return
        if name is None or self.gangs.freed:
            self.gangs.freed = False
            open_ones = [place for place in self.places.values() if not place.paused]
            open_ones.sort(key=lambda place: place.load / place.slots)
            self._largest = max((place.slots for place in open_ones), default=0)
            self._total = sum(place.slots for place in open_ones)
        else:
            one = self.places.get(name)
            open_ones = [one] if one is not None and not one.paused else []
        yield from self._wide()
        for place in open_ones:
            # Beyond what it can begin it gets no more than its share of what waits.
            share = -(-len(self.queue) * place.slots // (2 * (self._total or place.slots)))
            if rows := self._batch(place, max(share, place.slots - place.load), self._largest):
                yield place, rows
        yield from self._wide()

    def _wide(self) -> Iterator[tuple[Place, list[Row]]]:
        """Yield calls that run on several places, as long as one of them is the next.

        If it has no room it waits, and all others with it: they would take what it waits for.
        """
        while (row := self.queue.first()) is not None and self._wants_several(row):
            places = [place for place in self.places.values() if not place.paused]
            if (found := self.gangs.spread(row, places)) is None:
                return
            self.queue.take()
            found[0].took(found[1])
            yield found[0], [found[1]]

    def ended(self, name: str, outcomes: Iterable[Row]) -> list[Row]:
        """Note outcomes of calls of a place; return those that it had to give."""
        place = self.places.get(name)
        if place is None:
            return []
        known = []
        for row in outcomes:
            if is_some(row):
                if row[0] in place.away:
                    known.append(row)
            elif place.lost(row[0]) is not None:
                self.gangs.release(row[0])
                place.stalled = False
                place.learn(duration_of(row))
                known.append(row)
        return known

    def returned(self, name: str, idents: Iterable[int]) -> None:
        """Queue calls again that a place has not begun and will not begin."""
        place = self.places.get(name)
        if place is not None:
            place.recalled, place.stalled = False, True
            for row in reversed([row for i in idents if (row := place.lost(i)) is not None]):
                self.gangs.release(row[0])
                self.queue.add(row, first=True)

    def withdraw(self, idents: Sequence[int]) -> tuple[list[Row], dict[str, list[int]]]:
        """Take back calls that were not sent.

        :return: these, and by place the ids of those that were sent.
        """
        unsent: list[Row] = []
        sent: dict[str, list[int]] = {}
        for ident in idents:
            if (row := self.queue.remove(ident)) is not None:
                unsent.append(row)
                continue
            for place in self.places.values():
                if ident in place.away:
                    sent.setdefault(place.name, []).append(ident)
        return unsent, sent

    def overloaded(self) -> list[Place]:
        """Return places that have calls which others could begin at once; each once."""
        if len(self.queue) or len(self.places) < 2:
            return []
        if not any(place.load < place.slots and not place.paused for place in self.places.values()):
            return []
        found = [p for p in self.places.values() if p.load > p.slots and not p.recalled]
        for place in found:
            place.recalled = True
        return found

    def _wants_several(self, row: Row) -> bool:
        needs = needs_of(row)
        return (
            needs is not NONE and needs.units > 1 and self.gangs.wanted(row, self.places.values())
        )

    def _batch(self, place: Place, limit: int, largest: int) -> list[Row]:
        rows: list[Row] = []
        window = place.window
        while limit > 0 and (row := self.queue.first()) is not None:
            if self._wants_several(row):
                break
            cores = needs_of(row).cores
            # One that fits nowhere is sent all the same, to be refused there.
            if cores <= largest and (place.load + cores > window or place.bytes > MOST_BYTES):
                break
            limit -= cores
            rows.append(self.queue.take())
            place.took(row)
        return rows
