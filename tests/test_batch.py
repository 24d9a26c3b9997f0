"""What is read from the batch system about a pilot's job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.radical.batch import Job, Queue, parse

FOLDER = Path("/home/me/sandbox/pilot.0000")
LINE = "{}|{}|{}|2026-03-01T10:00:00|node[1-2]|/home/me/sandbox/pilot.0000\n"


def test_the_last_job_of_a_folder_is_found():
    printed = (
        LINE.format(9, "COMPLETED", "None")
        + LINE.format(10, "RUNNING", "None")
        + "11|RUNNING|None|N/A||/home/me/elsewhere\n"
        + "12_[1-4]|PENDING|Resources|N/A||/home/me/sandbox/pilot.0000\n"
    )
    job = parse(printed, FOLDER)
    assert job == Job(ident="10", state="RUNNING", start="2026-03-01T10:00:00", nodes="node[1-2]")
    assert parse("", FOLDER) is None


def test_a_folder_may_have_any_name():
    folder = Path("/home/me|you/a b|c")
    assert parse(f"1|PENDING|(null)|N/A||{folder}\n", folder) == Job(ident="1", state="PENDING")


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (Job(ident="1", state="PENDING"), "job 1 is pending"),
        (
            Job(ident="1", state="PENDING", reason="Priority", start="2026-03-01T10:00:00"),
            "job 1 is pending (Priority, may start at 2026-03-01T10:00:00)",
        ),
        (Job(ident="1", state="RUNNING", nodes="n[1-2]"), "job 1 runs on n[1-2]"),
        (
            Job(ident="1", state="TIMEOUT", reason="TimeLimit"),
            "Slurm has ended job 1: its run time is over (TimeLimit)",
        ),
        (Job(ident="1", state="CANCELLED"), "Slurm has ended job 1: it was cancelled"),
    ],
)
def test_what_people_are_told_of_a_job(job, text):
    assert job.text() == text
    assert job.ended == ("has ended" in text)
    assert job.timed_out == (job.state == "TIMEOUT")


@given(st.text())
def test_whatever_is_printed_is_read_or_ignored(printed):
    job = parse(printed, FOLDER)
    assert job is None or str(FOLDER) in printed


def test_a_batch_system_that_cannot_be_asked_or_does_not_answer_tells_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    for endpoint in ("pbs://localhost/", "slurm://localhost/"):
        queue = Queue(endpoint)
        assert queue.find(FOLDER) is None
        assert not queue.cancel(Job(ident="1", state="RUNNING"))
