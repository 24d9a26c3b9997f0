"""Many calls of one function that travel as one: a *block*, whose items are run one by one.

Each item has an outcome of its own. Those of usual items, which have given a value and printed
nothing, travel together as :class:`Answers`.

Both sides import this module.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from scalems.workflow import call as calls
from scalems.workflow import file, pickling, stamp
from scalems.workflow.call import Call, Outcome
from scalems.workflow.large import Large
from scalems.workflow.needs import NONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scalems.workflow.children import Unasked
    from scalems.workflow.large import Blob, Payload

MOST = 2000
"""Items in a block at most."""

LARGEST = 1 << 16
"""Bytes that the arguments in a block have together at most, if it has several."""

_HEAD = struct.Struct("<QBdd")  # size of what follows, kind, started, ended
_VALUE, _OUTCOME = 0, 1


@dataclass(frozen=True, slots=True)
class Answers:
    """What items of a block have given that lie beside each other."""

    id: int
    """Of the block."""
    first: int
    """Position of the first of them."""
    values: list[bytes]
    """The pickled value of each; nothing for those in `others`."""
    started: list[float]
    ended: list[float]
    """Seconds since the epoch, by the clock of the host."""
    others: dict[int, Outcome]
    """Outcomes, by position, of those that failed, have printed something, or given files."""
    host: str
    pid: int
    env: str
    stamp: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def value(self, position: int) -> Any:
        """Return the value of an item.

        :raises Exception: what :func:`scalems.workflow.call.result` raises.
        """
        try:
            return pickle.loads(self.values[position - self.first])
        except Exception:
            return calls.result(self.outcome(position))

    def outcome(self, position: int) -> Outcome:
        """Return how an item has ended."""
        if position in self.others:
            return self.others[position]
        index = position - self.first
        return Outcome(
            id=self.id,
            item=position,
            ok=True,
            payload=self.values[index],
            host=self.host,
            pid=self.pid,
            started=self.started[index],
            ended=self.ended[index],
            env=self.env,
            stamp=self.stamp,
        )

    def outcomes(self) -> Iterator[Outcome]:
        """Yield how each of them has ended."""
        return map(self.outcome, range(self.first, self.first + len(self)))


def encoded(
    function: Callable[..., object], items: Sequence[tuple[object, ...]]
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of calls, none of which is too large: how many calls, and their payload.

    :raises SerializationError: naming the argument or the variable that cannot travel.
    """
    pickled, constant = pickling.function_bytes(function, items[0])
    packed: list[object] = []
    size = 0
    for args in items:
        one = pickling.pack(function, args)
        more = _size(one)
        if packed and (size + more > LARGEST or len(packed) == MOST):
            yield len(packed), pickle.dumps((pickled, constant, packed), protocol=5)
            packed, size = [], 0
        packed.append(one)
        size += more
    yield len(packed), pickle.dumps((pickled, constant, packed), protocol=5)


def _size(packed: object) -> int:
    """Return about how many bytes the arguments of an item have."""
    texts: Any = packed if type(packed) is tuple else (packed,)
    return 16 + sum([len(text) for text in texts if type(text) in (bytes, str)])


@lru_cache(maxsize=4)
def _decoded(payload: bytes) -> tuple[bytes, bool, list[Any]]:
    found: tuple[bytes, bool, list[Any]] = pickle.loads(payload)
    return found


def singles(call: Call) -> Iterator[Call]:
    """Yield the items of a block as calls of their own, for who knows no blocks."""
    assert call.items is not None
    assert isinstance(call.payload, bytes)
    pickled, constant, packed = _decoded(call.payload)
    for position in call.items:
        payload = pickle.dumps((pickled, packed[position], {}, constant), protocol=5)
        yield replace(call, payload=payload, items=None, item=position)


class Runner:
    """Runs the items of a block in this process, one at a time, and records what they give.

    :param call: the block.
    :param records: descriptor of the file that the records are appended to: what has ended is
        not lost if this process is.
    """

    def __init__(self, call: Call, records: int) -> None:
        self._call = call
        self._records = records
        self._alone = call.needs is NONE or call.needs == NONE
        self._ended: tuple[bool, Payload, tuple[str, ...], Unasked | None, float, float] | None
        self._ended = None

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """What is large in the value of the last item: to be sent before it is recorded."""
        payload = self._ended[1] if self._ended is not None else b""
        return payload.blobs if type(payload) is Large else ()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Make this process ready for the items, as long as the context is open."""
        with calls.marked(self._call), file.using(self._call.area):
            yield

    def run(self, position: int) -> None:
        """Run an item; nothing is raised, whatever it does short of ending the process."""
        started = time.time()
        if self._alone:
            found = calls.ran(self._call.name, self._item, position)
        else:
            found = calls.ran(self._call.name, self._item_with_needs, position)
        self._ended = (*found, started, time.time())

    def record(self, out: str, err: str) -> None:
        """Record what the last item has given.

        :param out: what it has written to its standard output.
        :param err: what it has written to its standard error.
        """
        assert self._ended is not None
        ok, payload, files, unasked, started, ended = self._ended
        data: bytes
        if type(payload) is bytes and ok and not (files or unasked or out or err):
            kind, data = _VALUE, payload
        else:
            kind, data = _OUTCOME, self._whole(out, err)
        data = _HEAD.pack(len(data), kind, started, ended) + data
        while (written := os.write(self._records, data)) < len(data):
            data = data[written:]

    def _whole(self, out: str, err: str) -> bytes:
        """Return what an item has given that is not just a value, with the number of its blobs."""
        assert self._ended is not None
        ok, payload, files, unasked, started, ended = self._ended
        stream = payload.stream if type(payload) is Large else payload
        return pickle.dumps(
            (
                Outcome(
                    id=self._call.id,
                    ok=ok,
                    payload=stream,
                    stdout=out,
                    stderr=err,
                    host=calls.hostname(),
                    pid=os.getpid(),
                    started=started,
                    ended=ended,
                    env=os.environ.get(calls.ENV_VARIABLE, ""),
                    stamp=stamp.here(),
                    files=files,
                    unasked=unasked,
                ),
                len(self.blobs),
            ),
            protocol=5,
        )

    def _item(self, position: int) -> object:
        pickled, constant, packed = _decoded(self._call.payload)
        function = pickling.shared(pickled) if constant else pickle.loads(pickled)
        args = packed[position]
        return function(*(args if type(args) is tuple else pickle.loads(args)))

    def _item_with_needs(self, position: int) -> object:
        with self._call.needs.applied():
            return self._item(position)


class Records:
    """What a :class:`Runner` in another process has recorded.

    :param descriptor: of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = 0
        self._rest = b""

    def clear(self) -> None:
        """Forget all; the other process must not be amid a block."""
        os.ftruncate(self._descriptor, 0)
        self._place, self._rest = 0, b""

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
        data = self._new()
        if len(data) < _HEAD.size or not call.items:
            return None
        host = calls.hostname()
        answers = Answers(call.id, call.items[0], [], [], [], {}, host, pid, env, stamp)
        values, starts, ends = answers.values, answers.started, answers.ended
        unpack, size, place = _HEAD.unpack_from, _HEAD.size, 0
        limit = len(data) - size
        while place <= limit:  # in few steps: it is done for each item
            length, kind, started, ended = unpack(data, place)
            begin = place + size
            if begin + length > len(data):
                break
            place = begin + length
            if kind == _VALUE:
                values.append(data[begin:place])
            else:
                position = answers.first + len(values)
                outcome, count = pickle.loads(data[begin:place])
                payload = Large(outcome.payload, blobs(count)) if count else outcome.payload
                answers.others[position] = replace(outcome, payload=payload, item=position)
                values.append(b"")
            starts.append(started)
            ends.append(ended)
        self._rest = data[place:]
        return answers if values else None

    def _new(self) -> bytes:
        """Read on; return what was not read before, and the rest of that."""
        size = os.fstat(self._descriptor).st_size
        if size > self._place:
            new = os.pread(self._descriptor, size - self._place, self._place)
            self._place += len(new)
            self._rest = self._rest + new if self._rest else new
        return self._rest
