"""Several pilots at a time: which calls go where, and what becomes of those of a lost one."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from homes import LABEL
from test_parts import Workers

from scalems.errors import BackendError, TaskLost, UsageError
from scalems.radical import asked
from scalems.radical.fleet import Fleet
from scalems.radical.parts import SHOWN, Gathering
from scalems.workflow.call import Call, Outcome, result
from scalems.workflow.needs import Needs

# --- what a command line asks for -----------------------------------------------------------


def given(*resources, pilots=None, **more):
    plain = {"cores": None, "nodes": None, "runtime": 60, "queue": None, "project": None}
    return argparse.Namespace(
        resource=list(resources), pilots=pilots, pilot_option=["gpus=1"], **{**plain, **more}
    )


def test_each_resource_has_a_pilot_with_options_of_its_own():
    found = asked.pilots(given("lab.slurm:queue=short,nodes=2,memory=5", "lab.slurm", queue="main"))
    first, second = found.values()
    assert list(found) == ["1 (lab.slurm:queue=short,nodes=2,memory=5)", "2 (lab.slurm)"]
    assert (first.resource, first.queue, first.nodes, first.runtime) == (
        "lab.slurm",
        "short",
        2,
        60,
    )
    assert first.pilot_option == ["gpus=1", "memory=5"]
    assert (second.resource, second.queue, second.nodes) == ("lab.slurm", "main", None)
    assert second.pilot_option == ["gpus=1"]


def test_pilots_are_on_the_resources_in_turn():
    assert list(asked.pilots(given("a.b"))) == ["a.b"]
    found = asked.pilots(given("a.b", "c.d", pilots=3))
    assert [one.resource for one in found.values()] == ["a.b", "c.d", "a.b"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (given("a.b:queue"), "'queue' is not KEY=VALUE"),
        (given("a.b:nodes=none"), "wrong nodes 'none'"),
        (given("a.b:runtime=1:30"), "wrong runtime '1:30'"),
        (given("a.b", "c.d", pilots=1), "less than one for each"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, text):
    with pytest.raises(UsageError, match=text):
        asked.pilots(options)


# --- where calls go -------------------------------------------------------------------------


class Pilot:
    """Takes calls as a backend of one pilot does; a test decides what becomes of them."""

    heir = None

    def __init__(self):
        self.calls = {}
        self.begin = threading.Event()
        self.wrong = None

    def start(self):
        assert self.begin.wait(10)
        if self.wrong is not None:
            raise self.wrong

    def ready(self, slots=1):
        self.heir.ready(slots)

    def put(self, call, done):
        self.calls[call.id] = (call, done)
        return True

    def run(self, ident):
        _, done = self.calls.pop(ident)
        done(Outcome(id=ident, ok=True, payload=b"", host="", pid=1, started=0.0, ended=100.0))

    def lose(self, *begun, final=True):
        entries = [(call, done, call.id in begun) for call, done in self.calls.values()]
        self.calls = {}
        self.heir.lost(BackendError("It is gone."), entries, final=final)

    def abandon(self, ident):
        """Lose a call with its Worker."""
        self.heir.abandoned([(*self.calls.pop(ident), True)], "It is gone.")

    def part(self, workers):
        """Run calls until there is a part of several; return it, and whom it tells."""
        while True:
            for call, done in list(self.calls.values()):
                if call.items is not None:
                    return call, done
                del self.calls[call.id]
                done(workers.outcome(call, "alone"))

    def take_back(self, most):
        entries = [(*self.calls.pop(ident), False) for ident in list(self.calls)[-most:]]
        self.heir.returned(entries)

    def cancel(self, ident):
        pass

    def close(self, *, abort=False):
        self.begin.set()

    def status(self):
        return {"workers": "1"}


class Case:
    def __init__(self, count=2):
        self.pilots = [Pilot() for _ in range(count)]
        self.notes = []
        titles = {str(number): pilot for number, pilot in enumerate(self.pilots)}
        self.fleet = Fleet(titles, notify=self.notes.append, label="")
        self.told = {}
        self.heard = threading.Condition()

    def submit(self, *idents, **needs):
        for ident in idents:
            call = Call(id=ident, name=f"call-{ident}", payload=b"", needs=Needs(**needs))
            self.fleet.submit(call, self.hear)

    def hear(self, outcome):
        with self.heard:
            self.told[outcome.id] = outcome
            self.heard.notify_all()

    def result(self, ident):
        with self.heard:
            assert self.heard.wait_for(lambda: ident in self.told, 30)
        return result(self.told[ident])

    def have(self):
        return [sorted(pilot.calls) for pilot in self.pilots]


@pytest.fixture
def case():
    one = Case()
    yield one
    one.fleet.close()


def test_calls_go_to_the_pilot_that_is_active_first(case):
    case.submit(1, 2, 3)
    assert case.have() == [[], []]
    case.pilots[1].ready(slots=2)
    assert case.have() == [[], [1, 2]]
    case.pilots[0].ready()
    assert case.have() == [[3], [1, 2]]
    case.submit(4)
    case.pilots[1].run(1)
    assert case.have() == [[3], [2, 4]]
    assert case.told[1].ok


def test_what_a_lost_pilot_had_goes_to_the_others(case):
    for pilot in case.pilots:
        pilot.ready()
    case.submit(1, 2, 3)
    assert case.have() == [[1], [2]]
    case.pilots[0].lose(1)
    assert not case.told
    case.pilots[1].run(2)
    assert case.have() == [[], [1]]
    case.pilots[1].run(1)
    assert case.have() == [[], [3]]
    assert "1 calls go to other pilots" in case.notes[-1]
    assert case.fleet.status()["0"] == "ended (It is gone.), 0 calls, 1 moved"


def test_what_must_not_run_twice_fails_if_it_may_have_begun(case):
    for pilot in case.pilots:
        pilot.ready()
    case.submit(1, 2, once=True)
    case.pilots[0].lose(1)
    with pytest.raises(TaskLost, match="cache=False"):
        case.result(1)
    case.pilots[1].lose()  # 2 had not begun
    with pytest.raises(BackendError, match="It is gone"):
        case.result(2)


def test_a_pilot_with_a_successor_gets_calls_again(case):
    case.pilots[0].ready()
    case.submit(1)
    case.pilots[0].lose(1, final=False)
    assert case.have() == [[], []]
    case.pilots[0].ready()
    assert case.have() == [[1], []]


def test_a_large_call_waits_for_a_pilot_that_may_be_large_enough(case):
    case.pilots[0].ready(slots=2)
    case.submit(1, cores_per_rank=4)
    case.submit(2)
    assert case.have() == [[2], []]
    case.pilots[1].ready(slots=4)
    assert case.have() == [[2], [1]]
    case.submit(3, cores_per_rank=8)  # fits nowhere: a pilot says so
    assert 3 in case.pilots[0].calls or 3 in case.pilots[1].calls


def test_a_run_fails_when_no_pilot_can_start(case):
    case.submit(1)
    for pilot in case.pilots:
        pilot.wrong = BackendError("It cannot start.")
        pilot.begin.set()
    with pytest.raises(BackendError, match="It cannot start"):
        case.fleet.start()
    with pytest.raises(BackendError, match="It cannot start"):
        case.result(1)


def test_a_call_that_waits_is_cancelled(case):
    case.submit(1)
    assert case.fleet.cancel(1)
    assert not case.fleet.cancel(1)
    assert not case.told[1].ok


def test_calls_of_a_busy_pilot_go_to_an_idle_one(case):
    case.pilots[0].begin.set()
    case.pilots[0].ready()
    case.fleet.start()
    case.submit(1)
    _, done = case.pilots[0].calls.pop(1)
    done(Outcome(id=1, ok=True, payload=b"", host="", pid=1, started=0.0, ended=0.01))
    case.submit(2, 3, 4)  # short ones, it seems
    assert case.have()[0] == [2, 3, 4]
    case.pilots[1].ready()
    taken = threading.Event()
    former, case.pilots[1].put = case.pilots[1].put, lambda *one: taken.set() or former(*one)
    assert taken.wait(30)
    assert case.have()[0] == [2]


def tell(workers, call, done, *items):
    """Tell what some items of a part have given, and that it goes on."""
    gathering = Gathering(call, done)
    for item in items:
        gathering.add(replace(workers.outcome(call, "early"), item=item))
    gathering.ahead(time.monotonic() + 2 * SHOWN, done)


@pytest.mark.parametrize("how", ["Worker", "pilot"])
def test_of_a_lost_part_only_what_was_not_told_runs_again(case, how):
    workers = Workers(takes=0.0001)
    case.fleet.submit(workers.block(1, 100), workers.note)
    case.pilots[0].ready()
    call, done = case.pilots[0].part(workers)
    tell(workers, call, done, *call.items[:3])
    if how == "Worker":
        case.pilots[0].abandon(call.id)
        pilot = case.pilots[0]
    else:
        case.pilots[1].ready()
        case.pilots[0].lose(call.id)
        pilot = case.pilots[1]
    (again,) = [one for one, _ in pilot.calls.values() if one.items and one.id != call.id]
    assert again.items == call.items[3:]
    workers.calls = [pilot.calls.pop(again.id)]
    workers.run()
    while len(workers.told) < 100:
        workers.calls = [pilot.calls.pop(ident) for ident in list(pilot.calls)]
        workers.run()


def test_an_item_of_a_part_is_cancelled_while_it_waits_and_when_it_comes_back(case):
    workers = Workers(takes=0.0001)
    case.fleet.submit(workers.block(1, 100), workers.note)
    case.pilots[0].ready()
    cancelled = []
    case.pilots[0].cancel_item = lambda *which: cancelled.append(which) or True
    call, _ = case.pilots[0].part(workers)
    first, second = call.items[:2]
    assert case.fleet.cancel(1, first)
    assert cancelled == [(call.id, first)]  # its Worker sees to it, and is lost before
    case.pilots[0].lose(call.id)
    assert not workers.told[1, first].ok
    assert case.fleet.cancel(1, second)  # no pilot has it
    assert not workers.told[1, second].ok
    assert not case.fleet.cancel(1, second)
    case.pilots[1].ready()
    while len(workers.told) < 100:
        workers.calls = [case.pilots[1].calls.pop(ident) for ident in list(case.pilots[1].calls)]
        workers.run()
    assert sum(not one.ok for one in workers.told.values()) == 2


def test_a_pilot_that_takes_nothing_any_more_gets_nothing(case):
    case.pilots[0].ready()
    case.pilots[0].put = lambda call, done: False
    case.submit(1)
    assert case.have() == [[], []]
    case.pilots[1].ready()
    assert case.have() == [[], [1]]


# --- real ones ------------------------------------------------------------------------------

SCRIPT = """
import os, signal, time
import scalems
from scalems.radical import processes

@scalems.task
def where(n):
    time.sleep(0.2)
    return os.environ["RP_SESSION_ID"]

@scalems.task
def hold(n):
    time.sleep(3)
    return os.environ["RP_SESSION_ID"]

@scalems.app
def main():
    end, seen = time.monotonic() + 200, set()
    while len(seen) < 2 and time.monotonic() < end:
        seen |= set(scalems.gather([where(n) for n in range(4)]))
    first, second = sorted(seen)
    held = [hold(n) for n in range(4)]
    time.sleep(0.5)
    for entry in os.listdir("/proc"):
        try:
            words = open(f"/proc/{entry}/cmdline").read() + open(f"/proc/{entry}/environ").read()
        except OSError:
            continue
        if f"SCALEMS_RUN={first}" in words and "server.main(" in words:
            os.kill(int(entry), signal.SIGKILL)
    assert set(scalems.gather(held)) == {second}, held
    print(first, second)
"""


@pytest.mark.radical
@pytest.mark.network
def test_two_pilots_share_the_calls_and_one_does_those_of_the_other(synced_home, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    asked_for = [sys.executable, "-m", "scalems.radical", "--venv", "task", "--dry-run", "--json"]
    asked_for += ["--resource", LABEL, "--resource", f"{LABEL}:cores=3,spare-cores=0", str(script)]
    shown = subprocess.run(
        asked_for, cwd=synced_home.project, env=synced_home.env, capture_output=True, check=True
    ).stdout
    assert [one["spare"] for one in json.loads(shown)] == [4, 0]
    words = ["--resource", LABEL, "--venv", "task", "--pilots", "2", "--cores", "1", "--no-store"]
    done = subprocess.run(
        [sys.executable, "-m", "scalems.radical", *words, "--json", script],
        cwd=synced_home.project, env=synced_home.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    names, _, summary = done.stdout.partition("\n")
    assert len(set(names.split())) == 2
    told = json.loads(summary)
    assert told["tasks"]["failed"] == 0
    assert "pilot 1 (local.localhost): " in done.stderr
    ended = [text for text in told["status"].values() if text.startswith("ended")]
    assert len(ended) == 1, shown
    assert "ended unexpectedly" in ended[0]
    assert "calls go to other pilots" in done.stderr
