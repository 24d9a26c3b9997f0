"""Faults that a workflow survives on RADICAL-Pilot: what users, functions and hosts do to it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from homes import LABEL, in_namespace

pytestmark = [pytest.mark.radical, pytest.mark.network]

LIMIT = 240  # seconds: for what must happen

FUNCTIONS = """
import json, os, sys, time
import scalems

def alone():
    return os.getpid()

def allocates():
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
    return len(bytearray(1 << 40))

def forks():
    pid = os.fork()
    if pid == 0:
        time.sleep(3600)
    return pid

def forks_and_returns_twice():
    os.fork()
    return "parent or child"

def closes():
    os.closerange(0, 4096)

def prints():
    block = "x" * 999_999 + "\\n"
    for _ in range(100):
        print(block, end="")
    return "printed"

def leaves():
    os._exit(7)

def hangs():
    while True:
        time.sleep(3600)

def large(data):
    return data

@scalems.app
def main():
    odd = [allocates, forks, forks_and_returns_twice, closes, prints, leaves]
    futures = {f.__name__: scalems.submit(f) for f in odd}
    futures["hangs"] = scalems.task(timeout=2)(hangs)()
    futures["large"] = scalems.submit(large, b"5" * 50_000_000)
    scalems.wait(futures.values())
    told = {}
    for name, future in futures.items():
        error = future.exception()
        told[name] = f"{type(error).__name__}: {error}" if error else None
    told["forked"] = futures["forks"].result()
    told["stdout"] = len(futures["prints"].stdout())
    told["bytes"] = len(futures["large"].result())
    told["after"] = [scalems.submit(alone).result() > 0 for _ in range(4)]
    print(json.dumps(told))
"""

MEMBERS = """
import sys, time
from pathlib import Path
import scalems

@scalems.task
def member(number, folder):
    time.sleep(0.2)
    with open(Path(folder, f"ran-{number}"), "a") as file:
        file.write("x")
    return number

@scalems.app
def main():
    print(sum(scalems.gather([member(n, sys.argv[1]) for n in range(40)])))
"""

MANY = """
import time
import scalems

def short(x):
    time.sleep(0.05)
    return x

@scalems.app
def main():
    futures = [scalems.submit(short, n) for n in range(100_000)]
    print("queued", flush=True)
    scalems.gather(futures)
"""


@pytest.fixture(scope="module")
def pilot(synced_home):
    """A warm pilot for all tests here: each is a script of its own on it."""
    synced_home.run("pilot", "start", "--resource", LABEL, "--venv", "task", "--cores", "2")
    yield synced_home
    synced_home.run("pilot", "stop", "--all")


def command(made, script, *words, store=None):
    kept = ["--store", str(store)] if store else ["--no-store"]
    return [
        *(sys.executable, "-m", "scalems.radical", "--resource", LABEL, "--venv", "task"),
        *(*kept, str(script), *map(str, words)),
    ]


def run(made, script, *words, **options):
    return subprocess.run(
        command(made, script, *words, **options),
        env=made.env,
        cwd=made.project,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.05)


def reports(made):
    return made.json("pilot", "list")[0]


def test_what_functions_do_harms_no_other_call(pilot, tmp_path):
    script = tmp_path / "functions.py"
    script.write_text(FUNCTIONS)
    done = run(pilot, script)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["allocates"].startswith(("MemoryError", "TaskLost"))
    assert told["forks"] is None
    assert told["forks_and_returns_twice"] is None
    assert told["closes"].startswith(("TaskLost", "OSError")) or told["closes"] is None
    assert told["prints"] is None
    assert told["stdout"] < 1_100_000
    assert told["leaves"].startswith("TaskLost")
    assert "7" in told["leaves"]
    assert told["hangs"].startswith("TaskTimeout")
    assert (told["large"], told["bytes"]) == (None, 50_000_000)
    assert told["after"] == [True] * 4
    assert re.search(r"\d+ done, \d failed in", done.stderr.splitlines()[-1])


def test_a_killed_client_goes_on_where_it_was(pilot, tmp_path):
    script = tmp_path / "members.py"
    script.write_text(MEMBERS)
    store = tmp_path / "store"
    words = command(pilot, script, tmp_path, store=store)
    with subprocess.Popen(words, env=pilot.env, cwd=pilot.project) as client:
        until(lambda: len(list(tmp_path.glob("ran-*"))) >= 10)
        client.kill()
    until(lambda: reports(pilot)["calls"] == 0)
    before = len(list(tmp_path.glob("ran-*")))
    done = run(pilot, script, tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sum(range(40))}\n"
    kept = int(re.search(r"\((\d+) in a former run\)", done.stderr)[1])
    ran = [len(file.read_text()) for file in tmp_path.glob("ran-*")]
    assert len(ran) == 40
    assert 5 <= kept <= before
    # What was in flight when the client was killed may have run twice, and nothing else.
    assert sum(ran) == 40 + (before - kept)


MASTER = """
import os, signal, sys, time
from pathlib import Path
import scalems

folder, home = Path(sys.argv[1]), sys.argv[2]

@scalems.task
def member(number, folder):
    with open(Path(folder, f"ran-{number}"), "a") as file:
        file.write("x")
    while number >= 10 and not Path(folder, "gate").exists():
        time.sleep(0.05)
    return number

def masters():
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (entry / "cmdline").read_bytes(), (entry / "cwd").readlink()
        except OSError:
            continue
        if b"raptor-master" in words and home in str(place):
            found.add(int(entry.name))
    return found

@scalems.app
def main():
    scalems.gather([member(n, folder) for n in range(10)])
    rest = [member(n, folder) for n in range(10, 40)]
    if not (folder / "gate").exists():
        killed = masters()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        while not masters() - killed:
            time.sleep(0.1)
        print("killed", len(killed), flush=True)
        (folder / "gate").touch()
    print(sum(scalems.gather(rest)))
"""


def test_a_killed_master_costs_no_result_and_runs_nothing_twice(pilot, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MASTER)
    store = tmp_path / "store"
    done = run(pilot, script, tmp_path, pilot.home, store=store)
    assert done.returncode == 0, done.stderr
    killed, total = done.stdout.splitlines()
    assert int(killed.split()[1]) > 0
    assert "The raptor master has ended" in done.stderr
    again = run(pilot, script, tmp_path, pilot.home, store=store)
    assert total == again.stdout.strip() == str(sum(range(10, 40)))
    assert "40 done (40 in a former run)" in again.stderr
    assert {len(file.read_text()) for file in tmp_path.glob("ran-*")} == {1}


def test_ctrl_c_with_a_hundred_thousand_calls_queued(pilot, tmp_path):
    script = tmp_path / "many.py"
    script.write_text(MANY)
    words = command(pilot, script)
    with subprocess.Popen(
        words,
        env=pilot.env,
        cwd=pilot.project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout.readline() == "queued\n"
        until(lambda: reports(pilot)["calls"] > 0)
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=LIMIT)
    assert client.returncode == 130
    assert errors.splitlines()[-1].startswith("scalems: ended by SIGINT: ")
    assert "Traceback" not in errors
    until(lambda: reports(pilot)["calls"] == 0)
    again = tmp_path / "functions.py"
    again.write_text(
        "import scalems\n@scalems.app\ndef main():\n    print(scalems.submit(abs, -3).result())\n"
    )
    assert run(pilot, again).stdout == "3\n"  # the pilot is as good as before


def new_pilot(made, script):
    return [*command(made, script)[:-2], "--pilot", "new", *command(made, script)[-2:]]


def test_a_full_disk_is_told_at_once(synced_home, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MEMBERS)
    (synced_home.home / ".local" / "state" / "scalems" / "runs").mkdir(parents=True, exist_ok=True)
    mount = 'mount -t tmpfs -o size=1m none "$HOME/.local/state/scalems/runs"'
    begun = time.monotonic()
    done = in_namespace(mount, [*new_pilot(synced_home, script), str(tmp_path)], synced_home)
    assert done.returncode == 1
    assert "There is no room left in" in done.stderr
    assert "remedy: make room there" in done.stderr
    assert time.monotonic() - begun < LIMIT


FILLS = """
import os, sys, scalems

@scalems.task
def fill(folder):
    try:
        with open(os.path.join(folder, "rest"), "wb") as rest:
            while True:
                rest.write(b"0" * 100_000)
                rest.flush()
    except OSError as error:
        return error.strerror

@scalems.task(timeout=60)
def work(n, said):
    print("y" * said)
    return bytes(n)

@scalems.app
def main():
    print(fill(sys.argv[1]).result())
    print(*map(len, scalems.gather([work(n, said) for n in (1, 5_000_000) for said in (1, 10**6)])))
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle_of_a_run_stops_no_call(synced_home, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FILLS)
    runs = synced_home.home / ".local" / "state" / "scalems" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    done = in_namespace(
        f'mount -t tmpfs -o size=32m none "{runs}"',
        [*new_pilot(synced_home, script), str(runs)],
        synced_home,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["No space left on device", "1 1 5000000 5000000"]


def test_a_dead_loopback_is_told_at_once(synced_home, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MEMBERS)
    probe = subprocess.run(["unshare", "--net", "true"], check=False)
    if probe.returncode:
        pytest.skip("nobody may make network namespaces here")
    words = ["unshare", "--net", *new_pilot(synced_home, script), str(tmp_path)]
    done = subprocess.run(
        words,
        env=synced_home.env,
        cwd=synced_home.project,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "The loopback interface of this host does not work" in done.stderr
    assert "ip link set lo up" in done.stderr


LOSES = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
import scalems

@scalems.task
def step(n, gate):
    while n >= 4 and not os.path.exists(gate):
        time.sleep(0.1)
    return n

def kill_the_agent():
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (entry / "cmdline").read_bytes(), (entry / "cwd").readlink()
        except OSError:
            continue
        if words.startswith(b"rp.agent.0") and sys.argv[2] in str(place):
            os.kill(int(entry.name), signal.SIGKILL)

@scalems.app
def main():
    gate = sys.argv[3]
    print(scalems.gather([step(n, gate) for n in range(4)]))
    rest = [step(n, gate) for n in range(4, 8)]
    if sys.argv[1] == "agent":
        kill_the_agent()
    if sys.argv[1] == "network":
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    print(scalems.gather(rest))
"""


def losing(made, folder, what, *, before=()):
    """Run a script that loses something; see what is told, and that nothing is left."""
    script = folder / "script.py"
    script.write_text(LOSES)
    words = [sys.executable, "-m", "scalems.radical", "--resource", LABEL, "--venv", "task"]
    words += [
        "--pilot",
        "new",
        "--cores",
        "2",
        str(script),
        what,
        str(made.home),
        str(folder / "gate"),
    ]
    done = subprocess.run(
        [*before, *words], cwd=made.project, env=made.env, capture_output=True, text=True,
        check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[0, 1, 2, 3]" in done.stdout
    assert "scalems: the app failed: 4 done, 4 failed" in done.stderr.splitlines()[-1]
    # RADICAL-Pilot's processes notice within moments that their agent is no more.
    until(lambda: not working_below(made.home / ".local" / "state"))
    return done.stderr


def working_below(folder):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in str((entry / "cwd").readlink()):
                found.append((entry / "cmdline").read_bytes())
    return found


def test_a_killed_agent_is_told_and_loses_nothing_that_has_finished(synced_home, tmp_path):
    told = losing(synced_home, tmp_path, "agent")
    assert "The pilot's agent was killed" in told
    (tmp_path / "gate").touch()
    words = [sys.executable, "-m", "scalems.local", "--resource", LABEL, "--venv", "task"]
    words += [str(tmp_path / "script.py"), "nothing", "", str(tmp_path / "gate")]
    again = subprocess.run(
        words, cwd=synced_home.project, env=synced_home.env,
        capture_output=True, text=True, check=True, timeout=LIMIT,
    )  # fmt: skip
    assert again.stdout.split("\n")[:2] == ["[0, 1, 2, 3]", "[4, 5, 6, 7]"]
    assert "8 done (4 in a former run)" in again.stderr


@pytest.mark.slow
def test_a_network_that_is_gone_in_the_middle_of_a_run_is_told(synced_home, tmp_path):
    own = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("nobody may make network namespaces here")
    told = losing(synced_home, tmp_path, "network", before=own)
    assert "The loopback interface of this host does not work" in told
