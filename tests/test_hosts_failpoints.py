"""kill -9 at every step of a sync over SSH, of the client and of the code on the host."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import left_over
from homes import Scalems, make_scalems
from sshd import FarHost, listening, make_host, require_sshd

from scalems.env import check
from scalems.env.check import Depth
from scalems.errors import ExitCode

FAR = "lab.cluster"
SYNC = ("env", "sync", "--resource", FAR)
HERE, THERE = "the client", "the code on the host"
STEPS = (
    (HERE, "far.connected"),
    (THERE, "shipped.written"),
    (HERE, "far.shipped"),
    (THERE, "far.housed"),
    (THERE, "build.begun"),
    (THERE, "build.venv"),
    (THERE, "build.installed"),
    (THERE, "build.compiled"),
    (THERE, "build.verified"),
    (THERE, "build.files"),
    (THERE, "build.manifest"),
    (HERE, "far.built"),
    (THERE, "definition.backup"),
    (THERE, "definition.written"),
    (THERE, "state.generation"),
    (THERE, "state.link"),
    (THERE, "state.switched"),
    (THERE, "state.written"),
    (HERE, "far.recorded"),
    (HERE, "definition.written"),
    (HERE, "state.written"),
)
"""In their order: each goes on from what the one before has left."""

pytestmark = [pytest.mark.ssh, pytest.mark.network]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarHost]:
    require_sshd()
    accept = "AcceptEnv SCALEMS_FAILPOINT SCALEMS_TESTING\n"
    folder = tmp_path_factory.mktemp("far")
    temporary = folder / "tmp"
    temporary.mkdir()
    host = make_host(folder / "host", settings=accept, TMPDIR=str(temporary))
    with listening(host):
        yield host


@pytest.fixture(scope="module")
def lab(far: FarHost, tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home with a host that gets its packages from here, where one build is in use."""
    made = far.of(make_scalems(tmp_path_factory.mktemp("lab")))
    (made.project / "resource-configs" / "lab.toml").write_text(
        '[cluster]\nextends = "local.localhost"\npilot = "pilot"\nhost = "lab"\noffline = true\n'
    )
    made.run(*SYNC)
    return made


def in_use(far: FarHost) -> Path:
    return (far.root / "current" / FAR / "pilot").resolve(strict=True)


def kill(lab: Scalems, far: FarHost, who: str, step: str) -> None:
    """Sync, and kill somebody at a step."""
    far.hang_up()  # what a connection sends is decided when it is made
    variables = {"SCALEMS_FAILPOINT": f"{step}:kill", "SCALEMS_TESTING": "1"}
    if who is HERE:
        done = lab.run(*SYNC, code=None, **variables)
        assert done.returncode == -signal.SIGKILL, (step, done.stdout, done.stderr)
        return
    # The client has them too, and would be next to come to the step.
    variables["SCALEMS_SSH"] = f"{lab.env['SCALEMS_SSH']} -o SendEnv=SCALEMS_*"
    done = lab.run(*SYNC, code=None, **variables)
    assert done.returncode in (ExitCode.FAILED, ExitCode.NOT_READY), (step, done.stderr)
    assert "ended" in done.stderr or "lost" in done.stderr, (step, done.stderr)
    assert "remedy: " in done.stderr


def nothing_runs_there(far: FarHost) -> None:
    limit = time.monotonic() + 60
    while far.processes() and time.monotonic() < limit:
        time.sleep(0.1)
    assert far.processes() == []


def nothing_bad_is_trusted(lab: Scalems, far: FarHost) -> None:
    """What RP, a run or a person would find, here and there, is a good build."""
    named = [path.parent for path in (far.root / "builds").glob("[!.]*/manifest.json")]
    named.append(in_use(far))
    for home in (lab.home, far.home):
        file = home / ".radical" / "pilot" / "configs" / "resource_lab.json"
        named.append(Path(json.loads(file.read_text())["cluster"]["virtenv"]).parent)
    for folder in set(named):
        assert check.inspect("pilot", folder, depth=Depth.DEEP) == []
    fast = lab.run("env", "check", "--resource", FAR, "--fast", code=None)
    assert fast.returncode in (ExitCode.DONE, ExitCode.NOT_READY)
    if fast.returncode == ExitCode.DONE:
        (report,) = lab.json("env", "check", "--resource", FAR, "--deep")
        assert report["ok"]


@pytest.mark.timeout(1500)  # two dozen syncs, and as many checks of every byte
def test_the_former_build_works_after_each_and_the_next_sync_mends_it(lab: Scalems, far: FarHost):
    first = in_use(far)
    spec = lab.project / "envs" / "pilot.toml"
    spec.write_text(spec.read_text() + 'constraints = ["idna<3.7"]\n')
    lab.run("env", "lock", "pilot")
    for who, step in STEPS:
        kill(lab, far, who, step)
        nothing_runs_there(far)
        nothing_bad_is_trusted(lab, far)
        subprocess.run([first / "venv" / "bin" / "python", "-I", "-c", "import zmq"], check=True)
    lab.run(*SYNC)
    second = in_use(far)
    assert second != first
    (report,) = lab.json("env", "check", "--resource", FAR, "--deep")
    assert report["ok"]
    builds = sorted(path for path in (far.root / "builds").iterdir() if path.is_dir())
    assert builds == sorted([first, second])
    there = dataclasses.replace(lab, home=far.home)
    assert [*left_over(lab), *left_over(there)] == []
    assert [*far.root.glob(".house-*"), *far.root.rglob("*.part")] == []
    assert [*(far.folder.parent / "tmp").glob("scalems-*")] == []
