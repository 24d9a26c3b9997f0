"""Runs on a host that is reached over SSH: RADICAL-Pilot's session is there, the script here."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import PREFIX_SCRIPT, Scalems, add_task, hand_made_venv, make_scalems
from sshd import FarHost, listening, make_host, require_sshd

FAR = "lab.cluster"
SCRIPT = """
import os, sys, time
import scalems
from ours import words

@scalems.task
def place(number):
    return number, os.environ["HOME"], sys.prefix

@scalems.task
def fail():
    raise KeyError("far away")

@scalems.task
def size(data):
    return len(data)

@scalems.task
def read(given):
    return open(given).read()

@scalems.task(cache=True)
def write(text):
    open("made.txt", "w").write(text)
    return scalems.file("made.txt")

@scalems.task
def wait(path):
    open(path, "w").close()
    time.sleep(600)

@scalems.app
def main():
    if sys.argv[1:]:
        wait(sys.argv[1]).result()
    print(sorted(place(number).result() for number in range(2)))
    print(repr(fail().exception()))
    print(size(b"x" * 3_000_000).result())
    print(scalems.executable(["sh", "-c", "pwd; echo $HOME"]).result().stdout.strip())
    here = scalems.file("here.txt")
    first = scalems.executable(
        ["sh", "-c", "./run.sh here.txt > there.txt"], inputs=["here.txt", "run.sh"],
        outputs=["there.txt"],
    )
    print([read(one).result() for one in (here, first.file["there.txt"], write("kept"))])
    print(scalems.map(read, [here] * 3)[2].result())
    print(*scalems.submit(words.first).result())
    first.result().file["there.txt"].copy_to("back.txt")
"""

WORDS = """
from pathlib import Path

def first():
    return Path(__file__).with_name("words.txt").read_text().split()[0], __file__
"""

NEEDS = """
import scalems

@scalems.task
def needs():
    import pytest
    return pytest.__version__

@scalems.app
def main():
    needs().result()
"""


pytestmark = [pytest.mark.ssh, pytest.mark.radical, pytest.mark.network]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarHost]:
    require_sshd()
    with listening(make_host(tmp_path_factory.mktemp("far") / "host")) as host:
        yield host


@pytest.fixture(scope="module")
def lab(far: FarHost, tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    made = far.of(make_scalems(tmp_path_factory.mktemp("lab")))
    add_task(made.project)
    (made.project / "resource-configs" / "lab.toml").write_text(
        '[cluster]\nextends = "local.localhost"\npilot = "pilot"\ntasks = ["task"]\nhost = "lab"\n'
    )
    (made.project / "script.py").write_text(SCRIPT)
    (made.project / "here.txt").write_text("content")
    (made.project / "run.sh").write_text("#!/bin/sh\ntr a-z A-Z < $1\n")
    (made.project / "run.sh").chmod(0o755)
    (made.project / "ours").mkdir()  # a package that the Task venv does not have
    for name, text in {"__init__.py": "", "words.py": WORDS, "words.txt": "once upon"}.items():
        (made.project / "ours" / name).write_text(text)
    made.run("env", "sync", "--resource", FAR)
    return made


def start(
    lab: Scalems, *words: str | Path, name: str = "script.py", venv: str = "task"
) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "scalems.radical", "--resource", FAR, "--venv", venv]
    return subprocess.Popen(
        [*argv, name, *map(str, words)],
        cwd=lab.project,
        env=lab.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def nothing_is_left(far: FarHost) -> bool:
    limit = time.monotonic() + 120
    while far.processes() and time.monotonic() < limit:
        time.sleep(0.2)
    assert far.processes() == []
    state = far.home / ".local" / "state" / "scalems"
    return not [*state.glob("runs/*/data"), *state.glob("files/scratch/*")]


def test_a_script_runs_there_as_it_does_here(lab: Scalems, far: FarHost):
    process = start(lab)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    places, error, size, folder, home, texts, mapped, told = stdout.splitlines()
    venv = str((far.root / "current" / FAR / "task").resolve() / "venv")
    assert eval(places) == [(number, str(far.home), venv) for number in range(2)]
    assert error == "KeyError('far away')"
    assert size == "3000000"
    assert folder.startswith(str(far.home))
    assert home == str(far.home)
    assert eval(texts) == ["content", "CONTENT", "kept"]
    assert mapped == "content"
    word, path = told.split()
    assert word == "once"
    assert Path(path).is_relative_to(far.home / ".local" / "state" / "scalems" / "files")
    assert (lab.project / "back.txt").read_text() == "CONTENT"
    digests = {hashlib.sha256(text).hexdigest() for text in (b"CONTENT", b"kept")}
    objects = lab.project / ".scalems" / "objects"
    assert all((objects / one[:2] / one[2:]).is_file() for one in digests)
    assert "the session runs on" in stderr
    assert nothing_is_left(far)


@pytest.mark.parametrize("what", ["client", "connection"])
def test_nothing_stays_there_when_the_client_or_the_connection_is_lost(
    lab: Scalems, far: FarHost, tmp_path, what
):
    far.hang_up()
    mark = tmp_path / "runs"
    process = start(lab, mark)
    limit = time.monotonic() + 200
    while not mark.exists() and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    if what == "client":
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    else:
        far.hang_up()
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 1, stderr
        assert "lost" in stderr or "ended" in stderr
        assert "Traceback" not in stderr
    assert nothing_is_left(far)


def test_a_pilot_there_stays_warm_between_scripts(lab: Scalems, far: FarHost):
    began = lab.json("pilot", "start", "--resource", FAR, "--venv", "task")
    assert (began["label"], began["alive"]) == (FAR, True)
    assert "key" not in began
    assert lab.json("pilot", "list") == []  # none is here
    folders = []
    for words in ((), ("--pilot", "task", "--no-store")):
        argv = [sys.executable, "-m", "scalems.radical", "--resource", FAR, "--venv", "task"]
        done = subprocess.run(
            [*argv, *words, "script.py"],
            **{"cwd": lab.project, "env": lab.env, "capture_output": True, "text": True},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "using the warm pilot task" in done.stderr
        assert (lab.project / "back.txt").read_text() == "CONTENT"
        folders.append(Path(done.stdout.splitlines()[3]).parent)
    assert folders[0] == folders[1]  # of one session
    mark = lab.project / "runs"
    process = start(lab, mark)
    limit = time.monotonic() + 200
    while not mark.exists() and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (listed,) = lab.json("pilot", "list", "--resource", FAR)
    assert listed["alive"]
    assert listed["run"] == began["run"]
    assert began["folder"] in lab.run("pilot", "logs", "--resource", FAR).stdout
    lab.run("pilot", "start", "--resource", FAR, "--venv", "task", code=2)  # the name is taken
    assert lab.json("pilot", "stop", "--resource", FAR) == {"stopped": ["task"]}
    assert lab.json("pilot", "list", "--resource", FAR) == []
    assert "did you mean" in lab.run("pilot", "list", "--resource", FAR + "s", code=2).stderr
    assert nothing_is_left(far)


def test_what_has_drifted_there_is_refused_before_anything_starts(lab: Scalems, far: FarHost):
    venv = (far.root / "current" / FAR / "task").resolve() / "venv"
    extra = next((venv / "lib").iterdir()) / "site-packages" / "sneaked.py"
    extra.write_text("")
    try:
        process = start(lab)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 3
        assert "sneaked.py" in stderr
        assert f"scalems env sync --resource {FAR}" in stderr
    finally:
        extra.unlink()


def test_a_call_that_cannot_run_there_is_named_before_the_pilot_starts(lab: Scalems, far: FarHost):
    (lab.project / "needs.py").write_text(NEEDS)
    process = start(lab, name="needs.py")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    assert "needs the module 'pytest', which the Task venv 'task' does not have" in stderr
    assert "pilot: active" not in stderr
    assert nothing_is_left(far)


def test_a_venv_there_that_scalems_did_not_build(lab: Scalems, far: FarHost):
    venv = hand_made_venv(lab, far.home)
    looked = lab.json("env", "check", "--resource", FAR, "--venv", "~/mine")
    assert (looked["ok"], looked["host"], looked["venv"]) == (True, "lab", str(venv))
    assert not (lab.root / "adopted").exists()
    (lab.project / "where.py").write_text(PREFIX_SCRIPT)
    process = start(lab, name="where.py", venv="~/mine")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.strip() == str(venv)
    assert "not built by scalems" in stderr
    assert nothing_is_left(far)
    assert [one.name for one in far.folder.glob(".*")] == []  # no lease beside what is not ours

    (site,) = venv.glob("lib/python3.*/site-packages")
    info = site / "extra_thing-1.0.dist-info"
    info.mkdir()
    process = start(lab, name="where.py", venv=str(venv))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    assert f"{venv} on lab is not ready" in stderr
    assert "extra-thing (none) -> 1.0" in stderr
    assert f"scalems env adopt {venv} --resource {FAR}" in stderr
    lab.run("env", "adopt", str(venv), "--resource", FAR)
    assert lab.json("env", "check", "--resource", FAR, "--venv", str(venv))["ok"]

    (venv / "bin" / "radical-pilot-raptor-worker").unlink()
    (site / "extra_thing-1.0.dist-info").rename(site / "cloudpickle-0.1.dist-info")
    looked = lab.json("env", "check", "--resource", FAR, "--venv", str(venv), code=3)
    remedies = {one["remedy"] for one in looked["findings"] if one["severity"] == "error"}
    assert any(one.startswith(f"on lab: {venv}/bin/python -m pip install") for one in remedies)
    for folder, told in (("mine/", "whole path"), ("/nowhere/", "neither a venv")):
        assert told in lab.run("env", "adopt", folder, "--resource", FAR, code=2).stderr


def test_a_failure_there_is_explained_and_its_logs_are_fetched(lab: Scalems, far: FarHost):
    tools = (far.root / "current" / FAR / "pilot").resolve() / "venv" / "bin"
    agent = tools / "radical-pilot-agent_0"
    agent.rename(tools / "aside")
    try:
        process = start(lab)
        _, stderr = process.communicate(timeout=300)
    finally:
        (tools / "aside").rename(agent)
    assert process.returncode == 1, stderr
    assert "radical-pilot-agent_0: command not found" in stderr
    assert "--debug-bundle" in stderr
    argv = [sys.executable, "-m", "scalems.radical", "--debug-bundle", "report.tar.gz"]
    subprocess.run(argv, cwd=lab.project, env=lab.env, check=True)
    with tarfile.open(lab.project / "report.tar.gz") as packed:
        names = packed.getnames()
        manifests = {Path(one).name for one in names if "/manifests/" in one}
        assert manifests == {f"{FAR}.{env}.json" for env in ("pilot", "task")}  # as they are there
        (log,) = (one for one in names if one.endswith("pilot.0000/agent_0.err"))
        opened = packed.extractfile(log)
        assert opened
        assert b"command not found" in opened.read()
    assert nothing_is_left(far)


def test_the_local_backend_says_where_such_a_task_venv_is(lab: Scalems):
    argv = [sys.executable, "-m", "scalems.local", "--resource", FAR, "--venv", "task"]
    done = subprocess.run(
        [*argv, "script.py"],
        cwd=lab.project,
        env=lab.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is on lab" in done.stderr
    assert "scalems.radical" in done.stderr
