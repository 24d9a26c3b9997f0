"""Workflows whose shape depends on results."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import CancelledError

import pytest

import scalems
import scalems.local
from scalems.errors import UsageError

LIMIT = 120


@scalems.task
def add(a, b):
    return a + b


@scalems.task
def fails():
    raise ValueError("it has failed")


@scalems.task
def sleeps():
    time.sleep(LIMIT)


@scalems.subgraph
def count_to(start, end):
    value = start if isinstance(start, scalems.Future) else add(start, 0)
    while value.result() < end:
        value = add(value, 1)
    return value


@scalems.subgraph
async def count_async(start, end):
    value = add(start, 0)
    while await value < end:
        value = add(value, 1)
    return {"value": value, "twice": [add(value, value)]}


@pytest.fixture
def one():
    """One worker: whoever waits for another task in it would wait for ever."""
    with scalems.local.Executor(max_workers=1) as executor:
        yield executor


def test_a_subgraph_calls_tasks_as_results_ask_for_it(one):
    assert count_to(0, 3).result(LIMIT) == 3


def test_many_at_once_with_one_worker(one):
    futures = [count_to(0, n) for n in range(20)]
    assert [future.result(LIMIT) for future in futures] == list(range(20))


def test_an_async_one_and_futures_in_its_value(one):
    futures = [count_async(0, n) for n in range(20)]
    values = scalems.gather(futures)
    assert values == [{"value": n, "twice": [2 * n]} for n in range(20)]


def test_its_future_is_an_argument(one):
    assert add(count_to(0, 2), count_to(add(1, 1), 3)).result(LIMIT) == 5


def test_they_may_be_nested(one):
    @scalems.subgraph
    def outer():
        return [count_to(0, n) for n in range(3)]

    assert outer().result(LIMIT) == [0, 1, 2]


def test_a_failure(one):
    @scalems.subgraph
    def direct():
        raise KeyError("own")

    @scalems.subgraph
    def of_a_task():
        return fails().result()

    @scalems.subgraph
    def of_a_value():
        return [fails()]

    with pytest.raises(KeyError, match="own"):
        direct().result(LIMIT)
    for made in (of_a_task, of_a_value):
        with pytest.raises(ValueError, match="it has failed"):
            made().result(LIMIT)


def test_to_cancel_it_cancels_its_tasks(one):
    begun = threading.Event()
    inner = []

    @scalems.subgraph
    def long():
        inner.append(sleeps())
        begun.set()
        inner[0].result()

    @scalems.subgraph
    async def long_async():
        inner.append(sleeps())
        begun.set()
        await inner[-1]

    for made in (long, long_async):
        begun.clear()
        future = made()
        assert begun.wait(LIMIT)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(LIMIT)
        assert inner[-1].cancelled()
    assert add(1, 1).result(LIMIT) == 2


def test_while_loop(one):
    @scalems.task
    def below_ten(value):
        return value < 10

    assert scalems.while_loop(below_ten, lambda value: value + 3, 1).result(LIMIT) == 10
    assert scalems.while_loop(below_ten, abs, 11).result(LIMIT) == 11
    assert scalems.while_loop(below_ten, lambda n: n + 3, add(0, 1), limit=3).result(LIMIT) == 10
    with pytest.raises(scalems.TaskTimeout, match="still holds after 2 times"):
        scalems.while_loop(below_ten, abs, 1, limit=2).result(LIMIT)


def test_poll(one, tmp_path):
    path = tmp_path / "there"

    def look():
        return path.exists() and "found"

    future = scalems.poll(look, interval=0.05)
    time.sleep(0.2)
    path.touch()
    assert future.result(LIMIT) == "found"
    with pytest.raises(scalems.TaskTimeout, match=r"nothing true within 0\.1 s"):
        scalems.poll(bool, interval=0.05, timeout=0.1).result(LIMIT)


def test_wrong_use(one):
    with pytest.raises(UsageError, match="marks functions"):
        scalems.subgraph(3)
    with pytest.raises(TypeError, match="missing a required argument"):
        count_to(1)
    with pytest.raises(UsageError, match="called inside of a task"):
        scalems.submit(lambda: count_to(0, 1)).result(LIMIT)


def test_without_a_workflow():
    with pytest.raises(UsageError, match="no workflow is running"):
        count_to(0, 1)


def test_in_an_async_app(one):
    async def main():
        return await asyncio.gather(*(count_async(0, n) for n in range(3)))

    assert [found["value"] for found in asyncio.run(main())] == [0, 1, 2]
