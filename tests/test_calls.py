"""What a workflow can say: options of tasks, many calls at once, parts of values, executors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import time
from pathlib import Path

import pytest

import scalems
import scalems.local
from scalems.errors import UsageError


@scalems.task
def add(x: int, y: int) -> int:
    return x + y


@scalems.task
def table() -> dict[str, object]:
    return {"a": [1, 2], "path": Path("/x/y.txt")}


@scalems.task
def fail(text: str) -> None:
    raise ValueError(text)


@scalems.task
def say(text: str) -> str:
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    return text


def flaky(counter: str, good: int) -> int:
    with Path(counter).open("a") as file:
        file.write("x")
    attempt = Path(counter).stat().st_size
    if attempt < good:
        raise OSError(f"attempt {attempt}")
    return attempt


def test_a_task_is_tried_again(graph, tmp_path):
    task = scalems.task(retries=2)(flaky)
    assert task(str(tmp_path / "a"), 3).result() == 3
    future = task(str(tmp_path / "b"), 4)
    with pytest.raises(OSError, match="attempt 3"):
        future.result()
    assert (tmp_path / "b").stat().st_size == 3


def test_a_call_that_takes_too_long_is_ended_with_all_that_it_started(graph, tmp_path):
    def hang(mark: str) -> None:
        import subprocess
        from pathlib import Path

        child = subprocess.Popen(["sleep", "1000"])
        Path(mark).write_text(str(child.pid))
        child.wait()

    future = scalems.task(timeout=1)(hang)(str(tmp_path / "mark"))
    with pytest.raises(scalems.TaskTimeout, match="after 1 s"):
        future.result()
    pid = int((tmp_path / "mark").read_text())
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text():
            break
        time.sleep(0.01)
    else:
        pytest.fail("the child is still there")
    assert add(1, 2).result() == 3  # the pool goes on


def test_options_of_a_view_leave_the_task_as_it_is(graph):
    other = add.with_options(timeout=60, retries=1)
    assert other(1, 2).result() == 3
    assert (add.options.timeout, other.options.timeout, other.options.retries) == (None, 60, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries is a whole number"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
        ({"timeout": "1 h"}, "timeout is a number"),
        ({"cache": 1}, "cache is True or False"),
        ({"retires": 1}, "did you mean 'retries'"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(UsageError, match=message):
        add.with_options(**options)


def test_many_calls_at_once(graph):
    def double(x):
        return 2 * x

    assert scalems.submit(double, 4).result() == 8
    assert scalems.gather(scalems.map(double, range(4))) == [0, 2, 4, 6]
    assert scalems.gather(scalems.map(add, [1, 2, 3], [10, 20])) == [11, 22]
    assert scalems.gather(scalems.starmap(add, [(1, 2), (3, 4)])) == [3, 7]
    for count in (2, 3, 7, 8):
        words = scalems.map(str, range(count))
        assert scalems.reduce(lambda x, y: x + y, words).result() == "0123456789"[:count]
    with pytest.raises(UsageError, match="two items"):
        scalems.reduce(add, [1])
    with pytest.raises(UsageError, match="nothing to map"):
        scalems.map(add)


def test_gather_with_failures(graph):
    futures = [add(1, 1), fail("no"), add(2, 2)]
    assert scalems.gather(futures, errors="skip") == [2, 4]
    one, error, other = scalems.gather(futures, errors="return")
    assert (one, other) == (2, 4)
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="no"):
        scalems.gather(futures)
    with pytest.raises(UsageError, match="errors="):
        scalems.gather(futures, errors="ignore")


def test_waiting(graph):
    futures = scalems.map(add, range(5), range(5))
    assert sorted(future.result() for future in scalems.as_completed(futures)) == [0, 2, 4, 6, 8]
    done, others = scalems.wait(futures)
    assert (len(done), len(others)) == (5, 0)
    with pytest.raises(UsageError, match="item 0 is a int"):
        scalems.wait([1])


def test_parts_of_a_value(graph):
    future = table()
    assert future["a"][1].result() == 2
    assert future["path"].name.endswith("['path']")
    assert future["path"].suffix.result() == ".txt"
    assert add(future["a"][0], future["a"][1]).result() == 3
    assert scalems.gather([future["a"]]) == [[1, 2]]
    with pytest.raises(KeyError):
        future["nosuch"].result()
    with pytest.raises(KeyError):
        add(future["nosuch"], 1).result()
    with pytest.raises(ValueError, match="no"):
        fail("no")["x"].result()
    with pytest.raises(TypeError, match=r"not its value"):
        int(future["a"])


def test_a_future_tells_how_it_was_computed(graph):
    future = say("x")
    assert future.stdout() == "out\n"
    assert future.stderr() == "err\n"
    assert future.host
    assert future["0"].host == future.host


def test_an_executor_is_one_of_the_standard_library():
    with scalems.local.Executor(max_workers=2) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        first = executor.submit(pow, 2, 5)
        assert executor.submit(pow, first, 2).result() == 1024
        assert list(executor.map(abs, [-1, -2, 3])) == [1, 2, 3]
        assert add(1, 2).result() == 3
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    with pytest.raises(UsageError, match="no workflow is running"):
        add(1, 2)


def test_an_executor_in_asyncio():
    async def main():
        async with scalems.local.Executor(2) as executor:
            return await asyncio.gather(*(executor.submit(abs, -i) for i in range(3)))

    assert asyncio.run(main()) == [0, 1, 2]


def test_an_executor_keeps_results_where_it_is_told_to(tmp_path):
    for attempt in (1, 2):
        with scalems.local.Executor(2, store=tmp_path / "kept") as executor:
            assert executor.submit(flaky, str(tmp_path / "count"), 1).result() == 1, attempt
    assert (tmp_path / "count").stat().st_size == 1


def test_an_executor_that_is_shut_down_leaves_no_process(tmp_path):
    executor = scalems.local.Executor(2)
    future = executor.submit(time.sleep, 1000)
    executor.shutdown(wait=False)
    assert future.cancelled()


def test_a_wrong_option_of_an_executor_is_told():
    with pytest.raises(UsageError, match="at least 1"):
        scalems.local.Executor(max_workers=0)
