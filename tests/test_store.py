"""Results that are kept: nothing finished is lost, or done twice, or taken wrongly."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.errors import ExitCode, UsageError
from scalems.store import database
from scalems.store.history import History
from scalems.store.lookup import Filter
from scalems.store.store import Store
from scalems.workflow.call import Outcome

LIMIT = 60  # seconds: for things that must happen
SCRIPT = """
import os, sys, time
from pathlib import Path
import scalems

LOG = os.environ["LOG"]

def helper(x):
    return x + 1

@scalems.task
def step(x, pause=0.0):
    with open(LOG, "a") as log:
        log.write(f"step {x}\\n")
    time.sleep(pause)
    return helper(x)

@scalems.task
def total(values):
    with open(LOG, "a") as log:
        log.write("total\\n")
    return sum(values)

@scalems.app
def main():
    n, pause = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    print(total([step(i, pause) for i in range(n)]).result())
"""


@dataclass
class Place:
    """A folder with a script, and what its tasks have written down."""

    folder: Path

    @property
    def script(self) -> Path:
        return self.folder / "script.py"

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "LOG": str(self.folder / "log")}

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "scalems.local", "-j", "2", *words]

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*words), cwd=self.folder, env=self.env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def ran(self, *words: str) -> list[str]:
        """Run the script, and return which tasks ran."""
        log = self.folder / "log"
        log.write_text("")
        self.run(*words)
        return sorted(log.read_text().split("\n"))[1:]

    def edit(self, before: str, after: str) -> None:
        text = self.script.read_text()
        assert before in text
        self.script.write_text(text.replace(before, after))

    def scalems(self, *words: str, code: int = 0) -> str:
        command = str(Path(sys.executable).with_name("scalems"))
        done = subprocess.run(
            [command, *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str) -> object:
        return json.loads(self.scalems(*words, "--json"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "log").touch()
    return Place(tmp_path)


def test_what_has_finished_is_not_run_again(place: Place) -> None:
    assert place.ran("script.py", "3") == ["step 0", "step 1", "step 2", "total"]
    first = place.run("script.py", "3")
    assert place.ran("script.py", "3") == []
    assert first.stdout == "6\n"
    assert "4 in a former run" in first.stderr
    assert place.ran("script.py", "4") == ["step 3", "total"]
    assert place.ran("--rerun", "script.py", "3") == ["step 0", "step 1", "step 2", "total"]
    assert place.ran("--no-store", "script.py", "3") == ["step 0", "step 1", "step 2", "total"]


def test_exactly_what_a_change_affects_runs_again(place: Place) -> None:
    place.run("script.py", "2")
    place.edit("def main", "# a comment\ndef main")
    assert place.ran("script.py", "2") == []
    place.edit("x + 1", "1 + x")  # other code, equal values: `total` need not run
    assert place.ran("script.py", "2") == ["step 0", "step 1"]
    place.edit("sum(values)", "sum(values) * 2")
    assert place.ran("script.py", "2") == ["total"]
    assert place.scalems("why") == "total#3 ([step#1, step#2])\n  the code: total\n"
    place.edit("1 + x", "2 + x")
    assert place.ran("script.py", "2") == ["step 0", "step 1", "total"]
    why = place.scalems("why")
    assert "the code: helper" in why
    assert "step#1 (0, 0.0), step#2 (1, 0.0) gave another value" in why


def test_results_are_of_the_classes_of_the_script_in_later_runs_too(place: Place) -> None:
    place.script.write_text("""
import dataclasses, enum
import beside, scalems

@dataclasses.dataclass(slots=True)
class Frame:
    number: int

class Color(enum.Enum):
    RED = 1

@scalems.task
def same(value):
    return value

@scalems.task(cache=False)
def known(value):
    return isinstance(value, (Frame, Color, beside.Point))

@scalems.app
def main():
    for value in (Frame(1), Color.RED, beside.Point(2)):
        future = same(value)
        back = future.result()
        print(back == value, type(back) is type(value), known(future).result())
""")
    (place.folder / "beside.py").write_text(
        "import dataclasses\n\n@dataclasses.dataclass\nclass Point:\n    x: int\n"
    )
    for reused in (0, 3):
        done = place.run("script.py")
        assert done.stdout == "True True True\n" * 3
        assert (f"({reused} in a former run)" in done.stderr) is bool(reused)


def test_another_environment_runs_all_again(place: Place, tmp_path: Path) -> None:
    place.run("script.py", "2")
    packages = tmp_path / "more" / "extra-1.0.dist-info"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    os.environ["PYTHONPATH"] = str(packages.parent)
    try:
        assert place.ran("script.py", "2") == ["step 0", "step 1", "total"]
    finally:
        del os.environ["PYTHONPATH"]
    assert "the environment: extra nothing became 1.0\n" in place.scalems("why")


def test_an_input_file_counts_by_its_content(place: Place) -> None:
    place.edit("step(i, pause)", "step(Path(f'in{i}'), pause)")
    place.edit("return helper(x)", "return len(x.read_text())")
    for index in range(2):
        (place.folder / f"in{index}").write_text("a")
    assert len(place.ran("script.py", "2")) == 3
    assert place.ran("script.py", "2") == []
    (place.folder / "in1").write_text("b")
    assert place.ran("script.py", "2") == ["step in1"]  # of the same length, so no `total`
    assert "the arguments: x: the content is another one" in place.scalems("why")


def test_tasks_that_are_not_to_be_kept_run_each_time(place: Place) -> None:
    place.edit("@scalems.task\ndef total", "@scalems.task(cache=False)\ndef total")
    place.run("script.py", "1")
    assert place.ran("script.py", "1") == ["total"]
    assert "not cached" in place.scalems("why")


def test_a_failure_is_run_again_and_shown(place: Place) -> None:
    place.edit("    return helper(x)", "    print('so far')\n    return 1 / x")
    # The app fails when both have ended, so that it is known how each has.
    place.edit(
        "    print(total([step(i, pause) for i in range(n)]).result())",
        "    steps = [step(i, pause) for i in range(n)]\n"
        "    scalems.wait(steps)\n    print(total(steps).result())",
    )
    place.run("script.py", "2", code=1)
    place.run("script.py", "2", code=1)
    (run, last) = place.json("runs")
    assert (run["failed"], run["state"]) == (2, "failed (1)")
    assert last["failed"] == 2
    shown = place.scalems("show", "1", "1")
    assert "ZeroDivisionError: " in shown
    assert "so far" in shown
    assert "step(0, 0.0)" in shown
    assert [task["id"] for task in place.json("show", "--failed")["tasks"]] == [1, 3]
    step, total = place.json("show", "--names")["names"]
    assert (step["name"], step["tasks"], step["done"], step["failed"]) == ("step", 2, 1, 1)
    assert step["reused"] == 1
    assert step["seconds"] == step["longest"] >= 0
    assert (total["tasks"], total["failed"], total["seconds"]) == (1, 1, 0)
    (row,) = [
        line for line in place.scalems("show", "1", "--names").splitlines() if "total" in line
    ]
    assert re.findall(r"\w+", row) == ["total", "1", "1"]  # none of it ran


def test_what_computes_when_the_app_fails_may_finish_and_is_kept(place: Place) -> None:
    place.edit(
        "    n, pause =",
        "    begun = step(7, 0.5)\n"
        "    while 'step 7' not in Path(LOG).read_text():\n        time.sleep(0.01)\n"
        "    if sys.argv[1:] == ['0']:\n        raise RuntimeError('wrong')\n"
        "    print(begun.result())\n    n, pause =",
    )
    failed = place.run("script.py", "0", code=1)
    assert "up to 5 s for what is computing to finish" in failed.stderr
    assert "the app failed: 1 done" in failed.stderr
    (place.folder / "log").write_text("step 7")
    assert place.run("script.py", "1").stdout == "8\n1\n"
    assert (place.folder / "log").read_text().count("step 7") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_was(place: Place, number: int) -> None:
    words = ("script.py", "30", "0.05")
    for finished in (5, 15):
        client = subprocess.Popen(
            place.argv(*words), cwd=place.folder, env=place.env, stderr=subprocess.DEVNULL
        )
        wait(lambda least=finished: results(place) >= least)
        client.send_signal(number)
        client.wait()
    kept = results(place)
    assert 15 <= kept < 30
    log = place.ran(*words)
    assert len(log) == 31 - kept
    if number == signal.SIGKILL:
        assert [run["state"] for run in place.json("runs")] == ["killed", "killed", "done"]
    assert place.ran(*words) == []


def results(place: Place) -> int:
    try:
        with sqlite3.connect(place.folder / ".scalems" / database.FILE) as opened:
            return int(opened.execute("SELECT count(*) FROM results").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_two_runs_at_once_share_a_store(place: Place) -> None:
    clients = [
        subprocess.Popen(
            place.argv("script.py", "100"), cwd=place.folder, env=place.env,
            stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [client.communicate()[0] for client in clients] == ["5050\n", "5050\n"]
    assert [run["state"] for run in place.json("runs")] == ["done", "done"]
    assert results(place) == 101
    assert place.ran("script.py", "100") == []


def test_large_values_are_files_that_are_verified(place: Place) -> None:
    place.edit("return helper(x)", "return bytes([x]) * 1_000_000")
    place.edit("sum(values)", "sum(map(len, values))")
    place.run("script.py", "2")
    files = list((place.folder / ".scalems" / "objects").glob("*/*"))
    assert len(files) == 2
    assert place.ran("script.py", "2") == []
    files[0].write_bytes(b"broken")
    assert len(place.ran("script.py", "2")) == 1
    assert "would remove 3 results and 2 files" in place.scalems("clean", "--all", "--dry-run")
    place.scalems("clean", "--all")
    assert not list((place.folder / ".scalems" / "objects").glob("*/*"))
    assert len(place.ran("script.py", "2")) == 3


def test_clean_leaves_what_is_used(place: Place) -> None:
    place.run("script.py", "2")
    assert place.json("clean", "--unused", "1h")["results"] == 0
    assert place.ran("script.py", "2") == []
    assert "is not an age" in place.scalems("clean", "--unused", "soon", code=ExitCode.USAGE)


def test_only_the_user_can_read_it(place: Place) -> None:
    place.run("script.py", "1")
    assert (place.folder / ".scalems").stat().st_mode & 0o077 == 0
    assert (place.folder / ".scalems" / database.FILE).stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_written_is_told(place: Place) -> None:
    (place.folder / ".scalems").write_text("a file")
    done = place.run("script.py", "1")
    assert "warning: no results are kept" in done.stderr
    done = place.run("--store", ".scalems", "script.py", "1", code=1)
    assert "--no-store" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_or_newer_store_is_told(place: Place) -> None:
    place.run("script.py", "1")
    file = place.folder / ".scalems" / database.FILE
    with sqlite3.connect(file) as opened:
        opened.execute(f"PRAGMA user_version={database.FORMAT + 1}")
    assert "newer version" in place.run("script.py", "1", code=ExitCode.USAGE).stderr
    file.write_bytes(b"not a database" * 100)
    for left in ("-wal", "-shm"):
        Path(f"{file}{left}").unlink(missing_ok=True)
    assert "no results are kept" in place.run("script.py", "1").stderr
    assert "it is damaged" in place.scalems("runs", code=1)


def test_wrong_numbers_are_told(place: Place) -> None:
    assert "run a workflow first" in place.scalems("runs", code=ExitCode.USAGE)
    place.run("script.py", "1")
    assert "the runs are 1 to 1" in place.scalems("show", "7", code=ExitCode.USAGE)
    assert "run 1 has no task 9" in place.scalems("why", "1", "9", code=ExitCode.USAGE)


def test_history_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store of results"):
        History(tmp_path)


@given(st.sets(st.binary(min_size=32, max_size=32), max_size=50), st.binary(min_size=32))
def test_the_filter_knows_what_it_was_given(keys, other):
    known = Filter()
    for key in keys:
        known.add(key.hex())
    assert all(key.hex() in known for key in keys)
    assert keys or other.hex() not in known


@pytest.mark.parametrize("order", [1, -1], ids=["same order", "reverse"])
def test_results_are_found_whatever_is_read_ahead(tmp_path, order):
    """A thousand tasks of a former run, asked for in its order and in another one."""

    def tasks(idents: range) -> list[bool]:
        found = []
        store = Store(tmp_path, warn=pytest.fail)
        store.begin(script="s", argv=[], backend="b", label="l", env="e")
        for ident in idents:
            identity = store.identify(abs, (ident,), {})
            store.submitted(ident, "abs", identity, (ident,), {})
            key, outcome = store.find(ident, identity, ())
            found.append(outcome is not None)
            if outcome is None:
                outcome = Outcome(
                    id=ident, ok=True, payload=b"%d" % ident, host="h", pid=1, started=0, ended=1
                )
                store.finished("abs", key, outcome, "", lambda: None)
            else:
                assert outcome.payload == b"%d" % ident
                store.reused(key, outcome)
        store.end(0)
        return found

    assert not any(tasks(range(1, 1201)))
    assert all(tasks(range(1, 1201)[::order]))


def test_results_of_a_run_at_the_same_time_are_found(tmp_path):
    """The filter is for one run alone."""
    stores = [Store(tmp_path, warn=pytest.fail) for _ in range(2)]
    for store in stores:
        store.begin(script="s", argv=[], backend="b", label="l", env="e")
    identities = [store.identify(abs, (-1,), {}) for store in stores]
    key, outcome = stores[0].find(1, identities[0], ())
    assert outcome is None
    durable = threading.Event()
    made = Outcome(id=1, ok=True, payload=b"1", host="h", pid=1, started=0, ended=1)
    stores[1].submitted(1, "abs", identities[1], (-1,), {})
    stores[1].finished("abs", key, made, "", durable.set)
    assert durable.wait(LIMIT)
    assert stores[0].find(1, identities[0], ())[1] is not None
    for store in stores:
        store.end(0)


def test_very_many_tasks_are_shown_in_part(place: Place) -> None:
    store = Store(place.folder / ".scalems", warn=pytest.fail)
    run = store.begin(script="s", argv=[], backend="b", label="l", env="e")
    for ident in range(1, 1102):
        store.submitted(ident, "abs", store.identify(abs, (ident,), {}), (ident,), {})
    store.ended(1101, "failed", "ValueError: no")
    store.end(0)
    shown = place.scalems("show", str(run))
    assert "abs(1000)" in shown
    assert "abs(1001)" not in shown
    assert "101 more tasks; --all shows them" in shown
    assert "abs(1101)" in place.scalems("show", "--all")
    assert "abs(1101)" in place.scalems("show", "--failed")
    listed = place.json("show")
    assert [task["id"] for task in listed["tasks"]] == [*range(1, 1102)]
    assert listed["names"][0]["tasks"] == 1101
    assert "and 1081 more tasks" in place.scalems("why")
