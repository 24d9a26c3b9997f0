"""`scalems doctor` finds what is wrong with a machine; each fault here is a real one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from homes import Scalems, changed, in_namespace, tree

from scalems import doctor
from scalems.doctor import Verdict
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
    (here,) = doctor._clock()
    assert here.verdict is Verdict.GOOD
    ahead = time.time() + 3600
    monkeypatch.setattr(doctor.time, "time", lambda: ahead)
    (here,) = doctor._clock()
    assert here.verdict is Verdict.WARNING
