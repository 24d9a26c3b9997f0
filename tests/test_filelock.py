"""Locks: who holds one is told, and where the file system has none, a claim stands in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from homes import debian
from hypothesis import given
from hypothesis import strategies as st

from scalems.host import claim, filelock
from scalems.host.process import Identity, lives, myself

HOLDER = """
import sys, subprocess
from pathlib import Path
from scalems.host import claim, filelock
lock = {"claim": claim, "flock": filelock}[sys.argv[1]]
with lock.hold(Path(sys.argv[2]), on_wait=lambda who: print("waits for", who, flush=True)) as held:
    if sys.argv[3:]:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[held])
        print(child.pid)
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(kind: str, path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that wants a lock."""
    argv = [sys.executable, "-c", HOLDER, kind, str(path), *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(argv, text=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


@pytest.mark.parametrize("kind", ["claim", "flock"])
def test_the_second_is_told_of_the_first_and_gets_it_next(tmp_path: Path, kind: str):
    path = tmp_path / "lock"
    with holder(kind, path) as first:
        assert line(first) == "holds"
        with holder(kind, path) as second:
            assert line(second).startswith(f"waits for process {first.pid} since ")
            first.communicate("")
            assert line(second) == "holds"
            second.communicate("")
    assert [one.name for one in tmp_path.iterdir() if one.name != "lock"] == []


@pytest.mark.parametrize("kind", ["claim", "flock"])
def test_what_a_killed_one_held_is_free(tmp_path: Path, kind: str):
    path = tmp_path / "lock"
    with holder(kind, path) as first:
        assert line(first) == "holds"
        first.kill()
        first.wait()
        with holder(kind, path) as second:
            assert line(second) == "holds"


@pytest.mark.parametrize("kind", ["claim", "flock"])
def test_a_command_that_a_killed_one_started_still_holds_it(tmp_path: Path, kind: str):
    path = tmp_path / "lock"
    with holder(kind, path, "with a child") as first:
        child = int(line(first))
        assert line(first) == "holds"
        first.kill()
        first.wait()
        with holder(kind, path) as second:
            assert line(second).startswith("waits for ")
            assert lives(child)
            os.kill(child, signal.SIGKILL)
            assert line(second) == "holds"


def test_of_many_one_at_a_time_has_a_claim(tmp_path: Path):
    code = """
        import sys
        from pathlib import Path
        from scalems.host import claim
        count = Path(sys.argv[1]) / "count"
        for _ in range(15):
            with claim.hold(Path(sys.argv[1]) / "lock"):
                count.write_text(str(int(count.read_text()) + 1))
    """
    (tmp_path / "count").write_text("0")
    argv = [sys.executable, "-c", dedent(code), str(tmp_path)]
    many = [subprocess.Popen(argv) for _ in range(6)]
    assert [one.wait() for one in many] == [0] * 6
    assert (tmp_path / "count").read_text() == "90"
    assert [one.name for one in tmp_path.iterdir()] == ["count"]


def claimed_by(path: Path, owner: Identity, *, renewed: float) -> Path:
    place = path.with_name(f"{path.name}.claim")
    data = {"token": "t", **owner.to_dict(), "since": time.time()}
    place.write_text(json.dumps(data))
    os.utime(place, (renewed, renewed))
    return place


def someone(**changed: object) -> Identity:
    return Identity.from_dict({**myself().to_dict(), **changed})


@pytest.mark.parametrize(
    ("changed", "age", "stale"),
    [
        ({"host": "elsewhere"}, 1, False),
        ({"host": "elsewhere"}, claim.LIMIT * 2, True),
        ({"space": "other boot"}, 1, True),
        ({"pid": 2**22 + 1}, 1, True),
        ({"started": "1"}, 1, True),  # the number is another process's by now
        ({}, claim.LIMIT * 2, False),  # it is stopped, but it lives
    ],
)
def test_when_a_claim_is_stale(tmp_path: Path, changed, age: float, stale: bool):
    place = claimed_by(tmp_path / "lock", someone(**changed), renewed=time.time() - age)
    assert claim.is_held(place) is not stale
    assert place.exists() is not stale


def test_a_claim_that_is_renewed_elsewhere_is_not_broken_by_a_jump_of_this_clock(tmp_path: Path):
    place = claimed_by(tmp_path / "lock", someone(host="elsewhere"), renewed=time.time() + 9e5)
    assert claim.is_held(place)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["token", "host", "space", "pid", "started", "since"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_in_a_lock_file_or_claim_it_can_be_read(tmp_path_factory, raw: bytes):
    folder = tmp_path_factory.mktemp("lock")
    (folder / "lock").write_bytes(raw)
    (folder / "other.claim").write_bytes(raw)
    with filelock.hold(folder / "lock"):
        pass
    assert not claim.is_held(folder / "other.claim") or b"token" in raw
    with (folder / "lock").open("rb+") as stream:
        stream.truncate(0)
        stream.write(raw)
        stream.flush()
        assert isinstance(filelock._holder(stream.fileno()), str)
    shutil.rmtree(folder)


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_where_the_file_system_cannot_lock(tmp_path: Path, error: str):
    debian("strace")
    inject = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"inject=flock:error={error}"]
    argv = [*inject, sys.executable, "-c", HOLDER, "flock", str(tmp_path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **pipes) as first:
        assert line(first) == "holds"
        assert (tmp_path / "lock.claim").exists()
        with subprocess.Popen(argv, text=True, **pipes) as second:
            assert line(second).startswith("waits for process ")
            first.communicate("")
            assert line(second) == "holds"
            second.communicate("")


def test_which_mounts_keep_locks_to_one_host(tmp_path: Path):
    device = tmp_path.stat().st_dev
    where = f"1 1 {os.major(device)}:{os.minor(device)} / {tmp_path} rw shared:1"
    for kind, options, expected in (
        ("nfs4", "rw,vers=4.2,local_lock=none", True),
        ("nfs", "rw,vers=3,local_lock=none", False),
        ("nfs", "rw,vers=3,local_lock=flock", False),
        ("nfs", "rw,vers=3,nolock,local_lock=all", False),
        ("lustre", "rw,flock", True),
        ("lustre", "rw,localflock", False),
        ("cifs", "rw,nobrl", False),
        ("fuse.sshfs", "rw,user_id=0", False),
        ("fuse.fuse-overlayfs", "rw", True),
        ("ext4", "rw", True),
    ):
        mounts = tmp_path / "mountinfo"
        mounts.write_text(f"0 0 0:1 / / rw - tmpfs none rw\n{where} - {kind} a:/x {options}\n")
        assert claim.mount_of(tmp_path, mounts=mounts).seen_by_all is expected, (kind, options)
