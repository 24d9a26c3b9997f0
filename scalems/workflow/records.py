"""What the items of a block give, as a call process records it: in memory that outlives it.

The memory is shared with the pool, so a record costs no system call, and what has ended is not
lost if the process is. It holds the number of records, then an entry of fixed size for each, then
their data; what has no room there follows in the same file.

Both sides import this module.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scalems.workflow import call as calls
from scalems.workflow import file, pickling, stamp
from scalems.workflow.block import MOST, Answers, decoded
from scalems.workflow.call import Outcome
from scalems.workflow.large import Large
from scalems.workflow.needs import NONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scalems.workflow.call import Call
    from scalems.workflow.children import Unasked
    from scalems.workflow.large import Blob, Payload

_COUNT = struct.Struct("<Q")
_ENTRY = struct.Struct("<QQdd")  # where its data end, kind, started, ended
_DATA = _COUNT.size + MOST * _ENTRY.size
_SIZE = _DATA + (1 << 20)
_VALUE, _OUTCOME = 0, 1


class Recorder:
    """Makes records, in the process that runs the items.

    :param descriptor: of the file that :class:`Records` has made.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._count, self._end = 0, _DATA

    def begin(self) -> None:
        """Begin with the first record."""
        self._count, self._end = 0, _DATA

    def add(self, kind: int, started: float, ended: float, data: bytes) -> None:
        """Add a record."""
        begin, end = self._end, self._end + len(data)
        if end <= _SIZE:
            self._memory[begin:end] = data
        else:
            while data:
                written = os.pwrite(self._descriptor, data, end - len(data))
                data = data[written:]
        place = _COUNT.size + self._count * _ENTRY.size
        _ENTRY.pack_into(self._memory, place, end, kind, started, ended)
        self._count, self._end = self._count + 1, end
        _COUNT.pack_into(self._memory, 0, self._count)  # last: now it is there


class Runner:
    """Runs the items of a block in this process, one at a time, and records what they give.

    :param call: the block.
    :param recorder: nothing of a block before is needed in it.
    """

    def __init__(self, call: Call, recorder: Recorder) -> None:
        self._call = call
        self._name = call.name
        self._recorder = recorder
        alone = call.needs is NONE or call.needs == NONE
        self._do = self._item if alone else self._item_with_needs
        self._block: tuple[bytes, bool, list[Any]] | None = None
        self._function: Callable[..., object] | None = None  # if the items can share it
        self._found: tuple[bool, Payload, tuple[str, ...], Unasked | None] = (False, b"", (), None)
        self._started = self.ended = time.time()
        """When the last item has ended, by the clock."""
        recorder.begin()

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """What is large in the value of the last item: to be sent before it is recorded."""
        payload = self._found[1]
        return payload.blobs if type(payload) is Large else ()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Make this process ready for the items, as long as the context is open."""
        with calls.marked(self._call), file.using(self._call.area):
            yield

    def run(self, position: int) -> None:
        """Run an item; nothing is raised, whatever it does short of ending the process."""
        self._started = time.time()
        self._found = calls.ran(self._name, self._do, position)
        self.ended = time.time()

    def record(self, out: str, err: str) -> None:
        """Record what the last item has given.

        :param out: what it has written to its standard output.
        :param err: what it has written to its standard error.
        """
        ok, payload, files, unasked = self._found
        if ok and type(payload) is bytes and not (out or err or files or unasked):
            self._recorder.add(_VALUE, self._started, self.ended, payload)
        else:
            self._recorder.add(_OUTCOME, self._started, self.ended, self._whole(out, err))

    def _whole(self, out: str, err: str) -> bytes:
        """Return what an item has given that is not just a value, with the number of its blobs."""
        ok, payload, files, unasked = self._found
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
                    started=self._started,
                    ended=self.ended,
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
        if self._block is None:
            assert isinstance(self._call.payload, bytes)
            self._block = decoded(self._call.payload)
        pickled, constant, packed = self._block
        function = self._function
        if function is None:
            function = pickling.shared(pickled) if constant else pickle.loads(pickled)
            self._function = function if constant else None
        args = packed[position]
        return function(*(args if type(args) is tuple else pickle.loads(args)))

    def _item_with_needs(self, position: int) -> object:
        with self._call.needs.applied():
            return self._item(position)


class Records:
    """What a :class:`Recorder` in another process has recorded.

    :param descriptor: of a file in memory, which both have.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.ftruncate(descriptor, _SIZE)
        self._count, self._place = 0, _DATA

    def clear(self) -> None:
        """Forget all; the other process must not be amid a block."""
        os.pwrite(self._descriptor, bytes(_COUNT.size), 0)
        if self._place > _SIZE:
            os.ftruncate(self._descriptor, _SIZE)
        self._count, self._place = 0, _DATA

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
        (count,) = _COUNT.unpack(self._exactly(_COUNT.size, 0))
        if count == self._count or not call.items:
            return None
        size, first = _ENTRY.size, _COUNT.size + self._count * _ENTRY.size
        entries = self._exactly((count - self._count) * size, first)
        ends, kinds, started, ended = zip(*_ENTRY.iter_unpack(entries), strict=True)
        base = self._place
        data = self._exactly(ends[-1] - base, base)
        begins = (base, *ends[:-1])
        values = [data[a - base : b - base] for a, b in zip(begins, ends, strict=True)]
        others = {}
        if any(kinds):
            for index, kind in enumerate(kinds):
                if kind == _OUTCOME:
                    position = call.items[0] + index
                    outcome, number = pickle.loads(values[index])
                    payload = Large(outcome.payload, blobs(number)) if number else outcome.payload
                    others[position] = replace(outcome, payload=payload, item=position)
                    values[index] = b""
        self._count, self._place = count, ends[-1]
        host = calls.hostname()
        return Answers(
            call.id, call.items[0], values, started, ended, others, host, pid, env, stamp
        )

    def _exactly(self, size: int, place: int) -> bytes:
        data = os.pread(self._descriptor, size, place)
        while len(data) < size:  # more than the system reads at once
            data += os.pread(self._descriptor, size - len(data), place + len(data))
        return data
