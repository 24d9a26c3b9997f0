"""The view of a run, on a real terminal (a pseudo-terminal) and on none."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time

import pytest

from scalems import liveview
from scalems.liveview import LiveView, clock, last_failure
from scalems.workflow.graph import Graph

LIMIT = 120

SCRIPT = """
import os, sys, time, scalems

@scalems.task
def wait(number):
    while not os.path.exists("go"):
        time.sleep(0.02)
    return number

@scalems.task
def fail():
    raise ValueError("it broke")

@scalems.app
def main():
    fail().exception()
    futures = [wait(n) for n in range(3)]
    print("a line of the app")
    if "ask" in sys.argv:
        print("asked:", input("question? "))
    scalems.gather(futures)
    print("the last line")
"""


class Terminal:
    """A run whose standard streams are a terminal, all or only some of them."""

    def __init__(self, folder, *words, options=(), **streams):
        (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
        self.folder = folder
        self.master, slave = pty.openpty()
        defaults = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scalems.local", *options, "script.py", *words],
            cwd=folder,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "24"},
            **{**defaults, **streams},
        )
        os.close(slave)
        self.text = ""

    def read_until(self, pattern):
        limit = time.monotonic() + LIMIT
        while not re.search(pattern, self.text):
            assert time.monotonic() < limit, self.text
            self.text += os.read(self.master, 10_000).decode()

    def end(self):
        (self.folder / "go").touch()
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(self.master, 10_000):
                self.text += data.decode()
        os.close(self.master)
        assert self.process.wait(LIMIT) == 0
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)


def test_terminal(tmp_path):
    run = Terminal(tmp_path, options=["-j", "2"])
    run.read_until("1/4")
    run.read_until("last failure: fail#1: ValueError: it broke")
    text = run.end()
    assert re.search(r"local 0:00:0\d processes 2", text)
    assert "3 submitted, 1 failed" in text
    assert "a line of the app\r\n" in text
    assert re.search(r"the last line\r\n(.*\r)?.*scalems: 3 done, 1 failed in", text, re.DOTALL)
    assert run.text.count("\x1b[?25l") == run.text.count("\x1b[?25h")  # the cursor is back


def test_view_stands_back_while_the_app_asks(tmp_path):
    run = Terminal(tmp_path, "ask")
    run.read_until(r"question\? ")
    assert run.text.endswith("question? ")
    # It would draw eight times a second.
    assert select.select([run.master], [], [], 0.5)[0] == []
    os.write(run.master, b"an answer\n")
    run.read_until("asked: an answer")
    run.end()


def test_output_in_a_file_stays_there(tmp_path):
    with (tmp_path / "out").open("w") as out:
        run = Terminal(tmp_path, stdout=out)
        run.read_until("1/4")
        text = run.end()
    assert (tmp_path / "out").read_text() == "a line of the app\nthe last line\n"
    assert "the last line" not in text


def test_quiet_shows_nothing(tmp_path):
    run = Terminal(tmp_path, options=["-q"])
    assert run.end() == "a line of the app\r\nthe last line\r\n"


# --- no terminal ----------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(liveview, "INTERVAL", 0.01)


class Told(list):
    """Collects what is printed to it."""

    def write(self, text):
        self.append(text)

    def flush(self):
        pass

    def isatty(self):
        return False


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


class Still:
    """A backend that never answers."""

    label = name = "still"

    def start(self):
        pass

    def submit(self, call, done):
        pass

    def cancel(self, call_id):
        return True

    def close(self, *, abort=False):
        pass


def test_plain_lines_only_when_something_changed(often, monkeypatch):
    told = Told()
    monkeypatch.setattr(sys, "stderr", told)
    graph = Graph(Still())
    with LiveView() as view:
        view.notify("pilot PMGR_ACTIVE")
        assert "".join(told) == "scalems: pilot PMGR_ACTIVE\n"
        view.watch(graph)
        futures = [graph.submit(len, ([],), {}, name="len") for _ in range(2)]
        until(lambda: "0/2 tasks: 2 submitted\n" in "".join(told))
        futures[0].cancel()
        until(lambda: "1/2 tasks: 1 submitted, 1 cancelled\n" in "".join(told))
        lines = len(told)
    assert len(told) == lines
    assert "".join(told).count("1 cancelled") == 1


def test_quiet_prints_no_lines(often, monkeypatch):
    told = Told()
    monkeypatch.setattr(sys, "stderr", told)
    with LiveView(quiet=True) as view:
        view.notify("pilot PMGR_ACTIVE")
    assert told == []


def test_no_failure_is_no_line():
    assert last_failure(Graph(Still())) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (61.9, "0:01:01"), (36_000, "10:00:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
