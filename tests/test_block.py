"""Calls of one function that are made together, and travel together."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
from scalems.errors import SerializationError, TaskLost, TaskTimeout
from scalems.local import Executor
from scalems.local.backend import LocalBackend
from scalems.workflow import block
from scalems.workflow.call import Call, execute, result
from scalems.workflow.current import activated
from scalems.workflow.graph import Graph
from scalems.workflow.waiting import Waiting

LIMIT = 60  # seconds: for things that must happen


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = Graph(LocalBackend(workers=2))
    with activated(graph):
        yield graph
    graph.close(abort=True)


def square(x):
    return x * x


def test_each_item_has_its_own_value_number_and_place(graph):
    futures = scalems.map(square, range(5000))
    assert scalems.gather(futures) == [x * x for x in range(5000)]
    assert len({future.task_id for future in futures}) == 5000
    assert graph.counts().done == graph.counts().total == 5000
    assert futures[4000].host
    assert futures[4000].stdout() == ""
    assert {future.task_id for future in scalems.as_completed(futures)} == {
        future.task_id for future in futures
    }


def test_an_item_fails_or_prints_alone(graph):
    def odd(x):
        if x % 100 == 7:
            raise ValueError(f"no {x}")
        if x % 100 == 8:
            print("this is", x)
        return [x]

    futures = scalems.map(odd, range(1000))
    found = scalems.gather(futures, errors="return")
    assert [str(value) for value in found[7::100]] == [f"no {x}" for x in range(7, 1000, 100)]
    assert found[8] == [8]
    assert futures[108].stdout() == "this is 108\n"
    assert futures[109].stdout() == ""
    assert (graph.counts().done, graph.counts().failed) == (990, 10)
    assert len(graph.unheard()) == 0


def test_items_do_not_share_what_can_change(graph):
    shared = [0]

    def add(values, x):
        values.append(x)
        return values

    found = scalems.gather(scalems.map(add, [shared] * 50, range(50)))
    assert found == [[0, x] for x in range(50)]


def test_globals_are_fresh_for_each_item(graph):
    space = {"seen": []}
    exec("def note(x):\n    seen.append(x)\n    return seen", space)
    space["note"].__module__ = "__main__"
    assert scalems.gather(scalems.map(space["note"], range(20))) == [[x] for x in range(20)]


def test_an_item_is_not_held_behind_a_long_one(graph, tmp_path):
    gate = tmp_path / "gate"

    def wait(x):
        while x == 500 and not gate.exists():
            time.sleep(0.01)
        return x

    scalems.gather(scalems.map(wait, range(100)))  # it is known to be short
    futures = scalems.map(wait, range(1000))
    others = futures[:500] + futures[501:]
    assert scalems.gather(others) == [*range(500), *range(501, 1000)]
    assert not futures[500].done()
    gate.touch()
    assert futures[500].result(LIMIT) == 500


def test_a_crash_is_one_failed_item_and_none_runs_twice(graph, tmp_path):
    def note(x):
        with (tmp_path / "ran").open("a") as file:
            file.write(f"{x}\n")
        if x in (300, 700):
            os.kill(os.getpid(), 9)
        return x

    futures = scalems.map(note, range(1000))
    found = scalems.gather(futures, errors="return")
    assert [x for x in range(1000) if isinstance(found[x], TaskLost)] == [300, 700]
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(1000))


def test_an_item_can_be_cancelled_before_and_while_it_runs(graph, tmp_path):
    gate = tmp_path / "gate"

    def wait(x):
        (tmp_path / f"began{x}").touch()
        while x < 2 and not gate.exists():
            time.sleep(0.01)
        return x

    futures = scalems.map(wait, range(200))
    limit = time.monotonic() + LIMIT
    while not (tmp_path / "began1").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert futures[100].cancel()
    assert futures[0].cancel()
    with pytest.raises(CancelledError):
        futures[0].result()
    gate.touch()
    rest = [x for x in range(200) if x not in (0, 100)]
    assert scalems.gather([futures[x] for x in rest]) == rest
    graph.wait()
    assert not (tmp_path / "began100").exists()
    assert (graph.counts().done, graph.counts().cancelled) == (198, 2)


def test_the_timeout_is_that_of_an_item(graph):
    @scalems.task(timeout=1)
    def sleep(x):
        time.sleep(x)
        return x

    found = scalems.gather(scalems.map(sleep, [0, 0, 50, 0, 0]), errors="return")
    assert [type(value) for value in found] == [int, int, TaskTimeout, int, int]


def test_an_item_is_tried_again_by_itself(graph, tmp_path):
    @scalems.task(retries=1)
    def once(x):
        mark = tmp_path / f"mark{x}"
        if x == 5 and not mark.exists():
            mark.touch()
            raise OSError("not now")
        return x

    assert scalems.gather(scalems.map(once, range(20))) == list(range(20))


def test_futures_may_be_among_the_arguments(graph):
    one = scalems.submit(square, 3)
    assert scalems.gather(scalems.map(square, [1, 2, one, 4])) == [1, 4, 81, 16]


def test_what_cannot_travel_is_named(graph):
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="argument 'x' \\(lock\\)"):
        scalems.map(square, [1, lock, 3])
    with pytest.raises(TypeError, match="positional argument"):
        scalems.map(scalems.task(square), [1], [2])


def test_results_of_items_are_kept_each_by_itself(tmp_path):
    def run(count, function=square):
        with Executor(max_workers=2, store=tmp_path / "store") as executor:
            values = list(executor.map(function, range(count)))
            return values, executor._graph.counts()

    assert run(50)[0] == [x * x for x in range(50)]
    values, counts = run(60)
    assert values == [x * x for x in range(60)]
    assert (counts.done, counts.reused) == (60, 50)


def test_an_executor_maps_with_options_and_gives_up_early(tmp_path):
    with Executor(max_workers=2) as executor:
        view = executor.with_options(env={"MAPPED": "yes"})
        assert list(view.map(os.getenv, ["MAPPED"] * 3)) == ["yes"] * 3
        values = executor.map(time.sleep, [0, 600, 600])
        assert next(values) is None
        values.close()


def test_a_block_can_be_run_as_calls_of_their_own():
    ((count, payload),) = block.encoded(square, [(2,), (3,)])
    call = Call(id=7, name="square", payload=payload, items=range(count))
    outcomes = [execute(one) for one in block.singles(call)]
    assert [(one.id, one.item, result(one)) for one in outcomes] == [(7, 0, 4), (7, 1, 9)]


def test_nothing_is_shared_by_calls_of_their_own():
    space = {"seen": []}
    exec("def note(x):\n    seen.append(x)\n    return seen", space)
    space["note"].__module__ = "__main__"
    ((count, payload),) = block.encoded(space["note"], [([1],), ([2],)])
    call = Call(id=7, name="note", payload=payload, items=range(count))
    assert [result(execute(one)) for one in block.singles(call)] == [[[1]], [[2]]]


def test_large_arguments_make_small_blocks():
    sizes = [count for count, _ in block.encoded(len, [(bytes(400_000),)] * 5)]
    assert sizes == [2, 2, 1]


@given(st.lists(st.one_of(st.integers(1, 40), st.tuples(st.integers(0, 5), st.integers(0, 40)))))
def test_a_queue_of_blocks_gives_each_item_once(steps):
    """Whatever is taken, taken back and removed: no item is lost, none comes twice."""
    queue: Waiting[str] = Waiting()
    for ident in range(3):
        queue.add(Call(id=ident, name="f", payload=b"", items=range(20)), "done")
    queue.add(Call(id=9, name="g", payload=b""), "done")
    seen: list[tuple[int, int]] = []
    for step in steps:
        before = len(queue)
        if isinstance(step, tuple):
            entry = queue.remove(step[0], step[1])
        elif before:
            entry = queue.take(step)
        else:
            entry = None
        if entry is None:
            continue
        call = entry[0]
        items = call.items if call.items is not None else [0]
        assert len(queue) == before - len(items)
        if len(items) > 2 and call.items is not None:  # the last ones are taken back
            queue.add(
                Call(id=call.id, name="f", payload=b"", items=call.items[2:]), "d", first=True
            )
            items = items[:2]
        seen += [(call.id, item) for item in items]
    while len(queue):
        call = queue.take()[0]
        seen += [(call.id, item) for item in (call.items if call.items is not None else [0])]
    assert sorted(seen) == [*((ident, item) for ident in range(3) for item in range(20)), (9, 0)]
