"""Damaged files, full disks, other clocks, many at once: told, never trusted, and mended."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from faults import (
    FOREIGN,
    builds,
    foreign_is_kept,
    left_over,
    nothing_bad_is_trusted,
    processes_of,
)
from homes import LABEL, Scalems, debian, in_namespace, make_scalems

from scalems.errors import ExitCode

pytestmark = pytest.mark.network

SYNC = ("env", "sync", "--resource", LABEL)
SEED = 4


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home that was synced, and that tests damage."""
    made = make_scalems(tmp_path_factory.mktemp("damaged"))
    made.definition.parent.mkdir(parents=True)
    made.definition.write_text(FOREIGN)
    made.sync()
    return made


def the_next_sync_mends_it(made: Scalems) -> None:
    made.sync()
    assert made.check("--deep")["ok"]
    assert builds(made) == [made.build("pilot")]
    assert made.sync()["envs"][0]["action"] == "unchanged"
    assert left_over(made) == []
    assert processes_of(made) == []
    foreign_is_kept(made)


def damages(body: bytes) -> list[bytes]:
    """A file that was cut off, emptied, overwritten, and that has one bit turned."""
    chance = random.Random(SEED)
    flipped = []
    for _ in range(4):
        place = chance.randrange(len(body))
        turned = bytes([body[place] ^ 1 << chance.randrange(8)])
        flipped.append(body[:place] + turned + body[place + 1 :])
    return [b"", body[: len(body) // 2], body[:-2], b"\0" * len(body), b"[" * 5000, *flipped]


def state_files(made: Scalems) -> dict[str, Path]:
    root, build = made.root, made.build("pilot")
    return {
        "state": root / "resources" / f"{LABEL}.json",
        "generation": root / "generations" / LABEL / "1.json",
        "manifest": build / "manifest.json",
        "files": build / "files.json",
        "a lock that nobody holds": root / "sync.lock",
    }


@pytest.mark.parametrize(
    "name", ["state", "generation", "manifest", "files", "a lock that nobody holds"]
)
def test_a_damaged_file_of_the_state_folder(used: Scalems, name: str):
    path = state_files(used)[name]
    body = path.read_bytes() or b"{}"
    told = set()
    for damaged in damages(body):
        path.write_bytes(damaged)
        done = used.run("env", "check", code=None)
        assert done.returncode in (ExitCode.DONE, ExitCode.USAGE, ExitCode.NOT_READY)
        told.add(done.returncode)
        used.run("env", "list")
        used.run("env", "gc", "--dry-run")
    assert (told == {ExitCode.DONE}) == (name in ("generation", "a lock that nobody holds"))
    the_next_sync_mends_it(used)
    assert len(list((used.root / "generations" / LABEL).iterdir())) == 1 or name == "generation"


def test_a_damaged_file_of_rp_is_left_to_its_owner(used: Scalems):
    body = used.definition.read_bytes()
    for damaged in damages(body)[1:5]:
        used.definition.write_bytes(damaged)
        for words in (("env", "check"), SYNC, ("resource", "check")):
            done = used.run(*words, code=None)
            assert done.returncode in (ExitCode.USAGE, ExitCode.NOT_READY), words
            assert str(used.definition) in done.stderr + done.stdout
        assert used.definition.read_bytes() == damaged
    used.definition.write_bytes(body)
    the_next_sync_mends_it(used)


def test_a_damaged_lock_is_named_by_line(used: Scalems):
    lock = used.project / "envs" / "pilot.lock.txt"
    body = lock.read_bytes()
    for damaged in (body[: len(body) // 2], body.replace(b"--hash=sha256:", b"", 1), b"\xff\xfe"):
        lock.write_bytes(damaged)
        done = used.run(*SYNC, code=None)
        if done.returncode:
            assert done.returncode in (ExitCode.USAGE, ExitCode.FAILED)
            assert "remedy: " in done.stderr
        assert used.run("env", "check", code=None).returncode in (0, ExitCode.NOT_READY)
    lock.write_bytes(body)
    the_next_sync_mends_it(used)


def test_a_damaged_wheel_of_scalems_is_packed_again(used: Scalems):
    (wheel,) = (used.root / "wheels").rglob("*.whl")
    wheel.write_bytes(wheel.read_bytes()[:1000])
    shutil.rmtree(used.build("pilot"))
    the_next_sync_mends_it(used)


def test_links_and_folders_that_are_gone(used: Scalems):
    for path in (used.root / "current", used.root / "generations", used.root / "backups"):
        shutil.rmtree(path)
        nothing_bad_is_trusted(used)
        the_next_sync_mends_it(used)


def test_a_clock_that_jumps(used: Scalems):
    faketime = debian("faketime")
    # Built in the past, looked at today, and in the future.
    shutil.rmtree(used.build("pilot"))
    argv = [faketime, "-f", "-2d", *used.argv(*SYNC)]
    done = subprocess.run(argv, cwd=used.project, env=used.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert used.check("--deep")["ok"]
    argv = [faketime, "-f", "+4000d", *used.argv("env", "check", "--deep")]
    done = subprocess.run(argv, cwd=used.project, env=used.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    the_next_sync_mends_it(used)


def test_files_of_the_future(used: Scalems):
    for path in used.build("pilot").rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (4e9, 4e9))
    assert used.check(code=ExitCode.NOT_READY)["findings"]
    the_next_sync_mends_it(used)


def test_a_disk_that_is_full_beside_an_environment_in_use(tmp_path: Path):
    """The former environment goes on working; with room again, so does the next sync."""
    made = make_scalems(tmp_path)
    sync, check = (" ".join(made.argv(*words)) for words in (SYNC, ("env", "check", "--deep")))
    script = f"""
        set -e
        {sync} --quiet
        former=$(readlink {made.root}/current/{LABEL}/pilot)
        printf 'constraints = ["idna<3.7"]\\n' >> envs/pilot.toml
        {" ".join(made.argv("env", "lock", "pilot", "--quiet"))} >&2
        used=$(du -sk "$HOME" | cut -f1)
        for more in 100 3000 9000; do
            mount -o remount,size=$((used + more))k "$HOME"
            {sync} >&2 && exit 90
            test "$(readlink {made.root}/current/{LABEL}/pilot)" = "$former"
            $former/venv/bin/python -I -B -c 'import cloudpickle, zmq'
            {check} --json | grep -c '"kind": "spec changed since the sync"'
        done
        mount -o remount,size=1g "$HOME"
        {sync} --quiet
        {check} --quiet
    """
    done = in_namespace('mount -t tmpfs none "$HOME"', ["sh", "-c", script], made)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1", "1"]
    assert len(re.findall("the disk is full|No space left on device", done.stderr)) >= 3


def together(made: Scalems, argvs: list[list[str]]) -> list[dict[str, object]]:
    """Run commands at once; all must succeed."""
    running = [
        subprocess.Popen(
            argv,
            cwd=made.project,
            env=made.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argv in argvs
    ]
    ended = [one.communicate() for one in running]
    assert [one.returncode for one in running] == [0] * len(running), ended
    return [json.loads(out) for out, _ in ended]


def two_resources(made: Scalems) -> None:
    config = made.project / "resource-configs" / "local.toml"
    text = config.read_text()
    config.write_text(f"{text}\n{text.replace('[localhost]', '[second]')}")


def test_eight_at_once_make_one_build(scalems: Scalems):
    scalems.definition.parent.mkdir(parents=True)
    scalems.definition.write_text(FOREIGN)
    two_resources(scalems)
    labels = [LABEL, "local.second"] * 4
    results = together(
        scalems, [scalems.argv("env", "sync", "--resource", one, "--json") for one in labels]
    )
    actions = [result["envs"][0]["action"] for result in results]
    assert actions.count("built") == 1
    assert set(actions) <= {"built", "reused", "unchanged"}
    assert len(builds(scalems)) == 1
    assert all(report["ok"] for report in scalems.json("env", "check", "--deep"))
    foreign_is_kept(scalems)
    assert left_over(scalems) == []


def test_several_at_once_where_the_file_system_has_no_locks(scalems: Scalems):
    strace = debian("strace")
    two_resources(scalems)
    no_locks = [strace, "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null"]
    no_locks += ["-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"]
    for path in (scalems.root / "sync.lock", scalems.root / "definition.lock"):
        no_locks += ["-P", str(path)]  # uv cannot do without a lock on its cache
    labels = [LABEL, "local.second", LABEL]
    argvs = [scalems.argv("env", "sync", "--resource", one, "--json") for one in labels]
    results = together(scalems, [[*no_locks, *argv] for argv in argvs])
    actions = [result["envs"][0]["action"] for result in results]
    assert actions.count("built") == 1
    assert len(builds(scalems)) == 1
    assert list(scalems.root.rglob("*.claim")) == []
    assert all(report["ok"] for report in scalems.json("env", "check", "--deep"))
