"""What the items of a block give, as a call process records it: in memory that outlives it.

The memory is shared with the pool, so a record costs no system call, and what has ended is not
lost if the process is. For each item it has a word, see ``scalems.workflow.answers``, and the time
when it ended; where something differs from the item before, also of what kind the word is and
when the item began. Their data come last; what has no room there follows in the same file.

Two words say how far the process is and how far it may go. It writes the first one before it
looks at the second; the pool, which wants items back, writes the second one before it looks at the
first. So at least one of the two sees what the other has written: no item is begun that was taken
back. (Processors may let a process see its own writes before others do, for less than
microseconds: the pool waits for longer than that.)

Both sides import this module.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import re
import struct
import time
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from scalems.workflow import call as calls
from scalems.workflow.answers import OUTCOME, WITH_DATA, Answers, Stretch
from scalems.workflow.block import MOST
from scalems.workflow.large import Large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scalems.workflow.call import Call, Outcome
    from scalems.workflow.large import Blob

DONE, LIMIT = 0, 1
"""Of the marks: items that have ended (the one behind them has begun), and those that may be begun.

Nothing has begun as long as the first one is -1. The second one is -1 while the pool takes items
back."""

_OFFSET, _SPARE = 2, 3
_MARKS = 64  # bytes
_KINDS = _MARKS
_WORDS = _KINDS + MOST
_CLOCK = _WORDS + 8 * MOST
_STARTED = _CLOCK + 8 * MOST
_DATA = _STARTED + 8 * MOST
SIZE = _DATA + (1 << 20)
"""Bytes of the memory; more data follow in the file only."""

_DRAIN = 0.0005  # seconds until a write is seen by all processors
_WAIT = 0.0002  # seconds between two looks whether the pool has taken back what it wants
_CHANGED = re.compile(rb"[^\0]")


class Recorder:
    """Makes records, in the process that runs the items.

    :param descriptor: of the file that :class:`Records` has made.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.memory = memory = memoryview(mmap.mmap(descriptor, SIZE))
        self.marks = memory[:_MARKS].cast("q")
        self.kinds = memory[_KINDS:_WORDS]
        self.words = memory[_WORDS:_CLOCK].cast("q")
        self.numbers = memory[_WORDS:_CLOCK].cast("d")
        """The same as the words, written as floating-point numbers."""
        self.clock = memory[_CLOCK:_STARTED].cast("d")
        self.started = memory[_STARTED:_DATA].cast("d")
        self.end = _DATA
        """Where the data end that there are."""
        self._quickest = math.inf

    def begin(self, count: int) -> bool:
        """Begin with the first item of a block, of so many; tell if it may run."""
        self.end = _DATA
        self.kinds[:count] = bytes(count)
        self.marks[_OFFSET : _OFFSET + 1] = memoryview(
            struct.pack("d", time.time() - time.perf_counter())
        ).cast("q")
        return self.ended(0)

    def ended(self, count: int) -> bool:
        """Note that so many items have ended; tell if the next one may run."""
        self.marks[DONE] = count
        while (limit := self.marks[LIMIT]) < 0:
            time.sleep(_WAIT)
        return count < limit

    def add(self, place: int, data: bytes) -> None:
        """Record data of an item, and where they end."""
        begin, end = self.end, self.end + len(data)
        if end <= SIZE:
            self.memory[begin:end] = data
        else:
            while data:
                written = os.pwrite(self._descriptor, data, end - len(data))
                data = data[written:]
        self.words[place] = self.end = end

    def write_time(self) -> float:
        """Return the seconds that it takes to write a byte to a file, at least."""
        clock = time.perf_counter
        for _ in range(3):
            begin = clock()
            try:
                os.pwrite(self._descriptor, b"\0", 8 * _SPARE)
            except OSError:  # a call has closed what it did not open
                return 0.0
            self._quickest = min(self._quickest, clock() - begin)
        return self._quickest


class Records:
    """What a :class:`Recorder` in another process has recorded.

    :param descriptor: of a file in memory, which both have.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.ftruncate(descriptor, SIZE)
        self._marks = memoryview(mmap.mmap(descriptor, mmap.PAGESIZE))[:_MARKS].cast("q")
        self._count = self._kind = 0
        self._place = _DATA

    def begin(self, count: int) -> None:
        """Forget all, and let so many items be run; the other process must not be amid a block."""
        self._marks[DONE], self._marks[LIMIT] = -1, count
        if self._place > SIZE:
            os.ftruncate(self._descriptor, SIZE)
        self._count, self._place = 0, _DATA

    def take_back(self) -> int:
        """Return how many of the last items have not begun, and will not begin."""
        done, limit = self._marks[DONE], self._marks[LIMIT]
        if done + 1 >= limit:
            return 0
        self._marks[LIMIT] = -1
        time.sleep(_DRAIN)
        rest = min(limit, self._marks[DONE] + 1)
        self._marks[LIMIT] = rest
        return limit - rest

    def read(
        self,
        call: Call,
        *,
        pid: int,
        env: str,
        stamp: str,
        blobs: Callable[[int], Sequence[Blob]] = lambda count: (),
    ) -> Answers | None:
        """Return the records that were not read yet, which belong to the first items of a block.

        :param pid: of the other process.
        :param env: fingerprint of the environment that it runs in.
        :param stamp: what its outcomes are stamped with.
        :param blobs: gives the next ones that it has sent.
        """
        before, count = self._count, self._marks[DONE]
        if count <= before or not call.items:
            return None
        (offset,) = struct.unpack("d", self._exactly(8, 8 * _OFFSET))
        words = array("q", self._exactly(8 * (count - before), _WORDS + 8 * before))
        clock = array("d", self._exactly(8 * (count - before), _CLOCK + 8 * before))
        base = self._place
        stretches = [*self._stretches(words, count)]
        answers = Answers(
            id=call.id,
            first=call.items[0],
            stretches=stretches,
            words=words,
            clock=clock,
            offset=offset,
            data=self._exactly(self._place - base, base),
            base=base,
            others={},
            host=calls.hostname(),
            pid=pid,
            env=env,
            stamp=stamp,
        )
        for index, outcome in _outcomes(answers, blobs):
            position = answers.first + index
            answers.others[position] = replace(outcome, id=call.id, item=position)
        self._count = count
        return answers

    def _stretches(self, words: array[int], count: int) -> Iterator[Stretch]:
        before = self._count
        kinds = self._exactly(count - before, _KINDS + before)
        begins = [found.start() for found in _CHANGED.finditer(kinds)]
        started: dict[int, float] = {}
        if begins:
            size = 8 * (begins[-1] - begins[0] + 1)
            times = array("d", self._exactly(size, _STARTED + 8 * (before + begins[0])))
            started = {begin: times[begin - begins[0]] for begin in begins}
        if 0 not in started:  # it goes on with what was read before
            begins.insert(0, 0)
            (started[0],) = struct.unpack("d", self._exactly(8, _CLOCK + 8 * (before - 1)))
        for begin, end in zip(begins, [*begins[1:], len(words)], strict=True):
            kind = self._kind = kinds[begin] or self._kind
            yield Stretch(kind, begin, end, started[begin], self._place)
            if kind in WITH_DATA:
                self._place = words[end - 1]

    def _exactly(self, size: int, place: int) -> bytes:
        data = os.pread(self._descriptor, size, place)
        while len(data) < size:  # more than the system reads at once
            data += os.pread(self._descriptor, size - len(data), place + len(data))
        return data


def _outcomes(
    answers: Answers, blobs: Callable[[int], Sequence[Blob]]
) -> Iterator[tuple[int, Outcome]]:
    """Yield the outcomes among answers, with what is large in their values."""
    for stretch in answers.stretches:
        if stretch.kind == OUTCOME:
            texts = answers.texts(stretch, stretch.begin, stretch.end)
            for index, text in enumerate(texts, start=stretch.begin):
                outcome, count = pickle.loads(text)
                payload = Large(outcome.payload, blobs(count)) if count else outcome.payload
                yield index, replace(outcome, payload=payload)
