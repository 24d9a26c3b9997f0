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
from scalems.env.verify import Build
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.options import minutes
from scalems.radical import admission, diagnosis, options, processes, runs
from scalems.radical.dispatch import Dispatcher
from scalems.radical.request import Layout, Request
from scalems.radical.wire import FILE_LIMIT, pack, unpack
from scalems.workflow.call import Call, Failure, failed

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


def call_of(ident):
    return Call(id=ident, name="f", payload=b"")


def outcome_of(call, duration=0.001):
    outcome = failed(call, Failure(type="E", message=""))
    return replace(outcome, started=0.0, ended=duration)


def run_through(dispatcher, duration):
    """Play RP: return each batch with outcomes that took some seconds; give the sizes."""
    sizes, away = [], []
    while len(dispatcher):
        while calls := dispatcher.batch():
            name = str(len(sizes))
            dispatcher.sent(name, calls)
            away.append((name, calls))
            sizes.append(len(calls))
        name, calls = away.pop(0)
        assert dispatcher.returned(name, [outcome_of(call, duration) for call in calls]) == []
    return sizes


@pytest.mark.parametrize(("duration", "largest"), [(0.0001, 1000), (0.01, 50), (10.0, 1)])
def test_many_short_calls_travel_together_and_long_ones_alone(duration, largest):
    dispatcher = Dispatcher(2)
    for ident in range(20_000 if duration < 1 else 100):
        dispatcher.add(call_of(ident))
    sizes = run_through(dispatcher, duration)
    assert max(sizes) <= largest
    assert sizes[:8] == [1] * 8  # nothing is known of the first ones
    if duration < 1:
        assert max(sizes) > largest // 2


def test_few_calls_travel_alone_however_short():
    dispatcher = Dispatcher(4)
    for ident in range(16):
        dispatcher.add(call_of(ident))
    assert run_through(dispatcher, 0.00001) == [1] * 16


@given(st.lists(st.sampled_from(["add", "send", "return", "withdraw"]), max_size=200))
def test_every_call_comes_back_once(steps):
    dispatcher = Dispatcher(1)
    added, back, away = 0, [], []
    for step in steps:
        if step == "add":
            dispatcher.add(call_of(added))
            added += 1
        elif step == "send" and (calls := dispatcher.batch()):
            away.append(str(added))
            away[-1] += f".{len(back)}.{len(away)}"
            dispatcher.sent(away[-1], calls)
        elif step == "return" and away:
            back += dispatcher.returned(away.pop(0))  # without outcomes
        elif step == "withdraw" and (call := dispatcher.withdraw(added - 1)):
            back.append(call)
    assert len(dispatcher) == added - len(back)
    while len(dispatcher):
        if calls := dispatcher.batch():
            away.append(f"last.{len(back)}.{len(away)}")
            dispatcher.sent(away[-1], calls)
        else:
            back += dispatcher.returned(away.pop(0))
    assert sorted(call.id for call in back) == list(range(added))


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
    fields = {"label": "lab.slurm", "slots": None, "runtime": None, "options": {}, **given}
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


# --- the command ----------------------------------------------------------------------------


def test_the_parser_needs_a_resource_and_a_venv(capsys):
    from scalems import radical

    parsed = radical.parser.parse_args(["--resource", "a.b", "--venv", "task", "--cores", "4"])
    assert (parsed.resource, parsed.venv, parsed.cores) == ("a.b", "task", 4)
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
