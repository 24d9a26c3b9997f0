"""What the kernel counts of processes that it has ended for want of memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


# --- a real one -----------------------------------------------------------------------------

LIMIT = 400 << 20  # bytes: for a client, a call process, and what each starts
SCRIPT = """
import os, sys
import scalems

@scalems.task
def allocate(bytes):
    return len(b"x" * bytes)

@scalems.app
def main():
    print(allocate(1 << 30).exception())
    print(allocate(1000).result())
"""


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a control group whose processes have no more memory together than this.

    It is a child of the group of this process (v1), or of the root that is seen here (v2).
    """
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((path for _, names, path in lines if "memory" in names.split(",")), None)
    root = Path("/sys/fs/cgroup")
    base = root if own is None else root / "memory" / own.lstrip("/")
    if own is not None and not base.is_dir():
        base = root / "memory"
    group = base / f"scalems-test-{os.getpid()}"
    try:
        if own is None:
            (root / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of memory can be made here: {error}")
    try:
        if own is None:
            (group / "memory.max").write_text(str(limit))
        else:
            (group / "memory.limit_in_bytes").write_text(str(limit))
        for name in ("memory.swap.max", "memory.swappiness"):
            if (group / name).exists():
                (group / name).write_text("0")
        yield group
    finally:
        end = time.monotonic() + 60
        while pids := (group / "cgroup.procs").read_text().split():
            assert time.monotonic() < end
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        group.rmdir()


def test_a_call_that_the_kernel_ends_for_want_of_memory_is_named_as_such(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with memory_group(LIMIT) as group:
        enter = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        words = [sys.executable, "-m", "scalems.local", "-j", "1", "--no-store", str(script)]
        done = subprocess.run(
            ["sh", "-c", enter, "sh", *words], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    told, after = done.stdout.splitlines()
    assert "SIGKILL: out of memory, by the kernel" in told
    assert after == "1000"
