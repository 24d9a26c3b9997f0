"""`scalems doctor` finds what is wrong with a machine; each fault here is a real one."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from homes import LABEL, Scalems, changed, debian, in_namespace, tree
from hypothesis import given
from hypothesis import strategies as st

from scalems.doctor import Verdict, places, quota
from scalems.errors import ExitCode


def found(made: Scalems, *, code: int | None = 0, **env: str) -> dict[str, dict[str, str]]:
    return {one["subject"]: one for one in made.json("doctor", code=code, **env)}


def test_nothing_here_stops_a_run_and_nothing_is_changed(scalems: Scalems):
    before = tree(scalems.home)
    assert "error" not in {one["verdict"] for one in found(scalems).values()}
    assert changed(before, tree(scalems.home)) == []
    text = scalems.run("doctor", "--quiet").stdout
    assert not any(line.startswith("good") for line in text.splitlines())


def test_variables_that_leak(scalems: Scalems):
    one = found(scalems, PYTHONPATH="/nowhere")["PYTHONPATH"]
    assert (one["verdict"], one["remedy"]) == ("warning", "unset PYTHONPATH")


def test_a_user_site_that_shadows(scalems: Scalems):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = scalems.home / ".local" / "lib" / version / "site-packages"
    (site / "radical.pilot-1.60.0.dist-info").mkdir(parents=True)
    one = found(scalems)["user site"]
    assert one["verdict"] == "warning"
    assert "radical-pilot 1.60.0" in one["detail"]


def test_a_low_limit(scalems: Scalems):
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))

    done = subprocess.run(
        scalems.argv("doctor"), env=scalems.env, preexec_fn=lower, capture_output=True, text=True
    )
    assert "limit of open files: 256; RADICAL-Pilot needs 1024" in done.stdout
    assert "remedy: ulimit -n 1024" in done.stdout


def test_an_interface_that_is_not_there(scalems: Scalems):
    one = found(scalems, RADICAL_DEFAULT_IFACE="lO")["interface"]
    assert one["verdict"] == "warning"
    assert "did you mean 'lo'?" in one["detail"]
    one = found(scalems, RADICAL_DEFAULT_IFACE="lo")
    assert one["interface"]["verdict"] == "good"
    assert "127.0.0.1, which RADICAL-Pilot takes" in one["ports"]["detail"]


@pytest.mark.parametrize(
    ("folder", "env", "verdict", "told"),
    [
        ("$HOME/work", {}, "good", "GiB free in {home}/work"),
        ("$SCRATCH/me", {}, "error", "names $SCRATCH, which is not set here"),
        ("$SCRATCH/me", {"SCRATCH": "/etc/passwd"}, "error", "/etc/passwd cannot be written"),
        ("/scratch/%(pd.project)s", {}, None, ""),
    ],
)
def test_where_sandboxes_go(small_home: Scalems, tmp_path: Path, folder, env, verdict, told):
    configs = tmp_path / ".radical" / "pilot" / "configs"
    configs.mkdir(parents=True)
    definition = {"localhost": {"default_remote_workdir": folder}}
    (configs / "resource_local.json").write_text(json.dumps(definition))
    there = found(small_home, code=None, RADICAL_CONFIG_USER_DIR=str(tmp_path), **env)
    one = there.get(f"sandboxes of {LABEL}")
    if verdict is None:
        assert one is None
    else:
        assert one is not None
        assert one["verdict"] == verdict
        assert told.format(home=small_home.home) in one["detail"]


KIB = st.integers(0, 2**40)


@given(
    rows=st.lists(st.tuples(KIB, KIB, KIB, KIB, KIB, KIB, st.booleans())),
    noise=st.text(alphabet=st.characters(exclude_categories=["Nd", "Cs"])),
)
def test_what_quota_prints(rows, noise):
    lines = ["Disk quotas for user me (uid 1000): ", noise]
    lines += [
        f"  /m {number} {used}{'*' * over} {soft} {hard} - {had} {few} {most} 0"
        for number, (used, soft, hard, had, few, most, over) in enumerate(rows)
    ]
    expected = []
    for number, (used, soft, hard, had, few, most, _) in enumerate(rows):
        limits, counts = [n for n in (soft, hard) if n], [n for n in (few, most) if n]
        room = max(min(limits) - used, 0) * 1024 if limits else None
        files = max(min(counts) - had, 0) if counts else None
        expected.append(quota.Quota(mount=f"/m {number}", room=room, files=files))
    assert list(quota.read("\n".join(lines))) == expected


@given(st.text())
def test_no_text_is_too_much_for_it(text):
    list(quota.read(text))


@pytest.mark.parametrize(
    ("line", "verdict", "told"),
    [
        ("/home 9999999* 9000000 10000000 6days 10 0 0 0", "error", "0.0 GiB left"),
        ("/home 9000000 0 10000000 0 10 0 0 0", "warning", "1.0 GiB left"),
        ("/home 1 0 0 0 200* 100 200 6days", "error", "0 files left"),
        ("/home 1 0 100000000 0 1 0 1000000 0", "good", "95.4 GiB and 999999 files left"),
    ],
)
def test_what_a_quota_leaves(scalems: Scalems, tmp_path: Path, line, verdict, told):
    command = tmp_path / "quota"
    command.write_text(f"#!/bin/sh\necho 'Disk quotas for user me:'\necho '{line}'\nexit 1\n")
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    one = found(scalems, code=None, PATH=path)["quota in /home"]
    assert one["verdict"] == verdict
    assert told in one["detail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_real_quota_that_is_used_up(tmp_path: Path):
    debian("mkfs.btrfs", "btrfs-progs")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    image.touch()
    os.truncate(image, 512 * 2**20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        assert quota.reserve(mount) is None
        for argv in (["quota", "enable", mount], ["qgroup", "limit", "50M", mount]):
            subprocess.run(["btrfs", *argv], check=True, capture_output=True)
        assert quota.reserve(mount) == errno.EDQUOT
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", mount], check=True)


def test_places_that_are_full_or_cannot_be_written(scalems: Scalems):
    done = in_namespace(
        'mount -t tmpfs -o size=1m none "$HOME"', scalems.argv("doctor", "-q"), scalems
    )
    assert done.returncode == ExitCode.NOT_READY
    assert "error    place of builds: 0.0 GiB free" in done.stdout
    assert "SCALEMS_HOME" in done.stdout
    if os.geteuid():
        scalems.home.chmod(0o500)
        assert found(scalems, code=None)["place of builds"]["verdict"] == "error"


def test_a_batch_system_that_is_not_there(scalems: Scalems):
    root = scalems.root / "resources"
    root.mkdir(parents=True)
    (root / "access.bridges2.json").write_text("{}")
    one = found(scalems, code=ExitCode.NOT_READY, PATH="/nowhere")
    assert "sinfo is not on PATH" in one["batch system of access.bridges2"]["detail"]


@pytest.mark.parametrize(
    ("body", "verdict", "told"),
    [
        ("exit 0", "good", "sinfo answers"),
        ("echo no such cluster >&2; exit 1", "error", "sinfo failed: no such cluster"),
    ],
)
def test_what_a_batch_system_says(scalems: Scalems, tmp_path: Path, body, verdict, told):
    root = scalems.root / "resources"
    root.mkdir(parents=True)
    (root / "access.bridges2.json").write_text("{}")
    command = tmp_path / "sinfo"
    command.write_text(f"#!/bin/sh\n{body}\n")
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    one = found(scalems, code=None, PATH=path)["batch system of access.bridges2"]
    assert (one["verdict"], one["detail"]) == (verdict, told)


def test_processes_that_were_left_over(scalems: Scalems):
    # A grandchild whose parent has ended belongs to init, as an agent does that outlived all.
    child = [sys.executable, "-c", "import sys; sys.stdin.read()", "radical-pilot-agent_0"]
    code = f"import subprocess; print(subprocess.Popen({child!r}, stdout=2).pid)"
    reader, writer = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=reader, stdout=subprocess.PIPE, text=True
    )
    os.close(reader)
    pid = done.stdout.strip()
    try:
        shown = found(scalems)["processes"]
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        if parent != "1":
            pytest.skip("something here adopts orphans instead of init")
        assert pid in shown["remedy"].split()
    finally:
        os.close(writer)


def test_the_clock_of_the_home(scalems: Scalems, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALEMS_HOME", str(scalems.home))
    (here,) = places.clock()
    assert here.verdict is Verdict.GOOD
    ahead = time.time() + 3600
    monkeypatch.setattr(places.time, "time", lambda: ahead)
    (here,) = places.clock()
    assert here.verdict is Verdict.WARNING
