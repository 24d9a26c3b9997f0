"""Kept results that were spoilt are computed again, kills lose nothing, and tags find tasks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scalems.store import database
from scalems.workflow.file import OBJECTS

SCRIPT = """
import os
import scalems

def log(word):
    with open(os.environ["LOG"], "a") as log:
        log.write(word + "\\n")

@scalems.task(tags=["cheap", "first"])
def small(x):
    log("small")
    return f"a value of {x}"

@scalems.task(tags=["costly"])
def big(x):
    log("big")
    return bytes([x]) * 1_000_000

@scalems.app
def main():
    print(small(1).result(), sum(big(2).result()))
"""
ANSWER = "a value of 1 2000000"

#: The failpoints of keeping a result.
KEEPING = ("store.written", "store.committed", "store.object.written", "store.object.kept")


class Place:
    """A folder with a script and its store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT)

    def run(self, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "LOG": str(self.folder / "log"), "SCALEMS_TESTING": "1"}
        if failpoint:
            env["SCALEMS_FAILPOINT"] = f"{failpoint}:kill"
        argv = [sys.executable, "-m", "scalems.local", "-j", "1", "script.py"]
        return self._done(argv, env)

    def json(self, *words: str) -> Any:
        done = self._done([sys.executable, "-m", "scalems", *words, "--json"], None)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def calls(self) -> list[str]:
        """Return what has run since this was asked last."""
        log = self.folder / "log"
        words = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return words

    def change(self, statement: str, *values: object) -> None:
        store = sqlite3.connect(self.folder / database.FOLDER / database.FILE)
        with store:
            store.execute(statement, values)
        store.close()

    def _done(self, argv: list[str], env: dict[str, str] | None) -> Any:
        return subprocess.run(
            argv, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_was_spoilt_is_computed_again(place: Place) -> None:
    assert place.run().stdout.strip() == ANSWER
    assert sorted(place.calls()) == ["big", "small"]
    store = sqlite3.connect(place.folder / database.FOLDER / database.FILE)
    (payload,) = store.execute("SELECT payload FROM results WHERE name='small'").fetchone()
    store.close()
    spoilt = bytearray(payload)
    spoilt[payload.index(b"value")] ^= 1
    place.change("UPDATE results SET payload=? WHERE name='small'", bytes(spoilt))
    assert place.run().stdout.strip() == ANSWER
    assert place.calls() == ["small"]

    (kept,) = [p for p in (place.folder / ".scalems" / OBJECTS).rglob("*") if p.is_file()]
    right = kept.read_bytes()
    kept.chmod(0o644)
    kept.write_bytes(right[:-1] + b"\x07")
    assert place.run().stdout.strip() == ANSWER
    assert place.calls() == ["big"]
    assert kept.read_bytes() == right
    assert place.run().stdout.strip() == ANSWER
    assert place.calls() == []


@pytest.mark.parametrize("failpoint", KEEPING)
def test_a_kill_at_any_step_of_keeping_loses_nothing(place: Place, failpoint: str) -> None:
    assert place.run(failpoint).returncode == -signal.SIGKILL
    store = sqlite3.connect(place.folder / database.FOLDER / database.FILE)
    kept = {name for (name,) in store.execute("SELECT name FROM results")}
    store.close()
    if failpoint == "store.committed":
        assert kept
    place.calls()
    assert place.run().stdout.strip() == ANSWER
    assert not kept & {*place.calls()}
    assert place.run().stdout.strip() == ANSWER
    assert place.calls() == []


def test_tags_find_tasks_and_their_runs(place: Place) -> None:
    place.run()
    assert [task["name"] for task in place.json("show", "--tag", "first")["tasks"]] == ["small"]
    assert [task["name"] for task in place.json("show", "--tag", "costly")["tasks"]] == ["big"]
    assert place.json("show", "--tag", "cost")["tasks"] == []  # words, not parts of them
    assert [run["run"] for run in place.json("runs", "--tag", "cheap")] == [1]
    assert place.json("runs", "--tag", "other") == []
    named = place.json("show", "--names", "--tag", "first")["names"]
    assert [one["name"] for one in named] == ["small"]


def test_a_store_of_format_3_is_used_on(place: Place) -> None:
    place.run()
    place.calls()
    place.change("ALTER TABLE tasks DROP COLUMN tags")
    place.change("ALTER TABLE results DROP COLUMN crc")
    place.change("PRAGMA user_version=3")
    assert place.run().stdout.strip() == ANSWER
    assert place.calls() == []
    assert place.json("runs", "--tag", "costly")[0]["run"] == 2


DEPENDS = """
import sys
import scalems

@scalems.task
def left(x):
    return x

@scalems.task(cache=False)
def right(x):
    return sys.argv[1]

@scalems.task
def join(a, parts):
    return [a, *parts]

@scalems.app
def main():
    print(join(left(1), [right(3), left(2)]).result())
"""


def test_why_names_the_task_that_gave_another_value(place: Place) -> None:
    (place.folder / "script.py").write_text(DEPENDS.replace("sys.argv[1]", "'a'"))
    place.run()
    assert place.json("why", "1", "4")[0]["why"][0]["what"] == "it is new"
    (place.folder / "script.py").write_text(DEPENDS.replace("sys.argv[1]", "'b'"))
    place.run()
    found = place.json("why", "2", "4")[0]["why"]
    assert [one["what"] for one in found] == ["what it depends on"]
    assert found[0]["detail"] == "right#2 (3) gave another value"
