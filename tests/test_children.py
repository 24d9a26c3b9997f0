"""Tasks that submit tasks."""

from __future__ import annotations

import os
import time

import pytest

import scalems
from scalems.local import Executor
from scalems.local.backend import LocalBackend
from scalems.local.inline import InlineBackend
from scalems.workflow.current import activated
from scalems.workflow.graph import Graph


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory):
    graph = Graph(LocalBackend(workers=1))
    with activated(graph):
        yield graph
    graph.close(abort=True)


def fibonacci(n):
    """Tasks that wait for nothing: what they return is put together by others."""

    def add(x, y):
        return x + y

    if n < 2:
        return n
    return scalems.submit(add, scalems.submit(fibonacci, n - 1), scalems.submit(fibonacci, n - 2))


def test_tasks_submit_tasks_with_one_worker(one_worker):
    assert scalems.submit(fibonacci, 7).result() == 13
    assert one_worker.counts().submitted == one_worker.counts().waiting == 0


def test_the_inline_backend_does_the_same():
    graph = Graph(InlineBackend())
    with activated(graph):
        assert scalems.submit(fibonacci, 4).result() == 3
    graph.close()


def test_a_loop_by_tail_calls_is_not_deep(one_worker):
    def count(n, total):
        return scalems.submit(count, n - 1, total + n) if n else total

    assert scalems.submit(count, 200, 0).result() == 200 * 201 // 2


def test_futures_are_filled_into_what_a_task_returns(one_worker):
    def pid():
        return os.getpid()

    def parent():
        print("parent")
        asked = scalems.submit(pow, 2, 3)
        assert asked.result() == 8
        assert scalems.gather(scalems.map(abs, [-1, -2])) == [1, 2]
        assert {future.result() for future in scalems.as_completed([asked])} == {8}
        assert len(scalems.wait([scalems.submit(abs, -1)])[0]) == 1
        squares = scalems.map(pow, range(3), [2] * 3)
        return {
            "asked": asked.result(),
            "squares": squares,
            "same": [squares[2], squares[2], asked],
        }

    future = scalems.submit(parent)
    assert future.result() == {"asked": 8, "squares": [0, 1, 4], "same": [4, 4, 8]}
    assert future.stdout() == "parent\n"
    assert scalems.submit(pid).result() == scalems.submit(lambda: scalems.submit(pid)).result()


def test_children_have_options_of_their_own_and_may_come_from_a_map(one_worker):
    @scalems.task(env={"CHILD": "yes"}, label="named")
    def child(x):
        return os.environ["CHILD"], x

    def parent(x):
        return [scalems.submit(child, x)]

    assert scalems.gather(scalems.map(parent, range(3))) == [[("yes", x)] for x in range(3)]


def test_a_failure_of_a_child_is_that_of_its_parent(one_worker):
    def bad():
        raise ValueError("no")

    def caught():
        try:
            return scalems.submit(bad).result()
        except ValueError as error:
            return str(error)

    assert scalems.submit(caught).result() == "no"
    with pytest.raises(ValueError, match="no"):
        scalems.submit(lambda: [scalems.submit(bad)]).result()
    with pytest.raises(TypeError, match="positional argument"):
        scalems.submit(lambda: scalems.submit(scalems.task(bad), 1).result()).result()
    one_worker.wait()
    assert one_worker.unheard() == []  # who asked for the parent has heard of the child
    unheard = scalems.submit(lambda: [scalems.submit(bad)])
    one_worker.wait()
    assert [failed.future.name for failed in one_worker.unheard()] == [bad.__qualname__]
    assert unheard.exception()
    assert one_worker.unheard() == []


def test_to_cancel_a_task_cancels_those_that_it_waits_for(one_worker):
    future = scalems.submit(lambda: scalems.submit(time.sleep, 600))
    while one_worker.counts().total == one_worker.counts().ended + 1:
        time.sleep(0.01)
    assert future.cancel()
    one_worker.wait()


def test_what_children_gave_is_kept_with_the_parent(tmp_path):
    def run():
        with Executor(max_workers=1, store=tmp_path / "store") as executor:
            value = executor.submit(fibonacci, 3).result()
            return value, executor._graph.counts().reused

    assert [run(), run()] == [(2, 0), (2, 1)]
