"""CPUs: which ones each call gets, and that its processes stay on them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems.local
from scalems import options
from scalems.workflow import cores
from scalems.workflow.call import Call, encode, result
from scalems.workflow.cores import Cores
from scalems.workflow.needs import Needs
from scalems.workflow.pool import CallPool

LIMIT = 60
OWN = sorted(os.sched_getaffinity(0))


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 8), st.integers(0, 4))
def test_no_cpu_is_given_twice_and_none_is_lost(steps, count, more):
    cpus = range(100, 100 + count + more)
    free, held, last = Cores(count, cpus), [], {}
    for number, step in enumerate(steps):
        if step and step <= free.free:
            taken = free.take(step, last.get(number % 3, ()))
            assert len(taken) == step
            last[number % 3] = taken
            held.append((step, taken))
        elif held:
            free.give(*held.pop(0))
        used = [cpu for _, taken in held for cpu in taken]
        assert len(used) == len(set(used)) == count - free.free
        assert set(used) <= set(cpus)


def test_a_process_gets_the_cpus_again_that_it_had():
    free = Cores(3, [5, 6, 7])
    assert free.take(1) == (5,)
    assert free.take(1, (7,)) == (7,)
    free.give(1, (5,))
    assert free.take(2) == (5, 6)
    unpinned = Cores(3, [5, 6])
    assert unpinned.take(2) == ()
    assert unpinned.free == 1


@pytest.mark.parametrize(
    ("variables", "pin", "pinned"),
    [
        ({}, "auto", False),  # others may use this machine too
        ({}, "always", True),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": str(len(OWN))}, "auto", True),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": str(len(OWN))}, "never", False),
        ({"PBS_JOBID": "1", "NCPUS": str(len(OWN))}, "auto", True),
    ],
)
def test_calls_are_pinned_where_the_cpus_are_the_jobs_own(variables, pin, pinned):
    assert cores.for_calls(pin, 1, variables) == (cores.own() if pinned else [])
    assert cores.for_calls(pin, len(OWN) + 1, variables) == []


@pytest.mark.skipif(len(OWN) < 2, reason="one CPU cannot be shared")
def test_a_job_with_a_part_of_a_node_pins_only_what_it_was_bound_to():
    job = {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "1"}
    assert cores.for_calls("auto", 1, job) == []
    code = f"import os; os.sched_setaffinity(0, [{OWN[1]}]); from scalems.workflow import cores;"
    code += f"print(cores.for_calls('auto', 1, {job}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"[{OWN[1]}]\n"


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_lists_of_cpus_are_read_as_the_kernel_writes_them(found):
    assert cores.numbers(",".join(map(str, found)) + "\n") == found
    spans = [f"{one}-{one + 3}" for one in found]
    assert cores.numbers(",".join(spans)) == [cpu for one in found for cpu in range(one, one + 4)]


@given(st.text(max_size=8))
def test_what_is_no_list_of_cpus_is_told(text):
    try:
        cores.numbers(text)
    except ValueError:
        return


def test_each_call_and_all_that_it_starts_stay_on_its_own_cpus():
    pool = CallPool(len(OWN), cpus=cores.own())
    told: dict[int, tuple[list[int], list[int]]] = {}
    more = threading.Condition()

    def done(outcome):
        with more:
            told[outcome.id] = result(outcome)
            more.notify_all()

    def show(pause):
        time.sleep(pause)
        words = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        child = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return sorted(os.sched_getaffinity(0)), sorted(map(int, child.split()))

    def run(first, count, needs, pause):
        for ident in range(first, first + count):
            call = Call(id=ident, name="show", payload=encode(show, (pause,), {}), needs=needs)
            pool.submit(call, done)
        with more:
            assert more.wait_for(lambda: len(told) == first + count, LIMIT)
        return [told[ident] for ident in range(first, first + count)]

    try:
        side_by_side = run(0, len(OWN), Needs(), 1.0)
        assert sorted(cpu for mask, _ in side_by_side for cpu in mask) == OWN
        wide = run(len(OWN), 1, Needs(cores_per_rank=len(OWN)), 0.0)
        assert wide == [(OWN, OWN)]
        again = run(len(OWN) + 1, 1, Needs(), 0.0)
        for mask, of_child in [*side_by_side, *again]:
            assert len(mask) == 1
            assert of_child == mask
    finally:
        pool.close(kill=True)


def test_the_local_backend_pins_where_it_is_told_to():
    for pin, most in (("always", 1), ("never", len(OWN))):
        with scalems.local.Executor(len(OWN), pin=pin) as executor:
            seen = executor.submit(os.sched_getaffinity, 0).result(LIMIT)
            assert len(seen) == most


def test_ranks_share_the_cpus_of_their_call():
    assert [cpu for part in range(len(OWN)) for cpu in cores.share(part, len(OWN))] == OWN
    assert cores.share(0, len(OWN) + 1) == OWN


def test_wrong_ways_to_pin_are_told():
    with pytest.raises(options.argparse.ArgumentTypeError, match="none of auto, always and never"):
        options.pinning("alway")
