from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import math
import operator
import pickle
import threading
import time

import pytest

import scalems
from scalems.errors import SerializationError, TaskError, UsageError

LIMIT = 120


@scalems.task
def double(x):
    return 2 * x


@scalems.task
def fail(text="broken"):
    raise ValueError(text)


@scalems.task
def stop():
    raise StopIteration(1)


@scalems.task
def nap(seconds):
    time.sleep(seconds)


class OnlyThere:
    """Can be sent, and not rebuilt where there is no far side."""

    def __init__(self, size):
        self.size = size

    def __reduce__(self):
        return rebuild, (self.size,)


def rebuild(size):
    from scalems.workflow import call

    if call.running() is None:
        raise ImportError("only the worker has this")
    return OnlyThere(size)


@scalems.task
def only_there():
    return OnlyThere(7)


@scalems.task
def size(thing):
    return thing.size


def test_result_is_the_value(graph):
    future = double(21)
    assert future.result(LIMIT) == 42
    assert future.done()
    assert future.exception() is None
    assert (future.name, future.task_id) == ("double", 1)
    assert repr(future) == "<Future double#1 done>"


def test_result_is_the_same_object_each_time(graph):
    future = double([1])
    assert future.result(LIMIT) is future.result(LIMIT)


def test_exception_comes_back_as_itself_with_the_remote_traceback(graph):
    future = fail("no such atom")
    with pytest.raises(ValueError, match="no such atom") as caught:
        future.result(LIMIT)
    assert "in fail" in str(caught.value.__cause__)
    assert future.exception() is caught.value
    assert "failed" in repr(future)


def test_value_goes_from_task_to_task_without_the_client(graph):
    there = only_there()
    assert size(there).result(LIMIT) == 7
    with pytest.raises(TaskError, match="only the worker has this"):
        there.result()
    assert isinstance(there.exception(), TaskError)


@pytest.mark.parametrize(
    "use",
    [
        bool,
        int,
        float,
        len,
        iter,
        list,
        sum,
        abs,
        round,
        operator.neg,
        operator.index,
        lambda f: f + 1,
        lambda f: 1 + f,
        lambda f: f * 2,
        lambda f: 2**f,
        lambda f: f < 3,
        lambda f: f >= 3,
        lambda f: 1 in f,
        lambda f: f(),
        lambda f: f"{f:.2f}",
        lambda f: f"run-{f}.txt",
        lambda f: f == 3,
        lambda f: f != "done",
        lambda f: f in [1, 2],
        lambda f: "n=" + f,
        lambda f: [1, 2][f],
        lambda f: [1, 2][:f],
        lambda f: range(f),
        lambda f: min(f, 1),
        math.sqrt,
        lambda f: f.__setitem__(0, 1),
        lambda f: sum([f, f]),
        lambda f: "yes" if f else "no",
    ],
)
def test_use_as_a_value_says_what_to_do(use):
    future = scalems.Future(task_id=1, name="double")
    with pytest.raises(TypeError, match=r"Future of 'double'.*\.result\(\)"):
        use(future)


def test_what_libraries_ask_of_anything_is_not_there():
    future = scalems.Future(task_id=1, name="double")
    assert not hasattr(future, "_repr_png_")
    with pytest.raises(TypeError, match=r"\.result\(\)"):
        future.reslt()


def test_is_hashable_and_equal_only_to_itself():
    first, second = (scalems.Future(task_id=1, name="double") for _ in range(2))
    assert first != second
    assert len({first, second, first}) == 2
    assert copy.deepcopy([first])[0] is first
    assert copy.copy(first) is first


def test_is_not_sent_but_as_an_argument(graph):
    future = double(1)
    with pytest.raises(TypeError, match="pass it to the task"):
        pickle.dumps(future)
    with pytest.raises(SerializationError, match=r"Future of 'double'.*pass it to the task"):
        double(lambda: future)


def test_standard_waiting(graph):
    futures = [double(1), fail(), double(2)]
    assert scalems.wait(futures, timeout=LIMIT).not_done == set()
    done, pending = concurrent.futures.wait(futures, timeout=LIMIT)
    assert done == set(futures)
    assert not pending
    assert set(concurrent.futures.as_completed(futures)) == set(futures)
    # The standard library asks for the truth of failed futures here.
    done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert futures[1] in done


def test_timeout(graph):
    with pytest.raises(concurrent.futures.TimeoutError):
        nap(600).result(timeout=0.01)


def test_callback_gets_the_value(graph):
    seen = []
    called = threading.Event()
    double(4).add_done_callback(lambda future: (seen.append(future.result()), called.set()))
    assert called.wait(LIMIT)
    assert seen == [8]


def test_await(graph):
    async def main():
        first = double(1)
        both = await asyncio.gather(first, double(first))
        errors = await asyncio.gather(fail(), stop(), return_exceptions=True)
        return await first, both, errors

    first, both, errors = asyncio.run(asyncio.wait_for(main(), LIMIT))
    assert (first, both) == (2, [2, 4])
    assert isinstance(errors[0], ValueError)
    # An event loop cannot carry a StopIteration: it would wait for ever.
    assert isinstance(errors[1], RuntimeError)
    assert isinstance(errors[1].__cause__, StopIteration)


def test_timeout_of_await_cancels(graph):
    async def main():
        future = nap(600)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.05)
        return future

    assert asyncio.run(main()).cancelled()


class TestGather:
    def test_order_is_kept(self, graph):
        assert scalems.gather([double(i) for i in range(20)]) == list(range(0, 40, 2))

    def test_takes_any_iterable_and_repetition(self, graph):
        future = double(1)
        assert scalems.gather(f for f in (future, future)) == [2, 2]
        assert scalems.gather([]) == []

    def test_first_failure_ends_the_waiting(self, graph):
        long = nap(600)
        with pytest.raises(ValueError, match="first"):
            scalems.gather([long, fail("first")])
        assert not long.done()

    def test_cancelled(self, graph):
        future = nap(600)
        future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            scalems.gather([double(1), future])

    def test_refuses_values(self, graph):
        with pytest.raises(UsageError, match=r"item 1 is a list"):
            scalems.gather([double(1), [2]])
