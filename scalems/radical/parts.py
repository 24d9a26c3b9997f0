"""Blocks of calls on their way to Workers: cut to parts that take a moment, each sent as one call.

How long the items of a function take is not known at first. So some go as calls of their own,
and the rest waits until one of them has ended. Those of a function that takes long all go alone: a
Worker has what it can begin, and others the rest.

A part's outcome holds those of its items. It travels as that of a call, and :func:`opened` on the
client's side.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scalems.workflow.block import singles
from scalems.workflow.call import Call, Outcome, hostname
from scalems.workflow.large import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scalems.workflow.backend import Done
    from scalems.workflow.block import Answers

FIRST = 16
"""Items of a function that go alone, to see what they take."""
TOGETHER = 0.02
"""Seconds of work in a part."""
MOST = 1000
"""Items in a part."""

_FROM = 1 << 40  # numbers of parts: beyond those of all tasks


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
        self._held: dict[str, list[tuple[Call, Done]]] = {}
        self._place: dict[tuple[int, int], int] = {}

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

    def cancel(self, call_id: int, item: int) -> tuple[int, tuple[Call, Done] | None]:
        """Find an item that is to be cancelled.

        :return: the number of the call that it went by, or 0; and what to tell if it has not gone.
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
                        return 0, (replace(call, items=None, item=item), done)
            return self._place.get((call_id, item), 0), None

    def take_held(self) -> Iterator[tuple[Call, Done]]:
        """Yield all items that have not gone, and forget them."""
        with self._lock:
            held, self._held = self._held, {}
        for call, done in itertools.chain(*held.values()):
            for item in call.items or ():
                yield replace(call, items=None, item=item), done

    def _send_singles(self, call: Call, done: Done) -> None:
        for one in singles(call):
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
            part = replace(call, items=call.items[start : start + size])

            def told(outcome: Any, part: Call = part) -> None:
                if part.items is not None and outcome.ok:
                    self._learn(part.name, (outcome.ended - outcome.started) / len(part.items))
                for one in opened(part, outcome):
                    done(one)

            with self._lock:
                number = next(self._numbers)
            self._send(replace(part, id=number), told)

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
    """Gathers what the items of a part give, for one outcome.

    :param done: told that.
    """

    def __init__(self, part: Call, done: Callable[[Outcome], None]) -> None:
        assert part.items is not None
        self._part = part
        self._done = done
        self._missing = len(part.items)
        self._lock = threading.Lock()
        self._given: list[Outcome | Answers] = []
        self._started = float("inf")
        self._ended = 0.0

    def add(self, given: Outcome | Answers) -> None:
        """Take what some items have given."""
        with self._lock:
            self._given.append(given)
            if isinstance(given, Outcome):
                self._missing -= 1
                started, ended = given.started, given.ended
            else:
                self._missing -= len(given)
                started, ended = given.started[0], given.ended[-1]
            self._started = min(self._started, started)
            self._ended = max(self._ended, ended)
            last = self._missing == 0
        if last:
            self._done(
                Outcome(
                    id=self._part.id,
                    ok=True,
                    payload=pickle.dumps(self._given, protocol=5),
                    host=hostname(),
                    pid=0,
                    started=self._started,
                    ended=self._ended,
                )
            )


def opened(part: Call, outcome: Outcome) -> Iterator[Outcome | Answers]:
    """Yield what the items of a part have given, as the backend is to tell it."""
    if outcome.ok:
        for one in loads(outcome.payload):
            yield replace(one, id=part.id)
    else:  # the part as a whole was lost, or cancelled
        for item in part.items or ():
            yield replace(outcome, id=part.id, item=item)
