"""Runs the items of a block in a call process, one after the other, at little cost for each.

What is done after each call for its own sake - what it has written, what it has left changed, is
there somebody who waits - takes longer than a tiny call. So it is looked at only where something
can have happened: Python's streams tell when they are written to, and a call that took less time
than it takes to write a byte to a file has written nothing in another way.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from scalems.workflow import answers, stamp
from scalems.workflow import call as calls
from scalems.workflow.block import Content, decoded
from scalems.workflow.call import Outcome
from scalems.workflow.large import LARGE, Large
from scalems.workflow.needs import NONE
from scalems.workflow.pickling import shared
from scalems.workflow.records import DONE, LIMIT, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from scalems.workflow.call import Call, Ran
    from scalems.workflow.large import Blob
    from scalems.workflow.records import Recorder

_SAFETY = 0.8  # of the time that a write takes: what is shorter has written nothing
_ROUND = 512  # items after which all is looked at in any case

_KINDS = {
    int: answers.INT,
    float: answers.FLOAT,
    bool: answers.BOOL,
    type(None): answers.NONE,
    str: answers.TEXT,
    bytes: answers.PICKLE,
    tuple: answers.OUTCOME,
}
"""Kinds of records: of numbers and their like by their types, of what is pickled by two others."""


class Around(Protocol):
    """What the process does around calls."""

    touched: list[bool]
    """Holds something if a stream of Python's was written to."""

    def look(self, took: float) -> bool:
        """Tell if the last call has to be looked after, see :meth:`renew`.

        :param took: seconds that the call took.
        """
        ...

    def renew(self) -> tuple[str, str]:
        """Return what the last call has written; make the process as good as new."""
        ...

    def tell(self) -> None:
        """Tell the pool, now and then, that something was recorded."""
        ...

    def send(self, blobs: Sequence[Blob]) -> None:
        """Send what is large in the value of an item, before that is recorded."""
        ...


class Runner:
    """Runs the items of a block in this process, one at a time, and records what they give.

    :param call: the block.
    :param recorder: nothing of a block before is needed in it.
    """

    def __init__(self, call: Call, recorder: Recorder, around: Around) -> None:
        self._call = call
        self._items = call.items or range(0)
        self._recorder = recorder
        self._around = around
        self._content: Content | None = None
        self._function: Callable[..., object] | None = None  # if the items can share it

    def run(self) -> None:
        """Run items until there are none, or none that the pool has not taken back.

        Nothing is raised, whatever they do short of ending the process.
        """
        # All that is needed for each item is a local, and what it gives is recorded in line.
        recorder, moment = self._recorder, time.perf_counter
        touched, look = self._around.touched, self._around.look
        memory, words = recorder.memory, recorder.words
        marks, clock = recorder.marks, recorder.clock
        slots: memoryview[Any] | None = words
        stdout, stderr, kind, place = sys.stdout, sys.stderr, None, 0
        if not recorder.begin(len(self._items)):
            return
        function, rows = self._prepared()
        for size, quick in self._rounds():
            for args in itertools.islice(rows, size):
                running = True  # see `interruptible`
                began = moment()
                try:
                    value = function(*args)
                    now = moment()
                    new = type(value)
                    if new is not int and new is not float:
                        value, new = self._packed(value)
                    odd = sys.stdout is not stdout or sys.stderr is not stderr
                except BaseException as error:
                    now = moment()
                    value, new, odd = calls.broken(error), tuple, True
                running = False  # noqa: F841 - the same
                if odd or touched or (now - began > quick and look(now - began)):
                    self._finish(place, value, new, began, now)
                    stdout, stderr, kind = sys.stdout, sys.stderr, None
                else:
                    if new is not kind:
                        slots, kind = self._begin(place, new, began), new
                    if slots is None:
                        begin = recorder.end
                        end = begin + len(value)
                        if end > SIZE:
                            recorder.add(place, value)
                        else:
                            memory[begin:end] = value
                            words[place] = recorder.end = end
                    else:
                        try:
                            slots[place] = value
                        except (ValueError, OverflowError):  # a number of more than a word
                            self._record(place, value, new, began)
                            kind = None
                    clock[place] = now
                place += 1
                marks[DONE] = place
                if marks[LIMIT] <= place and not recorder.ended(place):
                    return

    def _rounds(self) -> Iterator[tuple[int, float]]:
        """Yield how many items to run, and below what time nothing is looked at after one.

        It is after the first one, the last one, and some between.
        """
        left, size = len(self._items), 1
        quick = _SAFETY * self._recorder.write_time()
        while left > 0:
            yield size - 1, quick
            yield 1, -1.0
            left -= size
            size = min(left, _ROUND)

    def _prepared(self) -> tuple[Callable[..., Any], Iterator[tuple[Any, ...]]]:
        """Return what is to be called, and with which arguments."""
        call, items = self._call, self._items
        assert isinstance(call.payload, bytes)
        alone = call.needs is NONE or call.needs == NONE
        try:
            content = self._content = decoded(call.payload)
            if content.constant:
                self._function = shared(content.function)
        except BaseException:  # items say why
            self._content = None
        else:
            if self._function is not None and content.columns and alone:
                columns = content.cut(items).columns
                return self._function, zip(*columns, strict=True)
        return self._item if alone else self._item_with_needs, zip(items, strict=True)

    def _item(self, position: int) -> object:
        content, function = self._content, self._function
        if content is None:
            assert isinstance(self._call.payload, bytes)
            content = self._content = decoded(self._call.payload)
        if function is None:
            function = pickle.loads(content.function)
            self._function = function if content.constant else None
        args = content.arguments(position)
        assert function is not None
        return function(*(args if type(args) is tuple else pickle.loads(args)))

    def _item_with_needs(self, position: int) -> object:
        with self._call.needs.applied():
            return self._item(position)

    # --- what an item has given -----------------------------------------------------------

    def _packed(self, value: object) -> tuple[Any, type]:
        """Return what is recorded of a value that is no number, and the kind of that."""
        kind = type(value)
        if kind is str and len(value) < LARGE:  # type: ignore[arg-type]
            try:
                return value.encode(), str  # type: ignore[attr-defined]
            except UnicodeEncodeError:  # it has a surrogate alone
                return pickle.dumps(value, protocol=5), bytes
        if value is None:
            return 0, type(None)
        if kind is bool:
            return value, bool
        found = calls.packed(self._call.name, value)
        _, payload, files, unasked = found
        if type(payload) is not bytes or files or unasked is not None:
            self._around.touched.append(True)  # it is for `_finish`
            return found, tuple
        return payload, bytes

    def _begin(self, place: int, kind: type, began: float) -> memoryview[Any] | None:
        """Begin records of another kind; return what they are put into, if that is no data."""
        recorder, code = self._recorder, _KINDS[kind]
        recorder.kinds[place] = code
        recorder.started[place] = began
        if code in answers.WITH_DATA:
            return None
        return recorder.numbers if kind is float else recorder.words

    def _record(self, place: int, value: Any, kind: type, began: float) -> None:
        """Record a single item, but for its end."""
        slots = self._begin(place, kind, began)
        if slots is None:
            self._recorder.add(place, value)
            return
        try:
            slots[place] = value
        except (ValueError, OverflowError):  # a number of more than a word
            self._record(place, pickle.dumps(value, protocol=5), bytes, began)

    def _finish(self, place: int, value: Any, kind: type, began: float, now: float) -> None:
        """Look at what an item has left, record it, and tell."""
        recorder = self._recorder
        out, err = self._around.renew()
        if out or err or kind is tuple:
            if kind is not tuple:
                value = (True, _pickled(value, kind), (), None)
            value, kind = self._whole(value, out, err, began, now), tuple
        self._record(place, value, kind, began)
        recorder.clock[place] = now
        recorder.marks[DONE] = place + 1
        self._around.tell()

    def _whole(self, found: Ran, out: str, err: str, began: float, now: float) -> bytes:
        """Return what an item has given that is not just a value, with the number of its blobs."""
        ok, payload, files, unasked = found
        stream: object = payload
        blobs: tuple[Blob, ...] = ()
        if isinstance(payload, Large):
            stream, blobs = payload.stream, payload.blobs
            self._around.send(blobs)
        offset = time.time() - time.perf_counter()
        outcome = Outcome(
            id=self._call.id,
            ok=ok,
            payload=stream,  # type: ignore[arg-type]
            stdout=out,
            stderr=err,
            host=calls.hostname(),
            pid=os.getpid(),
            started=offset + began,
            ended=offset + now,
            env=os.environ.get(calls.ENV_VARIABLE, ""),
            stamp=stamp.here(),
            files=files,
            unasked=unasked,
        )
        return pickle.dumps((outcome, len(blobs)), protocol=5)


def _pickled(value: Any, kind: type) -> bytes:
    """Return the pickle of a value that is recorded so."""
    if kind is bytes:
        found: bytes = value
        return found
    if kind is str:
        value = value.decode()
    return pickle.dumps(None if kind is type(None) else value, protocol=5)


_RUN = Runner.run.__code__


def interruptible(frame: FrameType | None) -> bool:
    """Return whether what runs in a frame may be interrupted: all but what is between two items."""
    while frame is not None:
        if frame.f_code is _RUN:
            return bool(frame.f_locals.get("running"))
        frame = frame.f_back
    return True
