"""Warm pilots: one start serves many scripts, and nothing stays when it is over."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import LABEL, Scalems, add_task, make_scalems

from scalems.errors import ExitCode
from scalems.host.process import lives
from scalems.radical import processes, warm

pytestmark = [pytest.mark.radical, pytest.mark.network]

LIMIT = 120  # seconds: for things that must happen
SCRIPT = """
import os, sys, time
from pathlib import Path
import scalems

@scalems.task
def where(x):
    return x * x, sys.executable, os.getppid()

@scalems.task
def hold(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)

@scalems.app
def main():
    if len(sys.argv) > 1:
        hold(sys.argv[1]).result()
    print(*where(7).result())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    made = make_scalems(tmp_path_factory.mktemp("warm"))
    add_task(made.project)
    made.sync()
    (made.project / "script.py").write_text(SCRIPT)
    return made


HOLD = """
import os, sys, time
from pathlib import Path
import scalems

@scalems.task
def hold(path):
    if not path.exists():
        path.touch()
        time.sleep(1000)
    return os.environ["RP_SESSION_ID"]

@scalems.app
def main():
    print(hold(Path(sys.argv[1])).result())
"""


@pytest.fixture(scope="module", autouse=True)
def short(made: Scalems, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    """Use a pilot that has a minute, where nobody else sees it, while the other tests run."""
    folder = tmp_path_factory.mktemp("short")
    (folder / "hold.py").write_text(HOLD)
    words = shlex.join(["pilot", "start", "--resource", LABEL, "--venv", "task"])
    line = f"{shlex.join(made.argv())} {words} --runtime 1 -q && exec {shlex.join(runs())} "
    line += f"{folder / 'hold.py'} {folder / 'begun'}"
    env = {**made.env, "XDG_STATE_HOME": str(folder)}
    with subprocess.Popen(
        ["bash", "-c", line],
        **{**place(made), "env": env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def record(made: Scalems) -> Iterator[dict[str, object]]:
    """Start a warm pilot; afterwards nothing of it is left."""
    yield start(made)
    for one in made.json("pilot", "list"):
        made.run("pilot", "stop", one["name"])


def start(made: Scalems, *words: str) -> dict[str, object]:
    one = made.json("pilot", "start", "--resource", LABEL, "--venv", "task", *words)
    assert one["alive"]
    return one


def script(made: Scalems, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *argv(*words)],
        **place(made),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def runs() -> list[str]:
    return [sys.executable, *argv()]


def argv(*words: str) -> list[str]:
    return ["-m", "scalems.radical", "--resource", LABEL, "--venv", "task", "--no-store", *words]


def place(made: Scalems) -> dict[str, object]:
    return {"cwd": made.project, "env": made.env}


def until(condition: object) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_scripts_share_a_pilot_until_it_is_stopped(made: Scalems, record: dict) -> None:
    first, second = script(made, "script.py"), script(made, "--pilot", "task", "script.py")
    assert first.stdout == second.stdout  # in the same Worker
    value, python, worker = first.stdout.split()
    assert value == "49"
    assert Path(python).parent.parent.resolve() == (made.build("task") / "venv").resolve()
    assert lives(int(worker))
    (listed,) = made.json("pilot", "list")
    assert (listed["clients"], listed["calls"], listed["alive"]) == (0, 0, True)
    assert "key" not in listed
    assert record["folder"] in made.run("pilot", "logs").stdout
    made.run("pilot", "stop")
    assert made.json("pilot", "list") == []
    assert processes.members(str(record["run"]), Path(str(record["folder"]))) == []
    assert not lives(int(worker))


def test_only_its_user_gets_at_it(made: Scalems, record: dict) -> None:
    files = made.home / ".local" / "state" / "scalems" / "pilots"
    assert files.stat().st_mode & 0o077 == 0
    (file,) = files.glob("*.json")
    assert file.stat().st_mode & 0o077 == 0
    fields = json.loads(file.read_text())
    assert Path(fields["address"]).parent.stat().st_mode & 0o077 == 0
    fields.pop("format")
    with pytest.raises(OSError, match=r"."):
        warm.connect(warm.WarmPilot(**{**fields, "key": "00" * 32}))
    assert made.json("pilot", "list")[0]["alive"]  # it took no harm


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_calls_end_with_their_script_and_the_pilot_stays(
    made: Scalems, record: dict, tmp_path: Path, number: int
) -> None:
    client = subprocess.Popen([sys.executable, *argv("script.py", str(tmp_path))], **place(made))
    until(lambda: list(tmp_path.iterdir()))
    (mark,) = tmp_path.iterdir()
    assert made.json("pilot", "list")[0]["calls"] == 1
    client.send_signal(number)
    client.wait()
    until(lambda: not lives(int(mark.name)))
    assert script(made, "script.py").stdout.startswith("49 ")
    assert made.json("pilot", "list")[0]["clients"] == 0


def test_it_ends_when_nobody_uses_it(made: Scalems) -> None:
    one = start(made, "--name", "short", "--idle", "0.05")
    until(lambda: not lives(int(str(one["pid"]))))
    assert made.json("pilot", "list") == []
    assert processes.members(str(one["run"]), Path(str(one["folder"]))) == []


def test_a_killed_one_is_told_and_removed(made: Scalems, record: dict) -> None:
    os.kill(int(str(record["pid"])), signal.SIGKILL)
    until(lambda: not lives(int(str(record["pid"]))))
    assert "gone" in made.run("pilot", "list").stdout
    assert "its process has ended" in script(made, "--pilot", "warm", "script.py", code=2).stderr
    made.run("pilot", "stop")
    assert made.json("pilot", "list") == []
    assert processes.members(str(record["run"]), Path(str(record["folder"]))) == []


def test_one_that_does_not_fit_is_not_used_and_it_is_said_why(made: Scalems, record: dict) -> None:
    again = made.run("pilot", "start", "--resource", LABEL, "--venv", "task", code=ExitCode.USAGE)
    assert "already" in again.stderr
    for words, reason in (
        (["--pilot", "tsak"], "did you mean 'task'"),
        (["--pilot", "warm", "--cores", "7"], "not 7"),
        (["--pilot", "task", "--runtime", "3"], "for a new pilot"),
    ):
        done = script(made, *words, "script.py", code=ExitCode.USAGE)
        assert reason in done.stderr
        assert "remedy" in done.stderr
    (file,) = (made.home / ".local" / "state" / "scalems" / "pilots").glob("*.json")
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "until": time.time() + 10}))
    assert "its run time is over in" in script(made, "script.py").stderr  # in another one


def test_a_run_is_told_that_its_pilot_was_stopped(
    made: Scalems, record: dict, tmp_path: Path
) -> None:
    client = subprocess.Popen(
        [sys.executable, *argv("script.py", str(tmp_path))],
        **place(made),
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: list(tmp_path.iterdir()))
    assert "1 run uses it" in made.run("pilot", "stop").stderr
    assert "The warm pilot 'task' was ended by somebody" in client.communicate()[1]
    assert client.returncode == 1


def test_a_wrong_use_tells_what_to_do(made: Scalems) -> None:
    done = script(made, "--pilot", "warm", "script.py", code=ExitCode.USAGE)
    assert "scalems pilot start" in done.stderr
    done = made.run("pilot", "stop", code=ExitCode.USAGE)
    assert "there is no warm pilot" in done.stderr
    words = ("pilot", "start", "--resource", LABEL, "--venv", "task", "--name")
    assert "named" in made.run(*words, "../x", code=ExitCode.USAGE).stderr


def test_a_run_outlives_the_run_time_of_a_warm_pilot(short: subprocess.Popen) -> None:
    """It did not ask for that one, so it goes on in one of its own."""
    printed, told = short.communicate(timeout=3 * LIMIT)
    assert short.returncode == 0, told
    begun = [line for line in told.splitlines() if "the run time of the warm pilot task" in line]
    assert len(begun) == 1, told
    assert "its run time of 1 minute is over. Going on in another pilot, 1 calls are left" in told
    assert printed.startswith("scalems.")
