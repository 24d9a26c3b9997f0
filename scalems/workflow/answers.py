"""What the items of a block have given, many together.

Those that have given a value, and have printed nothing, have no object of their own: numbers are
words in an array, texts are bytes that follow each other, and so are the pickles of all else.
Their times are in an array too: of items that follow each other without a break, each begins when
the one before ends.

Both sides import this module.
"""

from __future__ import annotations

import pickle
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from scalems.workflow import call as calls
from scalems.workflow.call import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

INT, FLOAT, BOOL, NONE, TEXT, PICKLE, OUTCOME = range(1, 8)
"""How a word is meant: as the value, or as the place where the data of the item end."""

WITH_DATA = frozenset({TEXT, PICKLE, OUTCOME})

_begin = attrgetter("begin")


class Stretch(NamedTuple):
    """Items that follow each other without a break, and have given the same kind of value."""

    kind: int
    begin: int
    end: int
    """Which of the answers they are."""
    started: float
    """When the first of them began."""
    place: int
    """Where its data begin, if they have any."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What items of a block have given that lie beside each other."""

    id: int
    """Of the block."""
    first: int
    """Position of the first of them."""
    stretches: list[Stretch]
    words: array[int]
    clock: array[float]
    """When each has ended, by a clock of their process."""
    offset: float
    """Seconds from that clock to the one of the host, which counts from the epoch."""
    data: bytes
    """What is pickled of them."""
    base: int
    """The place where that begins."""
    others: dict[int, Outcome]
    """Outcomes, by position, of those that failed, have printed something, or given files."""
    host: str
    pid: int
    env: str
    stamp: str = ""

    def __len__(self) -> int:
        return len(self.words)

    @property
    def started(self) -> float:
        """When the first of them began, in seconds since the epoch, by the clock of the host."""
        return self.offset + self.stretches[0].started

    @property
    def ended(self) -> float:
        """When the last of them ended, the same."""
        return self.offset + self.clock[-1]

    def took(self) -> tuple[float, float]:
        """Return the seconds that those took which are not in `others`, and the longest one.

        Of those without a break between them it is the mean that counts: all are tiny.
        """
        whole = longest = 0.0
        for kind, begin, end, started, _ in self.stretches:
            if kind != OUTCOME:
                seconds = self.clock[end - 1] - started
                whole += seconds
                longest = max(longest, seconds / (end - begin))
        return whole, longest

    def value(self, position: int) -> Any:
        """Return the value of an item.

        :raises Exception: what :func:`scalems.workflow.call.result` raises.
        """
        index = position - self.first
        stretch = self._stretch(index)
        if stretch.kind == INT:
            return self.words[index]
        try:
            return self._some(stretch, index, index + 1)[0]
        except Exception:
            return calls.result(self.outcome(position))

    def values(self, positions: range) -> list[Any]:
        """Return the values of items beside each other, none of which is in `others`.

        :raises Exception: a value cannot be rebuilt here.
        """
        begin, end = positions.start - self.first, positions.stop - self.first
        found: list[Any] = []
        for stretch in self.stretches:
            if stretch.end > begin and stretch.begin < end:
                found += self._some(stretch, max(begin, stretch.begin), min(end, stretch.end))
        return found

    def payload(self, position: int) -> bytes:
        """Return the pickled value of an item that is not in `others`."""
        index = position - self.first
        stretch = self._stretch(index)
        if stretch.kind == PICKLE:
            return self.texts(stretch, index, index + 1)[0]
        return pickle.dumps(self._some(stretch, index, index + 1)[0], protocol=5)

    def times(self, position: int) -> tuple[float, float]:
        """Return when an item has begun and ended, in seconds since the epoch."""
        index = position - self.first
        stretch = self._stretch(index)
        started = stretch.started if index == stretch.begin else self.clock[index - 1]
        return self.offset + started, self.offset + self.clock[index]

    def outcome(self, position: int) -> Outcome:
        """Return how an item has ended."""
        if position in self.others:
            return self.others[position]
        started, ended = self.times(position)
        return Outcome(
            id=self.id,
            item=position,
            ok=True,
            payload=self.payload(position),
            host=self.host,
            pid=self.pid,
            started=started,
            ended=ended,
            env=self.env,
            stamp=self.stamp,
        )

    def outcomes(self) -> Iterator[Outcome]:
        """Yield how each of them has ended."""
        return map(self.outcome, range(self.first, self.first + len(self)))

    def texts(self, stretch: Stretch, begin: int, end: int) -> list[bytes]:
        """Return the data of items of a stretch that has some."""
        data, base, found = self.data, self.base, []
        place = (stretch.place if begin == stretch.begin else self.words[begin - 1]) - base
        for stop in self.words[begin:end]:
            found.append(data[place : stop - base])
            place = stop - base
        return found

    def _stretch(self, index: int) -> Stretch:
        if len(self.stretches) == 1:
            return self.stretches[0]
        return self.stretches[bisect_right(self.stretches, index, key=_begin) - 1]

    def _some(self, stretch: Stretch, begin: int, end: int) -> list[Any]:
        kind = stretch.kind
        if kind == INT:
            return self.words[begin:end].tolist()
        if kind == FLOAT:
            return array("d", self.words[begin:end].tobytes()).tolist()
        if kind == BOOL:
            return [*map(bool, self.words[begin:end])]
        if kind == NONE:
            return [None] * (end - begin)
        texts = self.texts(stretch, begin, end)
        return [*map(bytes.decode if kind == TEXT else pickle.loads, texts)]
