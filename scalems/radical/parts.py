"""Blocks of calls on their way to Workers: cut to parts that take a moment, each sent as one call.

How long the items of a function take is not known at first. So some go as calls of their own,
and the rest waits until one of them has ended. Those of a function that takes long all go alone: a
Worker has what it can begin, and others the rest.

A part's outcome holds those of its items, and travels as that of a call. When some of them take
longer than was thought, what the others have given goes ahead of it, and those that have not begun
come back, to be sent one by one.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scalems.workflow import block
from scalems.workflow.answers import Answers
from scalems.workflow.call import Call, Outcome, hostname
from scalems.workflow.large import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from scalems.workflow.backend import Done

    Entry = tuple[Call, Done]

FIRST = 16
"""Items of a function that go alone, to see what they take."""
TOGETHER = 0.02
"""Seconds of work in a part."""
MOST = block.MOST // 2
"""Items in a part."""

SOME = -1
"""``item`` of an outcome that holds what some items of a part have given, while others run."""
SHOWN = 0.25
"""Seconds after which what items have given goes ahead of their part."""
LONG = 1.0
"""Seconds without news of a part, after which the items that have not begun are sent back."""

_FROM = 1 << 40  # numbers of parts: beyond those of all tasks


@dataclass
class _Part:
    call: Call
    done: Done
    left: set[int]
    """Positions that have given nothing yet."""
    unwanted: set[int] = field(default_factory=set)
    """Those that were cancelled."""


class Parts:
    """Sends blocks in parts, to whoever takes calls.

    :param send: takes a call, and is to tell its outcome.
    """

    def __init__(self, send: Callable[[Call, Done], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._numbers = itertools.count(_FROM)
        self._takes: dict[str, float] = {}  # seconds that an item takes, by name
        self._asked: dict[str, int] = {}  # items that are to show it
        self._held: dict[str, list[Entry]] = {}
        self._place: dict[tuple[int, int], int] = {}
        self._away: dict[int, _Part] = {}

    def submit(self, call: Call, done: Done) -> None:
        """Take a block; `done` is told the outcomes of its items."""
        assert call.items is not None
        with self._lock:
            known = call.name in self._takes
            count = 0
            if not known:
                count = max(0, min(len(call.items), FIRST - self._asked.get(call.name, 0)))
                self._asked[call.name] = self._asked.get(call.name, 0) + count
                if count < len(call.items):
                    rest = replace(call, items=call.items[count:])
                    self._held.setdefault(call.name, []).append((rest, done))
        if known:
            self._send_parts(call, done)
        elif count:
            self._send_singles(replace(call, items=call.items[:count]), done)

    def cancel(self, call_id: int, item: int) -> tuple[int, bool, Entry | None]:
        """Find an item that is to be cancelled.

        :return: the number of the call that it went by, or 0; whether it is one of several in
            that; and what to tell if it has not gone.
        """
        with self._lock:
            for blocks in self._held.values():
                for index, (call, done) in enumerate(blocks):
                    if call.id == call_id and call.items is not None and item in call.items:
                        at = call.items.index(item)
                        left = [call.items[:at], call.items[at + 1 :]]
                        blocks[index : index + 1] = [
                            (replace(call, items=items), done) for items in left if items
                        ]
                        return 0, False, (replace(call, items=None, item=item), done)
            if number := self._place.get((call_id, item), 0):
                return number, False, None
            for number, part in self._away.items():
                if part.call.id == call_id and item in part.left:
                    part.unwanted.add(item)
                    return number, True, None
            return 0, False, None

    def rest(self, number: int) -> tuple[list[Entry], list[Entry]] | None:
        """Make new parts of what is left to do of one that has come back; the old one is no more.

        :return: these, and what they have to tell; and the items that were cancelled meanwhile,
            which are to be told so. ``None``: it is no part, or goes again as it is.
        """
        with self._lock:
            part = self._away.get(number)
            if part is None or part.call.items is None:
                return None
            if len(part.left) == len(part.call.items) and not part.unwanted:
                return None
            del self._away[number]
            unwanted = part.left & part.unwanted
        wanted = [replace(part.call, items=run) for run in _runs(part.left - unwanted)]
        ended = [replace(part.call, items=None, item=item) for item in sorted(unwanted)]
        return [self._part(call, part.done) for call in wanted], [(one, part.done) for one in ended]

    def take_held(self) -> Iterator[tuple[Call, Done]]:
        """Yield all items that have not gone, and forget them."""
        with self._lock:
            held, self._held = self._held, {}
        for call, done in itertools.chain(*held.values()):
            for item in call.items or ():
                yield replace(call, items=None, item=item), done

    def _send_singles(self, call: Call, done: Done) -> None:
        for one in block.singles(call):
            key = (one.id, one.item or 0)
            with self._lock:
                number = self._place[key] = next(self._numbers)

            def told(outcome: Any, one: Call = one, key: tuple[int, int] = key) -> None:
                with self._lock:
                    self._place.pop(key, None)
                self._heard(one.name, outcome)
                done(replace(outcome, id=one.id, item=one.item))

            self._send(replace(one, id=number, item=None), told)

    def _send_parts(self, call: Call, done: Done) -> None:
        assert call.items is not None
        size = min(MOST, int(TOGETHER / max(self._takes[call.name], 1e-6)))
        if size < 2:
            self._send_singles(call, done)
            return
        for start in range(0, len(call.items), size):
            self._send(*self._part(block.cut(call, call.items[start : start + size]), done))

    def _part(self, call: Call, done: Done) -> Entry:
        """Note a part; return it with a number of its own, and what is to be told of it."""
        with self._lock:
            number = next(self._numbers)
            self._away[number] = _Part(call, done, set(call.items or ()))

        def told(outcome: Any) -> None:
            self._told(number, outcome)

        return replace(call, id=number), told

    def _told(self, number: int, outcome: Outcome) -> None:
        """Pass on what items of a part have given, and send those that have come back."""
        given, returned = loads(outcome.payload) if outcome.ok else ((), ())
        with self._lock:
            if (part := self._away.get(number)) is None:
                return  # it was split
            news = [one for found in given for one in _new(found, part.left)]
            for one in news:
                part.left.difference_update(_positions(one))
            back = sorted(part.left.intersection(returned))
            part.left.difference_update(back)
            lost: list[int] = []
            if outcome.item != SOME:
                del self._away[number]
                lost = sorted(part.left)
        count = sum(len(_positions(one)) for one in news)
        if count and not back:
            self._learn(part.call.name, (outcome.ended - outcome.started) / count)
        if back:
            self._learn(part.call.name, LONG)
        for one in news:
            part.done(replace(one, id=part.call.id))
        for run in _runs(back):
            self._send_parts(replace(part.call, items=run), part.done)
        for item in lost:  # it was lost as a whole, or cancelled
            part.done(replace(outcome, id=part.call.id, item=item))

    def _heard(self, name: str, outcome: Outcome) -> None:
        """Learn from an item that went alone, if it has run; else others are to show it."""
        if outcome.pid:
            self._learn(name, outcome.ended - outcome.started)
            return
        with self._lock:
            self._asked[name] = self._asked.get(name, 0) - 1
            wait = name in self._takes or self._asked[name] > 0
            held = [] if wait else self._held.pop(name, [])
        for call, done in held:
            self.submit(call, done)

    def _learn(self, name: str, took: float) -> None:
        """Note what an item took; the first one lets those go that wait for it."""
        with self._lock:
            former = self._takes.get(name)
            self._takes[name] = (
                took if former is None or took > former else former * 0.9 + took / 10
            )
            held = self._held.pop(name, ())
        for call, done in held:
            self._send_parts(call, done)


class Gathering:
    """Gathers what the items of a part give, for one outcome, or for several if that takes long.

    :param done: told the last one, which comes when there is nothing left to wait for.
    """

    def __init__(self, part: Call, done: Callable[[Outcome], None]) -> None:
        assert part.items is not None
        self.items = part.items
        self._part = part
        self._done = done
        self._missing = len(part.items)
        self._lock = threading.Lock()
        self._given: list[Outcome | Answers] = []
        self._began = self._heard = self._told = time.monotonic()
        self._started = float("inf")
        self._ended = 0.0

    def add(self, given: Outcome | Answers) -> None:
        """Take what some items have given."""
        with self._lock:
            self._given.append(given)
            self._heard = time.monotonic()
            self._missing -= len(_positions(given))
            self._started = min(self._started, given.started)
            self._ended = max(self._ended, given.ended)
            last = self._outcome(()) if self._missing == 0 else None
        if last is not None:
            self._done(last)

    def ahead(self, now: float, tell: Callable[[Outcome], None]) -> None:
        """Tell what items have given, if that has been waiting for a while."""
        with self._lock:
            if self._given and self._missing and now - self._told > SHOWN:
                self._told = now
                tell(replace(self._outcome(()), item=SOME))

    def is_long(self, now: float) -> bool:
        """Tell if nothing was heard of it for so long that others should have what can wait."""
        return self._missing > 1 and now - self._heard > LONG

    def give_back(self, positions: Sequence[int], tell: Callable[[Outcome], None]) -> None:
        """Tell that items will not run here: others have begun, and take long."""
        with self._lock:
            self._heard = time.monotonic()
            if not positions:
                return
            self._missing -= len(positions)
            outcome = self._outcome(positions)
            if last := self._missing == 0:  # the others have ended just now
                self._missing = -1
            else:
                tell(replace(outcome, item=SOME))
        if last:
            self._done(outcome)

    def _outcome(self, returned: Sequence[int]) -> Outcome:
        given, self._given = self._given, []
        return Outcome(
            id=self._part.id,
            ok=True,
            payload=pickle.dumps((given, tuple(returned)), protocol=5),
            host=hostname(),
            pid=0,
            started=min(self._started, self._ended),
            ended=self._ended,
            files=tuple(name for one in given for name in _files(one)),
        )


def _positions(given: Outcome | Answers) -> Sequence[int]:
    if isinstance(given, Answers):
        return range(given.first, given.first + len(given))
    return (given.item or 0,)


def _new(given: Outcome | Answers, left: set[int]) -> Iterator[Outcome | Answers]:
    """Yield what items have given that are still waited for: a part may have run twice."""
    if left.issuperset(_positions(given)):
        yield given
    elif isinstance(given, Answers):
        yield from (given.outcome(position) for position in _positions(given) if position in left)


def _files(given: Outcome | Answers) -> Iterable[str]:
    if isinstance(given, Outcome):
        return given.files
    return (name for outcome in given.others.values() for name in outcome.files)


def _runs(positions: Iterable[int]) -> Iterator[range]:
    """Yield the stretches without a gap that positions are made of."""
    start = end = -1
    for position in sorted(positions):
        if position != end:
            if end > start:
                yield range(start, end)
            start = position
        end = position + 1
    if end > start:
        yield range(start, end)
