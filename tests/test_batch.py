"""What is read from the batch system about a pilot's job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.radical import verdict
from scalems.radical.batch import Job, Queue, parse
from scalems.radical.verdict import End, Verdict

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


def test_a_job_that_is_being_ended_may_say_already_why():
    line = LINE.format(1, "COMPLETING", "TimeLimit")
    job = parse(line, FOLDER)
    assert job is not None
    assert job.timed_out
    job = parse(LINE.format(1, "COMPLETING", "None"), FOLDER)
    assert job is not None
    assert job.ending
    assert not job.ended


RUNS, ENDS = (Job(ident="1", state=state) for state in ("RUNNING", "COMPLETING"))
TIMEOUT = Job(ident="1", state="TIMEOUT", reason="TimeLimit")
ITS_TIME = End(f"{TIMEOUT.text()}.", False, "ask for more --runtime")
FAILED = End("The pilot has failed.", cancelled=False)


class Case:
    """A pilot of a batch system, whose end is told in some order."""

    def __init__(self):
        self.now = 0.0
        self.notes: list[str] = []
        self.verdict = Verdict(self.notes.append, lambda: self.now)

    def hear(self, what):
        if isinstance(what, Job):
            return self.verdict.on_job(what)
        return self.verdict.on_pilot(what, 60, in_queue=True)


@pytest.mark.parametrize(
    "order",
    [
        [RUNS, "FAILED", TIMEOUT],
        [RUNS, "FAILED", ENDS, TIMEOUT],
        [RUNS, ENDS, "FAILED", TIMEOUT],
        [RUNS, "FAILED", RUNS, TIMEOUT],
        [TIMEOUT],
    ],
)
def test_the_batch_system_says_why_a_pilot_has_ended_whatever_is_heard_first(order):
    case = Case()
    *first, last = order
    assert [case.hear(what) for what in first] == [None] * len(first)
    assert case.verdict.overdue() is None
    assert case.hear(last) == ITS_TIME
    assert len(case.notes) == (len(order) > 1)


def test_a_job_that_waits_in_vain_is_given_up_with_what_mends_it():
    case = Case()
    vain = Job(ident="1", state="PENDING", reason="PartitionTimeLimit")
    assert case.hear(vain) is None
    case.now += verdict.IN_VAIN - 1
    assert case.verdict.overdue() is None
    case.hear(Job(ident="1", state="PENDING", reason="Resources"))  # it was of a moment
    case.now += 10
    assert case.verdict.overdue() is None
    case.hear(vain)
    case.now += verdict.IN_VAIN + 1
    end = case.verdict.overdue()
    assert end is not None
    assert end.what == "Job 1 cannot begin (PartitionTimeLimit)."
    assert "--runtime" in end.remedy
    case.hear(RUNS)
    assert case.verdict.overdue() is None


def test_a_pilot_that_somebody_cancels_is_none_that_fails():
    case = Case()
    case.hear(RUNS)
    assert case.hear("FAILED") is None
    end = case.hear(Job(ident="1", state="CANCELLED"))
    assert end is not None
    assert end.cancelled


@pytest.mark.parametrize("known", [RUNS, ENDS, None])
def test_a_batch_system_that_says_nothing_is_waited_for_to_a_limit(known):
    case = Case()
    if known:
        case.hear(known)
    assert case.hear("FAILED") is None
    assert case.verdict.pending
    case.now = (verdict.LIMIT if known else verdict.NO_JOB) - 1
    assert case.verdict.overdue() is None
    case.now += 2
    assert case.verdict.overdue() == FAILED


def test_a_job_that_ends_by_itself_has_the_end_that_its_pilot_tells():
    case = Case()
    case.hear(RUNS)
    case.hear("FAILED")
    assert case.hear(Job(ident="1", state="FAILED", reason="NonZeroExitCode")) == FAILED
    pilot = Verdict(print).on_pilot("CANCELED", 60, in_queue=False)
    assert pilot == End("The pilot was cancelled by somebody else.", cancelled=True)


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
