"""Items of a block as a call process runs and records them, and as its pool reads them."""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
from scalems.errors import TaskError
from scalems.local import Executor
from scalems.workflow import block
from scalems.workflow.call import Call, failure_in, result
from scalems.workflow.current import activated
from scalems.workflow.records import DONE, Recorder, Records
from scalems.workflow.rows import Rows
from scalems.workflow.runner import Runner

LIMIT = 60  # seconds: for things that must happen


class Quiet:
    """Stands around items that write nothing."""

    def __init__(self, blobs):
        self.touched = []
        self.blobs = blobs

    def look(self, took):
        return False

    def renew(self):
        return "", ""

    def tell(self):
        pass

    def send(self, blobs):
        self.blobs += blobs


class Both:
    """The memory that both sides have, and a block to be run."""

    def __init__(self, function, items):
        self.descriptor = os.memfd_create("test")
        self.records, self.recorder = Records(self.descriptor), Recorder(self.descriptor)
        self.blobs = []
        ((count, payload),) = block.encoded(function, items)
        self.call = Call(id=7, name="f", payload=payload, items=range(count))

    def send(self, items):
        self.records.begin(len(items))
        call = Call(id=7, name="f", payload=self.call.payload, items=items)
        return call, Runner(call, self.recorder, Quiet(self.blobs))

    def read(self, call):
        return self.records.read(call, pid=5, env="e", stamp="", blobs=self.take)

    def take(self, count):
        taken, self.blobs[:count] = self.blobs[:count], []
        return taken


class Strange(float):
    """A number of a type of its own."""

    def __reduce__(self):
        return Strange, (float(self),)


LARGE = "large text", "large bytes"
VALUES = st.one_of(
    st.sampled_from([True, False, None, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, "\ud800", ""]),
    st.sampled_from([math.inf, -0.0, "ä", "é" * 10, b"", *LARGE]),
    *(st.integers(), st.text(), st.binary(), st.lists(st.integers())),
    *(st.floats(allow_nan=False), st.complex_numbers(allow_nan=False)),
    *(st.builds(Strange, st.floats(allow_nan=False)), st.builds(ValueError, st.text())),
)


def given_by(value):
    if isinstance(value, ValueError):
        raise value
    if value in LARGE:
        return bytes(300_000) if value == "large bytes" else "x" * 300_000
    return value


@given(st.lists(st.lists(VALUES, min_size=1, max_size=12), min_size=1, max_size=3), st.data())
def test_whatever_items_give_is_read_as_it_was(blocks, data):
    """Of several blocks in the same memory, read in pieces, and each item by itself."""
    values = [value for some in blocks for value in some]
    both = Both(given_by, [(value,) for value in values])
    start = 0
    with os.fdopen(both.descriptor, "rb"):
        for some in blocks:
            call, runner = both.send(range(start, start + len(some)))
            runner.run()
            seen = []
            for count in sorted({*data.draw(st.sets(st.integers(1, len(some)))), len(some)}):
                both.recorder.marks[DONE] = count  # as if the others had not ended
                piece = both.read(replace(call, items=call.items[len(seen) :]))
                seen += piece.outcomes()
                plain = [one for one in piece.outcomes() if one.item not in piece.others]
                assert [piece.value(one.item) for one in plain] == [result(one) for one in plain]
                if not piece.others:
                    whole = piece.values(range(piece.first, piece.first + len(piece)))
                    assert whole == [result(one) for one in plain]
            assert [one.item for one in seen] == [*call.items]
            for outcome, value in zip(seen, some, strict=True):
                assert 0 < outcome.started <= outcome.ended
                if isinstance(value, ValueError):
                    assert failure_in(outcome).message == str(value)
                else:
                    assert result(outcome) == given_by(value)
                    assert type(result(outcome)) is type(given_by(value))
            start += len(some)


def held(folder, number, at):
    """Wait at one number until there is a file, and note each that has run."""
    (folder / str(number)).touch()
    limit = time.monotonic() + LIMIT
    while number == at and not (folder / "go").exists():
        assert time.monotonic() < limit
        time.sleep(0.001)
    return number


@pytest.mark.parametrize("at", [0, 1, 6, 9])
def test_what_is_taken_back_from_behind_a_long_item_does_not_run(tmp_path, at):
    both = Both(held, [(tmp_path, number, at) for number in range(10)])
    with os.fdopen(both.descriptor, "rb"):
        call, runner = both.send(range(10))
        thread = threading.Thread(target=runner.run)
        thread.start()
        limit = time.monotonic() + LIMIT
        while not (tmp_path / str(at)).exists():
            assert time.monotonic() < limit
            time.sleep(0.001)
        assert both.records.take_back() == 9 - at
        assert both.records.take_back() == 0
        (tmp_path / "go").touch()
        thread.join(LIMIT)
        piece = both.read(call)
        assert [*map(result, piece.outcomes())] == [*range(at + 1)]
        assert both.read(call) is None
    assert {path.name for path in tmp_path.iterdir()} == {"go", *map(str, range(at + 1))}


def test_all_of_a_block_can_be_taken_back_before_it_begins(tmp_path):
    both = Both(held, [(tmp_path, number, -1) for number in range(3)])
    with os.fdopen(both.descriptor, "rb"):
        call, runner = both.send(range(3))
        assert both.records.take_back() == 3
        runner.run()
        assert both.read(call) is None
    assert not [*tmp_path.iterdir()]


def test_items_that_are_taken_back_at_any_moment_run_once(tmp_path):
    """Between two processes: whatever a moment it is, either runs an item, and not both."""
    with Executor(max_workers=2) as executor:
        list(executor.map(abs, range(100)))
        pool = executor._graph.backend._pool
        for _ in range(5):
            futures = executor.map(lambda number: (number, os.getpid()), range(20_000))
            for _ in range(20):
                with pool._lock:
                    for slot in pool._slots:
                        pool._take_back(slot)
                time.sleep(0.0001)
            assert [number for number, _ in futures] == [*range(20_000)]


WRITES = {
    "print": lambda: print("it"),
    "without a line's end": lambda: print("it", end=""),
    "bytes": lambda: sys.stdout.buffer.write(b"it\n"),
    "descriptor": lambda: os.write(1, b"it\n"),
    "another stream": lambda: setattr(sys, "stdout", os.fdopen(os.dup(1), "w")) or print("it"),
    "closed": lambda: print("it") or sys.stdout.close(),
    "deep": lambda: setattr(sys, "stdout", None) or os.write(1, b"it"),
}


@pytest.mark.parametrize("how", WRITES)
def test_what_a_tiny_item_writes_is_its_own(how):
    write = WRITES[how]

    def sometimes(number):
        if number % 97 == 5:
            write()
        return number

    with Executor(max_workers=1) as executor, activated(executor._graph):
        futures = scalems.map(sometimes, range(1000))
        assert scalems.gather(futures) == [*range(1000)]
        assert {one.result() for one in futures if one.stdout()} == {*range(5, 1000, 97)}
        assert {one.stdout().rstrip() for one in futures} == {"", "it"}


def test_an_interrupt_ends_the_item_that_runs_and_no_other():
    def interrupted(number):
        if number == 500:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(LIMIT)
        return number

    with Executor(max_workers=1) as executor, activated(executor._graph):
        futures = scalems.map(interrupted, range(1000))
        found = scalems.gather(futures, errors="return")
        assert [str(one) for one in found if not isinstance(one, int)] == ["KeyboardInterrupt: "]
        assert isinstance(found[500], TaskError)


def test_rows_are_as_zip_makes_them():
    assert [*Rows.zipped([range(3), "abcd", iter([1.0, 2.0, 3.0])])] == [
        *zip(range(3), "abcd", [1.0, 2.0, 3.0], strict=False)
    ]
    assert [*Rows.zipped([range(3), "ab"])[1:]] == [(1, "b")]
    assert Rows.zipped([range(3), [5, 6, 7]])[2] == (2, 7)
    assert len(Rows.zipped([itertools.count(), []])) == 0
    assert Rows.of([(1,), (2, 3)]) is None
    assert Rows.of([(), ()]) is None
    assert Rows.zipped([[1, "a"], [2.0, None]]).kinds == {int, str, float, type(None)}


@given(st.lists(st.tuples(st.text(max_size=5), st.integers()), min_size=1), st.data())
def test_a_cut_of_a_block_holds_what_it_is_of(items, data):
    ((count, payload),) = block.encoded(len, items)
    call = Call(id=1, name="len", payload=payload, items=range(count))
    for _ in range(2):
        start = data.draw(st.integers(call.items.start, call.items.stop - 1))
        stop = data.draw(st.integers(start + 1, call.items.stop))
        call = block.cut(call, range(start, stop))
    content = block.decoded(call.payload)
    assert [content.arguments(position) for position in call.items] == items[start:stop]
    assert len(content.columns[0]) == len(call.items)
