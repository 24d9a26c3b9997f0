"""Sessions: one way in from plain Python, asyncio and notebooks; what becomes of failures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path

import pytest

import scalems
from scalems.errors import UsageError
from scalems.workflow.options import DEFAULT


@scalems.task
def half(x):
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x // 2


@scalems.task
def total(*values):
    return sum(values)


def flaky(path, times):
    """Fail so many times."""
    with Path(path).open("a") as log:
        log.write("x")
    if len(Path(path).read_text()) <= times:
        raise OSError("not yet")
    return "at last"


def wait_for(path):
    while not Path(path).exists():
        pass
    Path(f"{path}.seen").touch()


def test_all_that_a_script_calls_goes_to_the_session():
    with scalems.Session(max_workers=2) as session:
        assert isinstance(session, concurrent.futures.Executor)
        assert session.submit(pow, 2, 5).result() == 32
        assert scalems.submit(pow, 2, 3).result() == 8
        assert scalems.gather(scalems.map(abs, [-1, -2])) == [1, 2]
        assert total(half(4), half(2)).result() == 3
        assert list(session.map(half, [4, 8])) == [2, 4]
        wide = session.with_options(label="wide")
        assert [wide.submit(half, 2).name, wide.submit(abs, 2).name] == ["wide", "wide"]
    with pytest.raises(UsageError, match="no workflow is running"):
        half(2)


def test_await_in_a_session():
    async def main():
        async with scalems.Session("inline"):
            return await asyncio.gather(half(2), half(4))

    assert asyncio.run(main()) == [1, 2]


def test_one_import_is_enough():
    code = "import scalems; print(scalems.local.Executor, scalems.radical.Executor, scalems.run)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Executor") == 2


async def halves(*values):
    return {"first": await half(values[0]), "others": [half(value) for value in values[1:]]}


def test_run_is_a_session_of_its_own():
    assert scalems.run(halves, 2, 4, 6, backend="inline") == {"first": 1, "others": [2, 3]}
    assert scalems.run(half, 8, max_workers=1) == 4
    with scalems.Session("inline"):
        assert scalems.run(lambda: (total(half(2), 3), "x")) == (4, "x")
        with pytest.raises(ValueError, match="3 is odd"):
            scalems.run(lambda: [half(2), half(3)])
    with pytest.raises(UsageError, match="no option 'worker'"):
        scalems.run(half, 2, worker=2)
    with pytest.raises(UsageError, match=r"takes a function.*not a int"):
        scalems.run(2, backend="inline")


CELLS = """
import scalems, asyncio
session = scalems.Session(max_workers=2).open()
first = scalems.submit(pow, 2, 3)
print("value", first.result(), scalems.submit(abs, first).result())
print("awaited", await first, await asyncio.gather(*scalems.map(abs, [-1, -2])))
print("shown", first._repr_html_().splitlines()[0])
def mine(x): return x + 1

print("defined", scalems.submit(mine, 1).result())
print("failed", type((bad := scalems.submit(int, "x")).exception()).__name__)
print("run", scalems.run(pow, 2, 4))
print("tasks", session.summary()["tasks"]["done"])
session.close()
"""


def test_cells_of_a_notebook_run_on_an_event_loop():
    """Python's own prompt with ``await`` runs code as a notebook does: on a loop that runs."""
    done = subprocess.run(
        [sys.executable, "-m", "asyncio"], input=CELLS, capture_output=True, text=True, check=True
    )
    said = [line.partition("]>>>")[2] or line for line in done.stdout.splitlines()]
    words = {line.replace(">>> ", "").strip() for line in said if line.strip(">. ")}
    for expected in (
        "value 8 8", "awaited 8 [1, 2]", "shown <pre>pow#1: done", "defined 2",
        "failed ValueError", "run 16", "tasks 5",
    ):  # fmt: skip
        assert any(word.endswith(expected) for word in words), (words, done.stderr)


RUNS = """
import sys, scalems

@scalems.task
def half(x):
    return x // 2

if __name__ == "__main__":
    print(scalems.run(lambda: [half(x) for x in range(4)], store=sys.argv[1]))
    print(scalems.run(half, 10, backend="inline"))
    sys.exit(scalems.run(half, 9, backend="inline"))
"""


def test_a_script_that_runs_itself_runs_under_a_command_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RUNS)
    for words in ([], ["-m", "scalems.local"], ["-m", "scalems.local", "--inline", "-q"]):
        done = subprocess.run(
            [sys.executable, *words, str(script), str(tmp_path / "kept")],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (4, "[0, 0, 1, 1]\n5\n"), done.stderr
        assert ("6 done" in done.stderr) == (words == ["-m", "scalems.local"])


def test_a_session_without_with(tmp_path):
    session = scalems.Session(max_workers=1, store=tmp_path / "kept").open()
    try:
        assert half(4).result() == 2
    finally:
        session.close()
    with scalems.Session("inline", store=tmp_path / "kept"):
        assert "taken" not in half(4).explain()  # what is debugged is not of an environment
    with scalems.Session(max_workers=1, store=tmp_path / "kept", rerun=True):
        again = half(4)
        assert again.result() == 2
        assert "taken" not in again.explain()


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        (("locl",), {}, "did you mean 'local'"),
        ((), {"max_worker": 2}, "did you mean 'max_workers'"),
        ((), {"max_workers": 0}, "whole number of at least 1"),
        ((), {"json": True}, "no option 'json'"),
        ((), {"on_error": "ignore"}, "'continue' or 'stop'"),
        ((), {"retries": -1}, "at least 0"),
        (("inline",), {"venv": "task"}, "use one of them"),
    ],
)
def test_wrong_options_are_told(words, options, told):
    with pytest.raises(UsageError, match=told):
        scalems.Session(*words, **options)


def test_a_failure_can_stop_a_session():
    with scalems.Session(max_workers=1, on_error="stop") as session:
        failed, other = half(1), half.with_options(priority=-1)(2)
        scalems.wait([failed, other])
        with pytest.raises(scalems.RunStopped, match="half#1 failed: ValueError: 1 is odd"):
            half(2).result()
        with pytest.raises(ValueError, match="odd"):
            failed.result()
    assert session.summary()["failures"][0]["task"] == "half"


def test_a_task_can_have_a_policy_of_its_own():
    with scalems.Session(max_workers=1, on_error="stop"):
        concurrent.futures.wait([half.with_options(on_error="continue")(1)])
        assert half(2).result() == 1
        concurrent.futures.wait([half(1)])
        with pytest.raises(scalems.RunStopped):
            half(2).result()
    with scalems.Session(max_workers=1):
        scalems.wait([half.with_options(on_error="stop")(1)])
        with pytest.raises(scalems.RunStopped, match="half#1"):
            half(2).result()


def test_what_runs_is_ended_when_a_failure_stops_a_session(tmp_path):
    with scalems.Session(max_workers=2, on_error="stop"):
        scalems.submit(wait_for, tmp_path / "never")
        scalems.wait([half(1)])
    assert not (tmp_path / "never.seen").exists()


def test_retries_of_a_session_are_for_tasks_that_say_none(tmp_path):
    with scalems.Session(max_workers=2, retries=2) as session:
        quick = session.with_options(backoff=0)
        assert quick.submit(flaky, tmp_path / "a", 2).result() == "at last"
        assert list(quick.map(flaky, [tmp_path / "b"], [2])) == ["at last"]
        with pytest.raises(OSError, match="not yet"):
            quick.with_options(retries=0).submit(flaky, tmp_path / "c", 1).result()
    assert (tmp_path / "c").read_text() == "x"


def test_pauses_grow():
    options = DEFAULT.replaced(backoff=2)
    assert [options.pause(n) for n in (1, 2, 3, 100)] == [2, 4, 8, 60]
    assert DEFAULT.replaced(backoff=90).pause(3) == 90


def test_summary_by_name(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import scalems\n@scalems.task\ndef half(x):\n    return x // (x % 2)\n"
        "@scalems.task\ndef total(x):\n    return x\n"
        "@scalems.app\ndef main():\n"
        "    print(scalems.gather([total(half(x)) for x in range(4)], errors='skip'))\n"
    )
    argv = [sys.executable, "-m", "scalems.local", "--report", "report.json", str(script)]
    ran = [
        subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert "  half   2 done, 2 failed, " in ran[0]
    assert "  total  2 done, 2 not run, " in ran[0]
    assert "half#1, half#5: ZeroDivisionError: " in ran[0]
    assert "; stopped 2 total" in ran[0]
    assert "2 failed, 2 not run in" in ran[0]
    assert "  half   2 done (2 reused), 2 failed, " in ran[1]
    report = json.loads((tmp_path / "report.json").read_text())
    half, total = report["names"]
    assert (half["name"], half["tasks"], half["reused"], half["failed"]) == ("half", 4, 2, 2)
    assert (total["tasks"], total["not_run"], total["seconds"]) == (4, 2, 0)
    assert [one["stopped"] for one in report["failures"]] == [
        [{"task": "total", "id": number}] for number in (2, 6)
    ]
