"""What calls need around them: cores, GPUs, MPI ranks, variables, seeds, priorities."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
import scalems.local
from scalems.errors import TaskError, TaskTimeout, UsageError
from scalems.workflow.call import Call, encode, result
from scalems.workflow.needs import Needs
from scalems.workflow.options import DEFAULT, TaskOptions
from scalems.workflow.pool import CallPool
from scalems.workflow.waiting import Waiting

LIMIT = 120


@scalems.task
def variable(name):
    return os.environ.get(name)


@scalems.task
def at_work(pause=0.3):
    began = time.time()
    time.sleep(pause)
    return began, time.time()


@scalems.task
def numbers():
    return random.random()


@scalems.task
def here(_=0):
    return str(Path.cwd())


@scalems.task
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return "done"


class Pool:
    """A pool whose calls give their outcomes in the order that they end."""

    def __init__(self, size, **kwargs):
        self.pool = CallPool(size, **kwargs)
        self.ended = []
        self.lock = threading.Condition()
        self.count = 0

    def submit(self, needs, function, *args):
        self.count += 1
        payload = encode(function, args, {})
        self.pool.submit(Call(id=self.count, name="f", payload=payload, needs=needs), self.done)

    def done(self, outcome):
        with self.lock:
            self.ended.append(outcome)
            self.lock.notify_all()

    def results(self, count):
        with self.lock:
            assert self.lock.wait_for(lambda: len(self.ended) == count, LIMIT)
            return [(outcome.id, result(outcome)) for outcome in self.ended]


@pytest.fixture
def pool():
    made = []

    def make(*args, **kwargs):
        made.append(Pool(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.pool.close(kill=True)


# --- cores --------------------------------------------------------------------------------


def test_libraries_are_told_how_many_threads_they_may_start(graph, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert variable("OMP_NUM_THREADS").result(LIMIT) == "1"
    two = variable.with_options(cores_per_rank=2)
    assert two("OMP_NUM_THREADS").result(LIMIT) == "2"
    assert two("MKL_NUM_THREADS").result(LIMIT) == "2"
    assert variable("OMP_NUM_THREADS").result(LIMIT) == "1"
    done = scalems.executable(["sh", "-c", "echo $OMP_NUM_THREADS"], cores_per_rank=2)
    assert done.result(LIMIT).stdout == "2\n"


def test_what_the_user_has_set_holds(graph, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert variable("OMP_NUM_THREADS").result(LIMIT) == "7"
    assert variable.with_options(cores_per_rank=2)("OMP_NUM_THREADS").result(LIMIT) == "2"


def test_a_call_that_needs_all_cores_runs_alone(graph):
    wide = at_work.with_options(cores_per_rank=2)
    futures = [task() for task in (at_work, wide, at_work, wide, at_work)]
    times = [future.result(LIMIT) for future in futures]
    for index in (1, 3):
        began, ended = times[index]
        others = [time for position, time in enumerate(times) if position != index]
        assert all(other[1] <= began or other[0] >= ended for other in others)


def test_more_cores_than_there_are(graph):
    with pytest.raises(UsageError, match="needs 6 cores, and a worker has 2 cores here"):
        at_work.with_options(resources={"cores": 3, "threads_per_core": 2})().result(LIMIT)


# --- GPUs ---------------------------------------------------------------------------------


def test_each_call_has_gpus_of_its_own(pool):
    calls = pool(2, gpus=["3", "5"])

    def show():
        time.sleep(0.2)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    for _ in range(4):
        calls.submit(Needs(gpus_per_rank=1), show)
    calls.submit(Needs(gpus_per_rank=2), show)
    seen = dict(calls.results(5))
    assert {seen[1], seen[2]} == {"3", "5"}
    assert {seen[3], seen[4]} == {"3", "5"}
    assert seen[5] == "3,5"
    calls.submit(Needs(gpus_per_rank=3), show)
    with pytest.raises(UsageError, match="needs 3 GPUs, and a worker has 2 cores and 2 GPUs"):
        calls.results(6)


# --- variables, seeds, labels, priorities ----------------------------------------------------


def test_variables_hold_for_one_call(graph):
    here = variable.with_options(env={"SCALEMS_TEST": "there"})
    assert here("SCALEMS_TEST").result(LIMIT) == "there"
    assert variable("SCALEMS_TEST").result(LIMIT) is None


def test_a_seed_makes_numbers_come_again(graph):
    seeded = numbers.with_options(seed=7)
    first, second, other = seeded(), seeded(), numbers.with_options(seed=8)()
    assert first.result(LIMIT) == second.result(LIMIT) != other.result(LIMIT)


def test_a_working_folder_is_made_and_left_again(graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = here.with_options(cwd="runs/1")
    assert inside().result(LIMIT) == inside.function() + "/runs/1"
    assert [f.result(LIMIT) for f in scalems.map(inside, [0, 1])] == [f"{tmp_path}/runs/1"] * 2
    assert here().result(LIMIT) != inside().result(LIMIT)
    (tmp_path / "file").touch()
    with pytest.raises(TaskError, match=r"cannot work in cwd='.*/file/x' on .*Not a directory"):
        here.with_options(cwd=tmp_path / "file/x")().result(LIMIT)


def test_cpu_time_is_limited(graph):
    future = burn.with_options(cpu_time=1)(LIMIT)
    with pytest.raises(TaskTimeout, match="used up its cpu_time=1 seconds"):
        future.result(LIMIT)
    assert burn(0).result(LIMIT) == "done"  # whose process may have taken more by now


def test_a_label_is_the_name(graph):
    future = numbers.with_options(label="member 3")()
    assert future.name == "member 3"
    assert scalems.executable(["true"], label="minimise").name == "minimise"


def test_the_highest_priority_is_first(pool):
    calls = pool(1)
    calls.submit(Needs(priority=9), time.sleep, 0.3)
    for priority in (0, 0, 2, 1, 2):
        calls.submit(Needs(priority=priority), abs, 1)
    assert [ident for ident, _ in calls.results(6)] == [1, 4, 6, 5, 2, 3]


@given(st.lists(st.tuples(st.sampled_from(["add", "first", "take", "remove"]), st.integers(0, 3))))
def test_what_waits_is_in_order(steps):
    waiting: Waiting[None] = Waiting()
    model: list[tuple[int, int]] = []  # priority, id
    for ident, (step, number) in enumerate(steps):
        call = Call(id=ident, name="f", payload=b"", needs=Needs(priority=number))
        ordered = sorted(model, key=lambda entry: -entry[0])
        if step in ("add", "first"):
            waiting.add(call, None, first=step == "first")
            model.insert(0 if step == "first" else len(model), (number, ident))
        elif step == "take" and model:
            assert waiting.first()[0].id == ordered[0][1]
            assert waiting.take()[0].id == ordered[0][1]
            model.remove(ordered[0])
        elif step == "remove" and model:
            entry = model.pop(number % len(model))
            removed = waiting.remove(entry[1])
            assert removed is not None
            assert removed[0].id == entry[1]
            assert waiting.remove(entry[1]) is None
        assert len(waiting) == len(model)
        assert bool(waiting) == bool(model)
        ids = [call.id for call, _ in waiting]
        assert ids == [entry[1] for entry in sorted(model, key=lambda entry: -entry[0])]


# --- options ------------------------------------------------------------------------------


def test_other_names_of_resources():
    options = DEFAULT.replaced(resources={"cores": 2, "threads_per_core": 3, "gpus_per_core": 1})
    assert (options.ranks, options.cores_per_rank, options.gpus_per_rank) == (2, 3, 1)
    assert options.needs.cores == 6
    assert options.needs.gpus == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 0}, "ranks is a whole number of at least 1"),
        ({"cores_per_rank": True}, "cores_per_rank is a whole number"),
        ({"seed": "x"}, "seed is a whole number"),
        ({"priority": 1.5}, "priority is a whole number"),
        ({"env": {"A": 1}}, "the variable 'A' has a text as its value"),
        ({"env": "A=1"}, "env is a dict"),
        ({"label": 3}, "label is a text"),
        ({"cwd": 3}, "cwd is the path of a folder"),
        ({"cwd": ""}, "cwd is the path of a folder"),
        ({"cpu_time": 0}, "cpu_time is a number of seconds above 0"),
        ({"resources": {"rank": 2}}, "did you mean 'ranks'"),
        ({"resources": 2}, "resources is a dict"),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(UsageError, match=message):
        scalems.task(**changes)(numbers.function)


def test_what_matters_for_a_value():
    assert TaskOptions().matters == {}
    options = TaskOptions(ranks=2, cores_per_rank=4, seed=1, priority=3, timeout=1, cwd="runs/1")
    assert options.matters == {"ranks": 2, "seed": 1, "cwd": "runs/1"}


def test_a_view_of_an_executor(tmp_path):
    with scalems.local.Executor(max_workers=2) as executor:
        view = executor.with_options(env={"SCALEMS_TEST": "there"}, label="mine")
        future = view.submit(os.getenv, "SCALEMS_TEST")
        assert future.result(LIMIT) == "there"
        assert future.name == "mine"
        assert list(view.map(os.getenv, ["SCALEMS_TEST"])) == ["there"]
        assert executor.submit(os.getenv, "SCALEMS_TEST").result(LIMIT) is None
        # No keyword of the user's function is taken.
        assert view.submit(dict, env=1, label=2).result(LIMIT) == {"env": 1, "label": 2}
        view.shutdown()
        assert executor.submit(abs, -1).result(LIMIT) == 1


# --- MPI ----------------------------------------------------------------------------------


@scalems.task(ranks=2)
def sum_of_ranks(base):
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(base + MPI.COMM_WORLD.rank), MPI.COMM_WORLD.size


@scalems.task(ranks=2)
def fails_on_the_second():
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 1:
        raise ValueError("the second rank has failed")
    MPI.COMM_WORLD.barrier()


@scalems.task(ranks=2)
def exits():
    os._exit(3)


@pytest.mark.mpi
def test_a_function_on_two_ranks(graph):
    assert sum_of_ranks(10).result(LIMIT) == (21, 2)
    assert sum_of_ranks(scalems.submit(abs, -1)).result(LIMIT) == (3, 2)


@pytest.mark.mpi
def test_a_rank_that_fails(graph):
    with pytest.raises(ValueError, match="the second rank has failed"):
        fails_on_the_second().result(LIMIT)
    with pytest.raises(scalems.TaskLost, match="not all of 2 ranks have ended well"):
        exits().result(LIMIT)


@pytest.mark.mpi
def test_a_program_on_two_ranks(graph):
    done = scalems.executable(["sh", "-c", "echo rank"], ranks=2).result(LIMIT)
    assert done.stdout == "rank\nrank\n"


@pytest.mark.mpi
def test_ranks_that_do_not_see_each_other(graph, monkeypatch, tmp_path):
    # Starts each rank by itself, as an mpiexec does that is of another MPI than mpi4py.
    other = tmp_path / "other-mpiexec"
    other.write_text('#!/bin/sh\nshift 2\nPMI_RANK=0 "$@" & PMI_RANK=1 "$@"; wait\n')
    other.chmod(0o755)
    monkeypatch.setenv("SCALEMS_MPIEXEC", str(other))
    with pytest.raises(scalems.TaskError, match="started 2 ranks, and mpi4py sees 1"):
        sum_of_ranks(1).result(LIMIT)


def test_no_mpiexec(graph, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no mpiexec on the worker"):
        sum_of_ranks(1).result(LIMIT)
