from __future__ import annotations

import concurrent.futures
import os
import pickle
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

import scalems
import scalems.errors
import scalems.local
from scalems.errors import BackendError, EnvironmentNotReady, TaskLost, UsageError
from scalems.workflow import current
from scalems.workflow.call import CANCELLED, LOST, Failure, Outcome, failed
from scalems.workflow.current import activated
from scalems.workflow.graph import DependencyError, Graph
from scalems.workflow.tally import Counts

LIMIT = 120
MANY = 10_000


@scalems.task
def increment(x):
    return x + 1


@scalems.task
def total(values):
    return sum(values)


@scalems.task
def fail(x=None):
    raise ValueError("the root of it")


@scalems.task
def nap(seconds):
    time.sleep(seconds)


@scalems.task
def touch(path):
    with Path(path).open("a") as file:
        file.write("x")
    return path


@scalems.task
def die(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    sys.exit(4)


class Recorder:
    """A backend that keeps calls until it is told their outcomes."""

    name = "recorder"
    label = "recorder"

    def __init__(self, *, answer=None, start_error=None):
        self.calls = {}
        self.cancelled = []
        self.closed = []
        self.started = threading.Event()
        self._answer = answer
        self._start_error = start_error

    def start(self):
        self.started.set()
        if self._start_error is not None:
            raise self._start_error

    def submit(self, call, done):
        self.calls[call.id] = (call, done)
        if self._answer is not None:
            done(self._answer(call))

    def cancel(self, call_id):
        self.cancelled.append(call_id)
        return True

    def close(self, *, abort=False):
        self.closed.append(abort)

    def status(self):
        return {}

    def tell(self, call_id, outcome):
        call, done = self.calls[call_id]
        done(outcome(call))


def good(call, value=1):
    return Outcome(
        id=call.id, ok=True, payload=pickle.dumps(value), host="h", pid=1, started=0.0, ended=0.0
    )


def bad(call):
    return failed(call, Failure(type="ValueError", message="the root of it"))


def lost(call):
    return failed(call, Failure(type=LOST, message="gone"))


@pytest.fixture
def recorder():
    backend = Recorder()
    running = Graph(backend)
    with activated(running):
        backend.graph = running
        yield backend
    running.close(abort=True)


@pytest.fixture
def at_once(request):
    """A graph whose backend answers within submit: the hardest case for the stack."""
    running = Graph(Recorder(answer=getattr(request, "param", good)))
    with activated(running):
        yield running
    running.close(abort=True)


# --- shapes ---------------------------------------------------------------------------------


def test_chain_fan_and_diamond(graph):
    last = 0
    for _ in range(50):
        last = increment(last)
    assert last.result(LIMIT) == 50
    assert total([increment(i) for i in range(50)]).result(LIMIT) == 1275
    assert total([increment(last), increment(last)]).result(LIMIT) == 102
    graph.wait()
    assert graph.counts() == Counts(done=104)


def test_long_chain_needs_no_deep_stack(at_once):
    first = concurrent.futures.Future()
    last = first
    for _ in range(MANY):
        last = increment(last)
    assert at_once.counts() == Counts(waiting=MANY)
    first.set_result(0)
    assert last.result(LIMIT) == 1
    assert at_once.counts() == Counts(done=MANY)


def test_long_chain_fails_without_a_deep_stack(at_once):
    first = concurrent.futures.Future()
    last = first
    for _ in range(MANY):
        last = increment(last)
    first.set_exception(ValueError("the root of it"))
    with pytest.raises(DependencyError, match="which failed: ValueError: the root of it"):
        last.result(LIMIT)
    assert at_once.counts() == Counts(failed=MANY)


def test_wide_fan_in_and_out(at_once):
    first = concurrent.futures.Future()
    middle = [increment(first) for _ in range(MANY)]
    last = total(middle)
    first.set_result(0)
    assert last.result(LIMIT) == 1
    assert at_once.counts() == Counts(done=MANY + 1)


def test_many_threads_submit(graph):
    results = []

    def work():
        results.append(sum(scalems.gather([increment(i) for i in range(50)])))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1275] * 8
    graph.wait()
    assert graph.counts() == Counts(done=400)


def test_foreign_futures_are_arguments(graph):
    first, second = concurrent.futures.Future(), concurrent.futures.Future()
    future = total([first, increment(second)])
    first.set_result(5)
    second.set_result(6)
    assert future.result(LIMIT) == 12
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert increment(pool.submit(lambda: 1)).result(LIMIT) == 2


def test_submits_only_when_the_arguments_are_there(recorder):
    first = increment(1)
    second = increment(first)
    assert list(recorder.calls) == [1]
    assert (first.running(), second.running()) == (True, False)
    assert "submitted" in repr(first)
    assert "waiting" in repr(second)
    assert recorder.graph.counts() == Counts(waiting=1, submitted=1)
    recorder.tell(1, good)
    assert list(recorder.calls) == [1, 2]
    assert recorder.graph.counts() == Counts(submitted=1, done=1)


# --- failures -------------------------------------------------------------------------------


def test_failed_ancestor_is_named(graph):
    root = fail()
    last = total([increment(total([root])), 1])
    with pytest.raises(DependencyError) as caught:
        last.result(LIMIT)
    assert str(caught.value) == (
        "total#4 was not run: it depends on fail#1, which failed: ValueError: the root of it"
    )
    assert caught.value.__cause__ is root.exception()
    assert "in fail" in str(root.exception().__cause__)


def test_fails_before_the_other_arguments_are_there(recorder):
    slow = increment(0)
    future = total([slow, fail()])
    recorder.tell(2, bad)
    assert isinstance(future.exception(LIMIT), DependencyError)
    assert not slow.done()


@pytest.mark.parametrize(
    ("how", "text"), [("kill", "SIGKILL"), ("exit", "code 3"), ("sys.exit", r"sys\.exit\(4\)")]
)
def test_lost_task_is_one_failed_task(graph, how, text):
    others = [increment(i) for i in range(4)]
    with pytest.raises(scalems.errors.TaskError, match=text):
        die(how).result(LIMIT)
    assert scalems.gather(others) == [1, 2, 3, 4]
    assert increment(1).result(LIMIT) == 2


def test_unheard_failures(recorder):
    heard, unheard, through = fail(1), fail(2), fail(3)
    dependent = increment(through)
    for number in (1, 2, 3):
        recorder.tell(number, bad)
    assert heard.exception() is not None
    assert dependent.exception() is not None
    assert [f.future for f in recorder.graph.failures()] == [heard, unheard, through]
    assert [f.future for f in recorder.graph.unheard()] == [unheard]


# --- cancelling -----------------------------------------------------------------------------


def test_cancel_what_waits(recorder):
    first = increment(1)
    second = increment(first)
    third = increment(second)
    assert second.cancel()
    assert second.cancel()
    assert second.cancelled()
    assert isinstance(third.exception(LIMIT), DependencyError)
    assert "increment#2, which was cancelled" in str(third.exception())
    recorder.tell(1, good)
    assert list(recorder.calls) == [1]
    assert recorder.cancelled == []
    assert concurrent.futures.wait([second], LIMIT).done == {second}
    assert recorder.graph.counts() == Counts(done=1, failed=1, cancelled=1)


def test_cancel_what_was_submitted(recorder):
    future = increment(1)
    assert future.cancel()
    assert recorder.cancelled == [1]
    recorder.tell(1, good)  # it was too late there
    assert future.cancelled()
    assert recorder.graph.counts() == Counts(cancelled=1)
    assert "cancelled" in repr(future)


def test_cancel_what_has_ended(recorder):
    future = increment(1)
    recorder.tell(1, good)
    assert not future.cancel()
    assert future.result() == 1
    assert recorder.graph.counts() == Counts(done=1)


def test_cancel_by_the_backend(recorder):
    future = increment(1)
    recorder.tell(1, lambda call: failed(call, Failure(type=CANCELLED, message="")))
    assert future.cancelled()
    assert recorder.graph.counts() == Counts(cancelled=1)


def test_cancelled_while_it_is_handed_over(recorder):
    first = concurrent.futures.Future()
    future = increment(first)
    submit = recorder.submit

    def late(call, done):
        future.cancel()
        submit(call, done)

    recorder.submit = late
    first.set_result(1)
    # The backend is told again, since it did not know of the call at first.
    assert recorder.cancelled == [1, 1]
    assert recorder.graph.counts() == Counts(cancelled=1)


def test_cancel_really_ends_and_really_prevents(graph, tmp_path):
    path = tmp_path / "file"
    running = [nap(600) for _ in range(2)]
    queued = touch(str(path))
    assert queued.cancel()
    assert [future.cancel() for future in running] == [True, True]
    assert increment(1).result(LIMIT) == 2  # the processes are free again
    graph.wait()
    assert not path.exists()
    assert graph.counts() == Counts(done=1, cancelled=3)


def test_cancel_from_many_threads(recorder):
    futures = [increment(i) for i in range(200)]
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        for future in futures:
            future.cancel()
            if number == 0:
                recorder.tell(future.task_id, good)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.graph.wait()
    counts = recorder.graph.counts()
    assert counts.ended == 200
    assert counts.cancelled == sum(future.cancelled() for future in futures)
    assert concurrent.futures.wait(futures, LIMIT).not_done == set()


# --- the backend ----------------------------------------------------------------------------


def test_backend_starts_with_the_first_task(recorder):
    assert not recorder.started.is_set()
    increment(1)
    assert recorder.started.wait(LIMIT)


@pytest.mark.parametrize("error", [EnvironmentNotReady("changed"), OSError("no such host")])
def test_backend_that_cannot_start_fails_all_tasks(error):
    backend = Recorder(start_error=error)
    running = Graph(backend)
    expected = type(error) if isinstance(error, EnvironmentNotReady) else BackendError
    with activated(running):
        first = concurrent.futures.Future()
        futures = [increment(1), increment(first), increment(2)]
        for future in (futures[0], futures[2]):
            with pytest.raises(expected):
                future.result(LIMIT)
        first.set_result(1)
        assert isinstance(futures[1].exception(LIMIT), expected)
        assert isinstance(increment(3).exception(LIMIT), expected)
    running.wait()
    assert isinstance(running.error, expected)
    assert running.failures() == []  # one error, told once
    running.close()


def test_backend_that_refuses_a_call(recorder):
    def refuse(call, done):
        raise BackendError("closed")

    recorder.submit = refuse
    assert isinstance(increment(1).exception(LIMIT), BackendError)
    assert recorder.graph.counts() == Counts(failed=1)


def test_lost_outcome(recorder):
    future = increment(1)
    recorder.tell(1, lost)
    with pytest.raises(TaskLost, match="gone"):
        future.result()


def test_close_cancels_and_refuses(recorder):
    submitted = increment(1)
    waiting = increment(submitted)
    recorder.graph.close(abort=True)
    assert submitted.cancelled()
    assert waiting.cancelled()
    assert recorder.closed == [True]
    assert recorder.cancelled == []  # closing ends all at once
    with pytest.raises(UsageError, match="after the workflow had ended"):
        increment(1)


def test_wait_waits_for_tasks_of_callbacks(graph):
    futures = []
    increment(1).add_done_callback(lambda done: futures.append(increment(done)))
    graph.wait()
    assert [future.result(0) for future in futures] == [3]


def test_current_is_set_and_restored(recorder):
    assert current.graph("x") is recorder.graph
    other = Graph(Recorder())
    with activated(other):
        assert current.graph("x") is other
    assert current.graph("x") is recorder.graph


def test_a_task_that_waits_takes_less_than_a_kilobyte():
    count = 2000
    with scalems.local.Executor(max_workers=1) as executor:
        first = executor.submit(nap, LIMIT)
        given = list(range(1000, 1000 + count))
        futures = [executor.submit(increment, number) for number in given[:100]]
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            futures += [executor.submit(increment, number) for number in given]
            size = (tracemalloc.get_traced_memory()[0] - before) / count
        finally:
            tracemalloc.stop()
            for future in (first, *futures):
                future.cancel()
    assert size < 1000
