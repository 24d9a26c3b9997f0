"""What the kernel counts of processes that it has ended for want of memory."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.workflow import oom
from scalems.workflow.call import Call, encode, failure_in
from scalems.workflow.pool import CallPool


def group(tmp_path, line, file, text):
    own = tmp_path / "own"
    own.write_text(f"12:cpu,cpuacct:/other\n{line}\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    return oom.kills(tmp_path, own)


EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"


def test_the_counter_is_that_of_the_own_group(tmp_path):
    assert group(tmp_path, "0::/job/step", "job/step/memory.events", EVENTS) == 2
    assert group(tmp_path, "0::/of/the/host", "memory.events", EVENTS.replace("2", "5")) == 5
    text = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
    assert group(tmp_path, "9:memory:/job", "memory/job/memory.oom_control", text) == 7


def test_without_a_counter_nothing_is_said(tmp_path):
    assert oom.kills(tmp_path, tmp_path / "missing") is None
    assert group(tmp_path, "0::/", "memory.events", "oom 1\n") is None


@given(st.text(max_size=60), st.text(max_size=40))
def test_no_file_breaks_it(tmp_path_factory, line, text):
    folder = tmp_path_factory.mktemp("group")
    (folder / "own").write_text(line, errors="replace")
    (folder / "memory.events").write_text(text, errors="replace")
    oom.kills(folder, folder / "own")


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([4, 5], "SIGKILL: out of memory, by the kernel"),
        ([4, 4], "SIGKILL before"),
        ([None, None], "SIGKILL (often: out of memory)"),
    ],
)
def test_a_killed_call_says_what_is_known(monkeypatch, tmp_path: Path, counts, told):
    monkeypatch.setattr(oom, "kills", lambda: counts.pop(0) if len(counts) > 1 else counts[0])
    pool = CallPool(1, cwd=tmp_path)

    ended, outcomes = threading.Event(), []

    def done(outcome):
        outcomes.append(outcome)
        ended.set()

    payload = encode(lambda: os.kill(os.getpid(), signal.SIGKILL), (), {})
    try:
        pool.submit(Call(id=1, name="f", payload=payload), done)
        assert ended.wait(60)
        assert told in failure_in(outcomes[0]).message
    finally:
        pool.close(kill=True)
