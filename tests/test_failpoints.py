"""kill -9 at every step: the former environment works, check tells the truth, sync mends it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
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
from homes import LABEL, REPO, Scalems, make_scalems
from test_hosts_failpoints import STEPS
from test_integrity import KEEPING

from scalems import probe
from scalems.env import check
from scalems.env.check import Depth
from scalems.errors import ExitCode
from scalems.host.process import lives

SYNC = ("env", "sync", "--resource", LABEL)
GC = ("env", "gc", "--keep", "1")
ROLLBACK = ("env", "rollback", "--resource", LABEL)

NEW_BUILD = ("begun", "venv", "installed", "compiled", "verified", "files", "manifest")
OLD_BUILD = (
    *("file.written", "sync.begun", "sync.packed", "sync.built", "sync.parity"),
    *("definition.backup", "definition.written"),
    *("state.generation", "state.link", "state.switched", "state.written"),
)
ROLLED = ("rollback.proved", "rollback.defined", "state.switched")
COLLECTED = ("gc.forgotten", "build.discarded", "gc.removed", "gc.wheel")

pytestmark = pytest.mark.network


@dataclass(frozen=True)
class Campaign:
    """A home with two builds, of which the first is in use and the second is to be synced."""

    made: Scalems
    first: Path
    second: Path
    saved: Path

    def reset(self, *, built: bool = True, locked: bool = True) -> None:
        """Make it so that the first build is in use, and the specs ask for the second.

        :param built: the second is there already.
        :param locked: its lock is.
        """
        for name, place in self._places():
            shutil.rmtree(place)
            shutil.copytree(self.saved / name, place, symlinks=True)
        if not locked:
            former = (self.saved / "pilot.lock.txt").read_text()
            (self.made.project / "envs" / "pilot.lock.txt").write_text(former)
        if not built:
            shutil.rmtree(self.second)

    def save(self) -> None:
        for name, place in self._places():
            shutil.copytree(place, self.saved / name, symlinks=True)

    def _places(self) -> list[tuple[str, Path]]:
        root = self.made.root
        names = ("resources", "generations", "current", "wheels", "backups")
        return [
            *((name, root / name) for name in names if (self.saved / name).is_dir()),
            ("configs", self.made.definition.parent),
            ("envs", self.made.project / "envs"),
        ]

    def kill(self, name: str, *words: str) -> None:
        """Run a command that is killed at a failpoint."""
        armed = {"SCALEMS_FAILPOINT": f"{name}:kill", "SCALEMS_TESTING": "1"}
        done = self.made.run(*words, code=None, **armed)
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr

    def the_former_works(self) -> None:
        assert check.inspect("pilot", self.first, depth=Depth.DEEP) == []
        argv = [self.first / "venv" / "bin" / "python", "-I", "-c", "import cloudpickle, zmq"]
        subprocess.run(argv, check=True)

    def the_next_sync_mends_it(self) -> None:
        self.made.sync()
        assert self.made.check("--deep")["ok"]
        assert self.made.build("pilot") == self.second
        assert builds(self.made) == sorted([self.first, self.second])
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        foreign_is_kept(self.made)
        assert left_over(self.made) == []
        assert processes_of(self.made) == []


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    made = make_scalems(tmp_path_factory.mktemp("campaign"))
    saved = tmp_path_factory.mktemp("saved")
    made.definition.parent.mkdir(parents=True)
    made.definition.write_text(FOREIGN)
    made.sync()
    first = made.build("pilot")
    for name in ("resources", "generations", "current", "wheels", "backups"):
        shutil.copytree(made.root / name, saved / name, symlinks=True)
    shutil.copytree(made.definition.parent, saved / "configs")
    shutil.copy(made.project / "envs" / "pilot.lock.txt", saved)
    spec = made.project / "envs" / "pilot.toml"
    spec.write_text(spec.read_text() + 'constraints = ["idna<3.7"]\n')
    made.sync()
    shutil.copytree(made.project / "envs", saved / "envs")
    return Campaign(made=made, first=first, second=made.build("pilot"), saved=saved)


def test_every_failpoint_in_the_source_is_in_the_campaign():
    found = {
        name
        for path in (REPO / "scalems").rglob("*.py")
        for name in re.findall(r"^\s+failpoint\(\"([\w.]+)\"\)", path.read_text(), re.MULTILINE)
    }
    tested = {"lock.written", *OLD_BUILD, *ROLLED, *COLLECTED, *(f"build.{n}" for n in NEW_BUILD)}
    tested |= {*KEEPING, *(name for _, name in STEPS)}  # and those of syncs over SSH
    assert found == tested


def test_a_lock_was_written(campaign: Campaign):
    campaign.reset(locked=False)
    campaign.kill("lock.written", *SYNC)
    nothing_bad_is_trusted(campaign.made)
    campaign.the_former_works()
    campaign.the_next_sync_mends_it()


@pytest.mark.parametrize("step", NEW_BUILD)
def test_a_build_was_being_made(campaign: Campaign, step: str):
    campaign.reset(built=False)
    campaign.kill(f"build.{step}", *SYNC)
    assert campaign.made.build("pilot") == campaign.first
    assert (campaign.second / "manifest.json").exists() == (step == "manifest")
    nothing_bad_is_trusted(campaign.made)
    campaign.the_former_works()
    campaign.the_next_sync_mends_it()


@pytest.mark.parametrize("name", OLD_BUILD)
def test_a_build_was_being_taken_into_use(campaign: Campaign, name: str):
    campaign.reset()
    campaign.kill(name, *SYNC)
    nothing_bad_is_trusted(campaign.made)
    foreign_is_kept(campaign.made)
    campaign.the_former_works()
    campaign.the_next_sync_mends_it()


def test_a_bad_build_was_being_taken_away(campaign: Campaign):
    campaign.reset()
    (probe.site_packages(campaign.second / "venv") / "cloudpickle" / "more.py").write_text("")
    campaign.kill("build.discarded", *SYNC)
    nothing_bad_is_trusted(campaign.made)
    campaign.the_former_works()
    campaign.the_next_sync_mends_it()


@pytest.mark.parametrize("name", ROLLED)
def test_a_rollback(campaign: Campaign, name: str):
    campaign.reset()
    campaign.made.sync()
    campaign.kill(name, *ROLLBACK)
    nothing_bad_is_trusted(campaign.made)
    foreign_is_kept(campaign.made)
    campaign.made.run(*ROLLBACK, code=None)  # nothing is left to do if the last step was done
    assert campaign.made.build("pilot") == campaign.first
    assert campaign.made.check("--deep")["ok"]
    campaign.the_next_sync_mends_it()


@pytest.mark.parametrize("name", COLLECTED)
def test_a_collection(campaign: Campaign, name: str):
    campaign.reset()
    campaign.made.sync()
    # A generation that is older than both, and a wheel of former code.
    unused = campaign.first.with_name("pilot-0123456789abcdef")
    (unused / "venv").mkdir(parents=True)
    generations = campaign.made.root / "generations" / LABEL
    old = (generations / "1.json").read_text().replace('"generation": 1', '"generation": 0')
    (generations / "0.json").write_text(old.replace(campaign.first.name, unused.name))
    wheel = campaign.made.root / "wheels" / "old" / "scalems-0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_text("")
    os.utime(wheel, (0, 0))
    campaign.kill(name, *GC)
    nothing_bad_is_trusted(campaign.made)
    campaign.the_former_works()
    campaign.made.run(*GC)
    assert not unused.exists()
    assert not wheel.exists()
    campaign.the_next_sync_mends_it()


@pytest.mark.parametrize("name", ["build.installed", "definition.written", "state.generation"])
def test_an_error_of_the_disk_is_told(campaign: Campaign, name: str):
    campaign.reset(built=name != "build.installed")
    armed = {"SCALEMS_FAILPOINT": f"{name}:error", "SCALEMS_TESTING": "1"}
    done = campaign.made.run(*SYNC, code=ExitCode.FAILED, **armed)
    assert f"failpoint {name}" in done.stderr
    nothing_bad_is_trusted(campaign.made)
    campaign.the_next_sync_mends_it()


def test_a_sync_that_sleeps_is_waited_for(campaign: Campaign):
    campaign.reset()
    armed = {"SCALEMS_FAILPOINT": "sync.parity:pause", "SCALEMS_TESTING": "1"}
    made = replace(campaign.made, env={**campaign.made.env, **armed})
    argv, where = made.argv(*SYNC), {"cwd": made.project, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(argv, env=made.env, stderr=subprocess.DEVNULL, **where) as first:
        wait_until_stopped(first.pid)
        other = subprocess.Popen(
            argv, env=campaign.made.env, stderr=subprocess.PIPE, text=True, **where
        )
        with other:
            for line in other.stderr:
                if "another sync" in line:
                    assert f"process {first.pid}" in line
                    break
            else:
                pytest.fail("the other did not wait")
            first.send_signal(signal.SIGCONT)
    assert (first.returncode, other.returncode) == (0, 0)
    campaign.the_next_sync_mends_it()


@pytest.mark.parametrize(
    ("step", "folder"),
    [
        ("build.begun", "builds/{second}"),
        ("sync.parity", "../../../.radical/pilot/configs"),
        ("definition.written", "generations/{label}"),
        ("state.generation", "current/{label}"),
        ("state.switched", "resources"),
    ],
)
def test_a_folder_that_may_not_be_written_all_of_a_sudden(
    campaign: Campaign, step: str, folder: str
):
    campaign.reset(built=not step.startswith("build."))
    armed = {"SCALEMS_FAILPOINT": f"{step}:pause", "SCALEMS_TESTING": "1"}
    closed = campaign.made.root / folder.format(second=campaign.second.name, label=LABEL)
    # Root may write anywhere, but for this.
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    argv = [*(plain if os.geteuid() == 0 else []), *campaign.made.argv(*SYNC)]
    where = {"cwd": campaign.made.project, "env": {**campaign.made.env, **armed}}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **where, **pipes) as process:
        wait_until_stopped(process.pid)
        mode = closed.stat().st_mode & 0o7777
        inode = closed.stat().st_ino
        closed.chmod(0o500)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate()
    if closed.exists() and closed.stat().st_ino == inode:
        closed.chmod(mode)
    assert process.returncode in (ExitCode.FAILED, ExitCode.USAGE, ExitCode.NOT_READY), stdout
    assert "Permission denied" in stderr
    assert "Traceback" not in stderr
    nothing_bad_is_trusted(campaign.made)
    foreign_is_kept(campaign.made)
    campaign.the_former_works()
    campaign.the_next_sync_mends_it()


def wait_until_stopped(pid: int) -> None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert lives(pid)


def test_a_failpoint_that_was_left_over_is_refused(campaign: Campaign):
    campaign.reset()
    for armed, testing in (("state.written:kill", ""), ("state.written:explode", "1")):
        variables = {"SCALEMS_FAILPOINT": armed, "SCALEMS_TESTING": testing}
        done = campaign.made.run(*SYNC, code=ExitCode.USAGE, **variables)
        assert "unset SCALEMS_FAILPOINT" in done.stderr
