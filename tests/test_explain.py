"""What futures tell of their tasks, limits of memory, and runs that stop at a failure."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
from scalems.errors import UsageError
from scalems.local import Executor
from scalems.workflow.needs import size_of


def test_a_future_explains_itself(tmp_path):
    def run(base="2"):
        with Executor(max_workers=1, store=tmp_path) as executor:
            first = executor.submit(pow, int(base), 3)
            second = executor.submit(pow, first, 2)
            bad = executor.submit(int, "x")
            last = executor.submit(abs, bad)
            last.exception()
            second.result()
            return [future.explain() for future in (first, second, bad, last)], second

    (first, second, bad, last), _ = run()
    assert first.startswith("pow#1: done\n  ran on ")
    assert "was run since it is new: no task 'pow' has finished before" in first
    assert "depends on pow#1" in second
    assert "ValueError" in bad
    assert "abs#4: failed" in last
    assert "depends on int#3, which failed" in last
    (first, *_), future = run()
    assert first.startswith("pow#1: taken from a former run")
    assert future._repr_html_().startswith("<pre>pow#2: taken")
    (first, second, *_), _ = run("3")
    assert "was run since the arguments: *0: (2, 3) became (3, 3)" in first
    assert "was run since what it depends on: pow#1 (3, 3) gave another value" in second


def test_a_future_tells_what_it_waits_for():
    with Executor(max_workers=1) as executor:
        first = executor.submit(pow, 2, 3)
        waits = scalems.submit(abs, [first, first][0])
        assert "depends on pow#1" in waits.explain()


def test_a_task_gets_no_more_memory_than_it_may_have():
    @scalems.task(memory="200 MB")
    def take(size):
        return len(bytearray(size))

    with Executor(max_workers=1):
        assert take(10_000_000).result() == 10_000_000
        with pytest.raises(MemoryError, match="memory=200000000 bytes"):
            take(400_000_000).result()
        assert take.with_options(memory=None)(400_000_000).result() == 400_000_000
    with pytest.raises(UsageError, match="memory is a number of bytes or a size"):
        take.with_options(memory="much")


@given(st.integers(0, 10**6), st.sampled_from(["", "k", "K", "M", "G", "T"]), st.booleans())
def test_sizes_are_read(number, unit, binary):
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    text = f"{number} {unit}{'i' if binary and unit else ''}B"
    assert size_of(text) == number * (1024 if binary and unit else 1000) ** power


@given(st.text())
def test_no_text_breaks_the_reader_of_sizes(text):
    with contextlib.suppress(ValueError):
        assert size_of(text) >= 0
