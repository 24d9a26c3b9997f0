"""What the radical backend does without a session of RADICAL-Pilot."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems import probe
from scalems.env.spec import Role
from scalems.env.verification import Build
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.options import minutes
from scalems.radical import admission, diagnosis, options, outbox, processes, runs
from scalems.radical.channel import dump, load
from scalems.radical.dispatch import MOST_BYTES, Dispatcher, Place
from scalems.radical.outbox import Outbox
from scalems.radical.request import Layout, Request
from scalems.radical.wire import (
    FILE_LIMIT,
    call_of,
    call_row,
    needs_of,
    outcome_of,
    outcome_row,
    pack,
    unpack,
)
from scalems.workflow.call import Call, Failure, failed
from scalems.workflow.needs import NONE, Needs

# --- wire -----------------------------------------------------------------------------------


@given(st.binary() | st.lists(st.tuples(st.integers(), st.text())))
def test_what_travels_is_plain_text(value):
    text = pack(value)
    assert text.isascii()
    assert unpack(text) == value


def test_large_values_travel_as_files_and_leave_none(tmp_path):
    value = os.urandom(FILE_LIMIT + 1)
    text = pack(value, folder=tmp_path)
    assert len(text) < 1000
    assert unpack(text) == value
    assert list(tmp_path.iterdir()) == []
    assert unpack(pack(value)) == value


# --- dispatch -------------------------------------------------------------------------------


def row_of(ident, payload=b"", **needs):
    return call_row(Call(id=ident, name="f", payload=payload, needs=Needs(**needs)))


def outcome_of_row(row, duration=0.001):
    outcome = failed(call_of(row), Failure(type="E", message=""))
    return outcome_row(replace(outcome, started=0.0, ended=duration))


def dispatcher_of(*slots, calls=0):
    made = Dispatcher()
    for number, count in enumerate(slots):
        made.open(Place(f"w{number}", count))
    for ident in range(calls):
        made.queue.add(row_of(ident))
    return made


def test_rows_are_the_calls_and_outcomes_that_they_are_of():
    call = Call(id=3, name="f", payload=b"x", timeout=2.0, area="/a", needs=Needs(priority=4))
    for one in (call, replace(call, needs=NONE), replace(call, function=b"f")):
        assert call_of(load(dump(call_row(one)))) == one
    assert call_of(call_row(replace(call, needs=Needs()))).needs is NONE
    outcome = failed(call, Failure(type="E", message="m"))
    assert outcome_of(load(dump(outcome_row(outcome)))) == outcome


def run_through(dispatcher, duration):
    """Play Workers: give back all that each has, with outcomes that took some seconds."""
    sizes = []
    while len(dispatcher):
        for place, rows in dispatcher.batches():
            sizes.append(len(rows))
            assert place.load <= place.window
        for place in dispatcher.places.values():
            rows = list(place.away.values())
            known = dispatcher.ended(place.name, [outcome_of_row(row, duration) for row in rows])
            assert [row[0] for row in known] == [row[0] for row in rows]
    return sizes


@pytest.mark.parametrize(("duration", "largest"), [(1e-5, 2002), (0.01, 42), (0.1, 6), (10.0, 2)])
def test_many_short_calls_travel_together_and_long_ones_not_before_they_can_begin(
    duration, largest
):
    sizes = run_through(dispatcher_of(2, calls=10_000 if duration < 1 else 50), duration)
    assert sizes[0] == 2  # nothing is known of the first ones
    assert max(sizes) == largest


def test_few_calls_are_shared_however_short():
    dispatcher = dispatcher_of(2, 2, calls=4)
    run_through(dispatcher, 1e-5)
    for ident in range(8):
        dispatcher.queue.add(row_of(ident))
    assert [len(rows) for _, rows in dispatcher.batches()] == [2, 2]


def gang_of(*slots, expected=0):
    made = Dispatcher()
    for number, count in enumerate(slots):
        made.open(Place(f"w{number}", count, host=f"n{number}"))
    made.gangs.expected = expected or sum(slots)
    return made


def sent_by(dispatcher):
    return [(place.name, row) for place, rows in dispatcher.batches() for row in rows]


def test_a_call_that_no_worker_has_room_for_runs_on_several():
    dispatcher = gang_of(4, 3, 4)
    dispatcher.queue.add(row_of(0))
    ((name, first),) = sent_by(dispatcher)
    dispatcher.queue.add(row_of(1, ranks=9))
    dispatcher.queue.add(row_of(2))  # it waits, or the other would never have its room
    ((lead, wide),) = [one for one in sent_by(dispatcher) if one[1][0] == 1]
    assert needs_of(wide).hosts == (("n2", 4), ("n0", 3), ("n1", 2))
    assert sum(place.load for place in dispatcher.places.values()) == 11
    dispatcher.queue.add(row_of(3, ranks=12))  # more than there is: refused where it is sent
    dispatcher.ended(lead, [outcome_of_row(wide)])
    dispatcher.ended(name, [outcome_of_row(first)])
    run_out(dispatcher)
    assert [place.load for place in dispatcher.places.values()] == [0, 0, 0]


def run_out(dispatcher):
    """Let all calls end, one after the other."""
    for _ in range(100):
        sent_by(dispatcher)
        for place in dispatcher.places.values():
            for row in list(place.away.values())[:1]:
                dispatcher.ended(place.name, [outcome_of_row(row, 5.0)])
        if not len(dispatcher):
            return
    raise AssertionError("some calls never end")


def test_a_wide_call_waits_for_workers_that_are_to_come_and_for_room():
    dispatcher = gang_of(4, expected=8)
    dispatcher.queue.add(row_of(1, ranks=6))
    assert sent_by(dispatcher) == []
    dispatcher.open(Place("late", 4, host="n9"))
    dispatcher.queue.add(row_of(0, priority=1))
    sent = {row[0]: row for _, row in sent_by(dispatcher)}
    assert set(sent) == {0, 1}
    dispatcher.queue.add(row_of(2, ranks=8))
    assert sent_by(dispatcher) == []
    assert dispatcher.close("w0")  # its node has died: what is left has no room for eight
    dispatcher.gangs.expected = 4
    run_out(dispatcher)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), max_size=12),
)
def test_every_wide_call_ends_and_gives_back_what_it_was_lent(slots, calls):
    dispatcher = gang_of(*slots)
    for ident, (ranks, cores) in enumerate(calls):
        dispatcher.queue.add(row_of(ident, ranks=ranks, cores_per_rank=cores))
    run_out(dispatcher)
    assert [place.load for place in dispatcher.places.values()] == [0] * len(slots)


def test_urgent_calls_go_first_and_large_ones_do_not_pile_up():
    dispatcher = dispatcher_of(1)
    for ident, priority in enumerate([0, 5, -1, 5]):
        dispatcher.queue.add(row_of(ident, priority=priority))
    order = []
    while len(dispatcher):
        for place, rows in dispatcher.batches():
            order += [row[0] for row in rows]
            dispatcher.ended(place.name, [outcome_of_row(row, 5.0) for row in rows])
    assert order == [1, 3, 0, 2]
    dispatcher = dispatcher_of(1, calls=1)
    run_through(dispatcher, 1e-6)
    for ident in range(9):
        dispatcher.queue.add(row_of(ident, payload=bytes(MOST_BYTES // 2)))
    sent = [rows for _ in range(9) for _, rows in dispatcher.batches()]
    assert sum(map(len, sent)) == 3


def test_a_call_goes_where_its_cores_are_and_one_too_large_is_refused_there():
    dispatcher = dispatcher_of(2, 8)
    dispatcher.queue.add(row_of(1, cores_per_rank=4))
    dispatcher.queue.add(row_of(2, cores_per_rank=99))
    dispatcher.queue.add(row_of(3))
    sent = {
        row[0]: place.name for _ in range(2) for place, rows in dispatcher.batches() for row in rows
    }
    assert sent[1] == "w1"
    assert set(sent) == {1, 2, 3}


def test_calls_behind_a_long_one_are_taken_back_for_an_idle_place():
    dispatcher = dispatcher_of(1, 1, calls=2)
    run_through(dispatcher, 0.01)
    for ident in range(8):
        dispatcher.queue.add(row_of(ident))
    while list(dispatcher.batches()):
        pass
    one, other = dispatcher.places.values()
    dispatcher.ended(other.name, [outcome_of_row(row) for row in other.away.values()])
    assert dispatcher.overloaded() == [one]
    assert dispatcher.overloaded() == []  # it was asked already
    dispatcher.returned(one.name, list(one.away)[1:])
    assert one.load == 1
    order = []
    for _ in range(8):
        for place, rows in dispatcher.batches():
            assert place is other
            order += [row[0] for row in rows]
    assert order == sorted(order)
    assert len(order) == len(other.away)


@given(st.lists(st.sampled_from("asrwgpcp"), max_size=200))
def test_every_call_ends_once(steps):
    dispatcher = dispatcher_of(1, 2)
    added, ended = 0, []
    for step in steps:
        place = dispatcher.places.get(f"w{added % 2}")
        ids = list(place.away) if place else []
        if step == "a":
            dispatcher.queue.add(row_of(added, priority=added % 2))
            added += 1
        elif step == "s":
            list(dispatcher.batches())
        elif step == "r" and ids:
            row = place.away[ids[0]]
            for _ in range(2):  # the second time it is not known any more
                found = dispatcher.ended(place.name, [outcome_of_row(row)])
                ended += [row[0] for row in found]
        elif step == "w" and added:
            unsent, _ = dispatcher.withdraw([added // 2])
            ended += [row[0] for row in unsent]
        elif step == "g" and ids:
            dispatcher.returned(place.name, ids[1:])
        elif step == "p" and place:
            place.paused = not place.paused
        elif step == "c" and len(dispatcher.places) == 2 and added > 20:
            ended += [row[0] for row in dispatcher.close("w0")]
    assert sorted([*ended, *dispatcher]) == list(range(added))
    for place in dispatcher.places.values():
        place.paused = False
        assert place.load == len(place.away)
    run_through(dispatcher, 0.001)


def test_a_client_sends_no_more_than_the_server_has_a_use_for(monkeypatch):
    monkeypatch.setattr(outbox, "MOST", 3)
    box = Outbox()
    calls = [Call(id=n, name="f", payload=b"x", needs=Needs(priority=n // 5)) for n in range(6)]
    for call in calls:
        box.add(call)
    assert [row[0] for row in box.take()] == [5, 0, 1, 2]  # the urgent one has its own window
    assert box.take() == []
    assert box.remove(4)
    assert not box.remove(0)
    box.answered(calls[:2])
    assert box.wait()
    assert [row[0] for row in box.take()] == [3]
    box.restart(calls[:1])
    assert [row[0] for row in box.take()] == [0]
    box.close()
    assert not box.wait()


# --- layout ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slots", "per_node", "fake", "nodes", "cores", "pilot"),
    [
        (2, 8, True, 0, (2,), 3),
        (8, 8, True, 0, (8,), 9),
        (20, 8, True, 0, (8, 8, 4), 21),
        (64, 64, False, 0, (63,), 64),  # no second node for the master alone
        (128, 64, False, 0, (64, 63), 128),
        (100, 64, False, 0, (64, 36), 101),
        (1, 1, False, 0, (1,), 2),
        (8, 4, False, 2, (4, 3), 8),
        (4, 4, False, 2, (2, 2), 5),
        (5, 4, False, 2, (3, 2), 6),
        (1, 4, False, 2, (1,), 2),
        (4, 4, False, 1, (3,), 4),
    ],
)
def test_slots_are_spread_over_nodes(slots, per_node, fake, nodes, cores, pilot):
    layout = Layout.of(slots, per_node=per_node, fake=fake, nodes=nodes)
    assert layout.cores == cores
    assert layout.pilot == pilot
    assert sum(layout.slots) == slots


DEFINITION = {
    "job_manager_endpoint": "slurm://localhost/",
    "default_queue": "main",
    "cores_per_node": 4,
    "system_architecture": {"smt": 2, "blocked_cores": [0]},
}


def settings_of(**given):
    fields = {
        "label": "lab.slurm",
        "slots": None,
        "runtime": None,
        "options": {},
        "spare": None,
        **given,
    }
    return SimpleNamespace(**fields)


def test_what_a_pilot_asks_for():
    request = Request.of(settings_of(options={"nodes": 2, "project": "abc"}), DEFINITION)
    assert request.layout.slots == (7, 7)
    found = request.to_dict()
    assert found["pilot description"] == {
        "resource": "lab.slurm", "runtime": 60, "exit_on_error": False, "nodes": 2,
        "project": "abc",
    }  # fmt: skip
    assert (found["queue"], found["slots"], found["cores"]) == ("main", 14, 14)
    assert "2 nodes, 14 cores, for 60 minutes, queue 'main' project 'abc'" in request.text()
    request = Request.of(settings_of(slots=8, runtime=5), DEFINITION)
    assert (request.nodes, request.fields["cores"], request.layout.slots) == (2, 9, (7, 1))
    local = {**DEFINITION, "job_manager_endpoint": "fork://localhost/"}
    assert Request.of(settings_of(slots=3), local).nodes == 0
    for wrong, definition in (
        ({"slots": 20, "options": {"nodes": 2}}, DEFINITION),
        ({}, {**DEFINITION, "cores_per_node": 0}),
    ):
        with pytest.raises(UsageError):
            Request.of(settings_of(**wrong), definition)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", 90), ("90m", 90), ("2h", 120), ("1d12h", 2160), ("1h30m", 90),
        ("01:30:00", 90), ("0:00:01", 1), ("1-00:00:30", 1441),
    ],
)  # fmt: skip
def test_spans_of_time_are_minutes(text, found):
    assert minutes(text) == found


@given(
    st.text() | st.sampled_from(["", "0", "1:30", "-1", "h", "1.5h", "0:00:00", "\u00b2", "1e3"])
)
def test_what_is_no_span_of_time_is_told(text):
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert minutes(text) > 0
        assert text.isascii()


# --- pilot options --------------------------------------------------------------------------


def test_pilot_options_get_the_types_of_rp():
    found = options.parse(["queue=short", "gpus = 4", "cleanup=yes", "input_staging=a, b"])
    assert found == {"queue": "short", "gpus": 4, "cleanup": True, "input_staging": ["a", "b"]}
    assert options.parse([]) == {}
    plain = {"queue": "short", "nodes": 2, "project": None}
    assert options.parse([], plain) == {"queue": "short", "nodes": 2}
    with pytest.raises(UsageError, match="given twice: --queue says 'short'"):
        options.parse(["queue=long"], plain)


def test_all_wrong_pilot_options_are_named_at_once():
    wrong = ["queu=short", "gpus=many", "resource=x", "cleanup=perhaps", "nonsense", "services=["]
    with pytest.raises(UsageError) as caught:
        options.parse(wrong)
    text = str(caught.value)
    for part in (
        "did you mean 'queue'",
        "gpus: 'many' is not a whole number",
        "use --resource",
        "neither true nor false",
        "not KEY=VALUE",
        "services: its value must be JSON",
        "job_name",
    ):
        assert part in text


# --- admission ------------------------------------------------------------------------------


@pytest.fixture
def verified():
    """Return a build that this interpreter fits."""
    description = probe.describe()
    prefix = Path(sys.prefix)
    (folder,) = {prefix.parent}
    build = Build(
        name="task",
        role=Role.TASK,
        folder=folder,
        input_digest=description["input_digest"],
        content_digest=description["content_digest"],
        scalems_digest="",
        versions=description["versions"],
    )
    return build, {**description, "prefix": str(build.venv)}


def test_a_worker_that_is_what_was_verified_is_admitted(verified):
    build, description = verified
    admission.check("local.localhost", build, description)


def test_every_difference_of_a_worker_is_named(verified):
    build, description = verified
    versions = {**description["versions"], "cloudpickle": "0.1", "intruder": "6"}
    del versions["pytest"]
    other = {
        **description,
        "versions": versions,
        "prefix": "/elsewhere",
        "python": "3.1.4",
        "content_digest": "other",
    }
    with pytest.raises(EnvironmentNotReady) as caught:
        admission.check("local.localhost", build, other)
    text = str(caught.value)
    for part in (
        "found /elsewhere",
        "found 3.1",
        "content_digest",
        "found 0.1",
        "intruder: expected nothing, found 6",
        "found nothing",
        "scalems env sync --resource local.localhost",
    ):
        assert part in text


# --- diagnosis ------------------------------------------------------------------------------


def test_reasons_are_found_in_the_logs_of_the_failed_task_first(tmp_path):
    sandbox = tmp_path / "pilot.0000"
    task = sandbox / "scalems.worker.0"
    task.mkdir(parents=True)
    (task / "scalems.worker.0.err").write_text(
        "harmless\nTraceback (most recent call last):\n  File 'x'\n    frame\n"
        "ModuleNotFoundError: No module named 'scalems'\n"
        "/x/pilot.0000//task.sh: line 65: /venv/bin/x: cannot execute: required file not found\n"
    )
    (sandbox / "bootstrap_0.out").write_text(
        "/x/b.sh: line 1682: dig: command not found\nERROR: given virtenv does not exist at /x\n"
    )
    assert diagnosis.explain(sandbox, tmp_path, task="scalems.worker.0") == [
        "scalems.worker.0.err: ModuleNotFoundError: No module named 'scalems'",
        "scalems.worker.0.err: /venv/bin/x: cannot execute: required file not found",
        "bootstrap_0.out: ERROR: given virtenv does not exist at /x",
    ]
    assert diagnosis.explain(None, tmp_path / "absent") == []


def test_a_crashed_component_is_seen_when_its_traceback_is_whole(tmp_path):
    assert not diagnosis.crashed(None)
    assert not diagnosis.crashed(tmp_path / "absent")
    trace = "Traceback (most recent call last):\n  x\nValueError: Scheduler X unknown\n"
    (tmp_path / "agent_0.err").write_text(trace)  # RP leaves such ones there in every run
    log = tmp_path / "agent_scheduling.0000.err"
    log.write_text(trace)
    os.utime(log)
    assert not diagnosis.crashed(tmp_path)
    past = time.time() - 60
    for file in tmp_path.iterdir():
        os.utime(file, (past, past))
    assert diagnosis.crashed(tmp_path)
    log.unlink()
    assert not diagnosis.crashed(tmp_path)


# --- processes and folders ------------------------------------------------------------------


def test_a_sweep_ends_the_processes_of_a_run_and_no_others(tmp_path):
    run = f"test-{os.getpid()}"
    marked = {**os.environ, processes.RUN: run}
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);print(flush=True);"
    stubborn = subprocess.Popen(
        [sys.executable, "-c", f"{code} time.sleep(3600)"],
        env=marked, cwd="/", stdout=subprocess.PIPE,
    )  # fmt: skip
    inside = subprocess.Popen(["sleep", "3600"], cwd=tmp_path)
    other = subprocess.Popen(
        ["sleep", "3600"], env={**os.environ, processes.RUN: f"{run}0"}, cwd="/"
    )
    try:
        stubborn.stdout.readline()
        assert set(processes.members(run, tmp_path)) == {stubborn.pid, inside.pid}
        assert processes.sweep(run, tmp_path) == 2
        assert stubborn.wait(10) == -9
        assert inside.wait(10) == -15
        assert other.poll() is None
        assert processes.sweep(run, tmp_path) == 0
    finally:
        stubborn.stdout.close()
        for process in (stubborn, inside, other):
            process.kill()
            process.wait()


def test_folders_of_old_runs_are_removed_but_not_those_in_use(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    old = [runs.root() / f"scalems.20200101-0000{n:02}.999999999.ab" for n in range(20)]
    used = runs.root() / f"scalems.20190101-000000.{os.getpid()}.ab"
    name, current = runs.new()
    foreign = runs.root() / "mine"
    for folder in (*old, used, current, foreign):
        folder.mkdir(parents=True)
    runs.prune(current)
    left = {path.name for path in runs.root().iterdir()}
    assert {used.name, name, "mine"} <= left
    assert {path.name for path in old[-9:]} <= left
    assert old[0].name not in left
    assert len(left) < 15


def test_a_sandbox_goes_with_its_run_when_nothing_writes_there_any_more(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    shared = tmp_path / "shared"
    old = [runs.root() / f"scalems.20200101-0000{n:02}.999999999.ab" for n in range(14)]
    pilots = [shared / folder.name / "pilot.0000" for folder in old]
    for folder, pilot in zip(old, pilots, strict=True):
        folder.mkdir(parents=True)
        pilot.mkdir(parents=True)
        (pilot / "agent_0.log").touch()
        runs.note_sandbox(folder, pilot)
        for path in (pilot / "agent_0.log", pilot.parent):
            os.utime(path, (0, 0))
    (old[1] / "sandbox.path").write_text(str(tmp_path))  # of no run
    (pilots[2] / "agent_0.log").touch()  # its job runs
    runs.prune()
    assert [folder.is_dir() for folder in old[:5]] == [False, False, True, False, True]
    assert [pilot.is_dir() for pilot in pilots[:5]] == [False, True, True, False, True]


# --- the command ----------------------------------------------------------------------------


def test_the_parser_needs_a_resource_and_a_venv(capsys):
    from scalems import radical

    parsed = radical.parser.parse_args(["--resource", "a.b", "--venv", "task", "--cores", "4"])
    assert (parsed.resource, parsed.venv, parsed.cores) == (["a.b"], "task", 4)
    for wrong in (["--venv", "task"], ["--resource", "a.b", "--venv", "t", "--cores", "0"]):
        with pytest.raises(SystemExit) as caught:
            radical.parser.parse_args(wrong)
        assert caught.value.code == 2


def test_help_does_not_load_radical_pilot():
    code = (
        "import sys; from scalems import radical; radical.parser.format_help();"
        "print([m for m in sys.modules if m.startswith('radical')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
