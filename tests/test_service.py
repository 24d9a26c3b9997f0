"""Services beside the tasks of a run, and tasks that go as RADICAL-Pilot's own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from homes import LABEL, hand_made_venv

import scalems
from scalems import ServiceError
from scalems.errors import UsageError

LIMIT = 60
WEB = [sys.executable, "-u", "-m", "http.server", "--bind", "{host}", "{port}"]


def fetch(address):
    return len(urllib.request.urlopen(f"http://{address}/", timeout=LIMIT).read())


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def processes_with(word):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if word.encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def test_tasks_use_a_service_and_it_ends_with_the_run(graph, tmp_path):
    web = scalems.service([*WEB, "--directory", tmp_path])
    sizes = [scalems.submit(fetch, web.address) for _ in range(3)]
    assert all(size.result(LIMIT) > 50 for size in sizes)
    assert web.address.port.result() == web.address.result().port
    assert str(web.address.result()) == "{}:{}".format(*web.address.result())
    assert processes_with(str(tmp_path))
    graph.close()
    assert processes_with(str(tmp_path)) == []
    assert web.exception() is None


def test_a_service_is_stopped_with_all_that_it_has_started(graph, tmp_path):
    script = f"sleep 1000 {tmp_path} & echo up; wait"
    with scalems.service(["bash", "-c", f": {tmp_path}; {script}"], ready="^up$") as held:
        held.address.result(LIMIT)
    assert held.stop(LIMIT)
    assert processes_with(str(tmp_path)) == []


def test_its_words_may_be_futures_and_it_is_started_when_they_are_there(graph, tmp_path):
    folder = scalems.submit(str, tmp_path)
    script = 'echo "$NAME at ${HERE##*:}"; sleep 1000; :'
    env = {"NAME": scalems.submit("".join, ["a", "b"]), "HERE": "{host}:{port}"}
    made = scalems.service(["bash", "-c", script, folder], ready=r"ab at (?P<port>\d+)$", env=env)
    assert made.address.result(LIMIT).port > 0
    assert processes_with(str(tmp_path))
    failed = scalems.service(["sleep", scalems.submit(int, "no")], port=9)
    error = failed.address.exception(LIMIT)
    assert "was not started" in str(error)
    assert "int" in str(error)
    wrong = scalems.service(["sleep", scalems.submit(list)], port=9)
    assert "argument 1 is a list" in str(wrong.address.exception(LIMIT))
    never = scalems.service(["sleep", scalems.submit(time.sleep, 5)], port=9)
    assert never.stop(1)  # before it has begun
    assert never.address.cancelled()


TWICE = """
import http.server, os, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        super().do_GET()
        if self.path == "/die":
            os._exit(3)
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def test_one_that_dies_is_started_again_at_the_same_address(graph, tmp_path, caplog):
    argv = [sys.executable, "-c", TWICE, "{host}", "{port}"]
    web = scalems.service(argv, restarts=1, cwd=tmp_path)
    address = web.address.result(LIMIT)

    def answers():
        try:
            return fetch(address) > 50
        except OSError:
            return False

    for restarted in (True, False):
        until(answers)
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{address}/die", timeout=LIMIT).read()
        if restarted:
            assert web.exception() is None
            assert web.address.result() == address
    assert "ended with exit code 3" in str(web.exception(LIMIT))
    assert "ended with exit code 3, and is started again" in caplog.text


def test_what_it_prints_tells_where_it_answers(graph):
    script = "echo listening at http://example.org:8080/; sleep 1000"
    made = scalems.service(
        ["bash", "-c", script], ready=r"at http://(?P<host>[\w.]+):(?P<port>\d+)"
    )
    assert str(made.address.result(LIMIT)) == "example.org:8080"


@pytest.mark.parametrize(
    ("argv", "options", "text"),
    [
        (
            ["bash", "-c", "echo no license >&2; exit 4"],
            {},
            "exit code 4 before .*no li",
        ),
        (["sleep", "1000"], {"timeout": 0.5}, "was not ready after 0.5 s"),
        (["bash", "-c", "kill -9 $$"], {}, "was ended by SIGKILL"),
        (["/nonexistent"], {}, "did not start: No such file"),
        (["bash", "-c", ":"], {"pre_exec": ["false"]}, "shell line before the program failed"),
    ],
)
def test_one_that_does_not_get_ready_says_why(graph, argv, options, text):
    made = scalems.service(argv, port=9, **options)
    error = made.address.exception(LIMIT)
    assert isinstance(error, ServiceError)
    assert re.search(text, str(error), re.DOTALL), error


def test_one_that_dies_later_is_told_and_named_by_what_comes_then(graph):
    made = scalems.service(["bash", "-c", "echo up; read; exit 3"], ready="up")
    made.address.exception(LIMIT)
    error = made.exception(LIMIT)
    assert "ended with exit code 3" in str(error)
    with pytest.raises(ServiceError, match="exit code 3"):
        _ = made.address


@pytest.mark.parametrize(
    ("argv", "options", "text"),
    [
        ("redis-server", {}, "takes a list"),
        (["redis-server"], {}, "cannot be told when the service redis-server is ready"),
        (["x", "{port}"], {"ready": "("}, "regular expression"),
        (["x", "{port}"], {"timeout": 0}, "timeout is a number above 0"),
        (["x"], {"port": 70000}, "from 1 to 65535"),
        (["x"], {"port": 7, "restarts": -1}, "restarts is a whole number"),
    ],
)
def test_wrong_use_is_refused(graph, argv, options, text):
    with pytest.raises(UsageError, match=text):
        scalems.service(argv, **options)


# --- on RADICAL-Pilot -----------------------------------------------------------------------

SCRIPT = """
import json, os, sys, time, urllib.request
import scalems

def tell(**facts):
    print(json.dumps(facts), flush=True)

@scalems.task
def fetch(address):
    return len(urllib.request.urlopen(f"http://{address}/", timeout=60).read())

@scalems.task(route="rp")
def task_of(n):
    print("seen", n)
    return os.environ.get("RP_TASK_ID", "")

@scalems.task(route="rp", ranks=2)
def ranks():
    from mpi4py import MPI

    return MPI.COMM_WORLD.allgather(MPI.COMM_WORLD.Get_rank())

@scalems.task(route="rp", timeout=3)
def late():
    time.sleep(1000)

@scalems.task(route="rp")
def fail():
    raise LookupError("not there")

@scalems.task(route="rp", cache=False)
def exits():
    os._exit(7)

@scalems.app
def main():
    python = scalems.submit(getattr, sys, "executable")
    web = scalems.service([python, "-u", "-m", "http.server", "--bind", "{host}", "{port}"],
                          label="web", cores=1, restarts=1)
    hello = scalems.executable(["echo", "hello"], route="rp")
    large = scalems.service(["sleep", "1000"], port=9, cores=99)
    futures = [task_of(1), ranks(), late(), fail(), exits()]
    tell(size=fetch(web.address).result() > 50)
    tell(worker=scalems.submit(os.getenv, "RP_TASK_ID").result())
    tell(hello=hello.result().stdout, task=futures[0].result(), printed=futures[0].stdout())
    tell(host=futures[0].host)
    tell(ranks=str(futures[1].exception() or futures[1].result()))
    tell(errors=[str(one.exception()) for one in [large.address, *futures[2:]]])
    address = web.address.result()

    def kill():
        pid = scalems.executable(["pgrep", "-f", f"http.server.*{address.port}"], exit_codes=[0, 1])
        for number in pid.result().stdout.split():
            os.kill(int(number), 9)

    kill()
    again = scalems.task(retries=6)(fetch.function)(address)
    tell(again=again.result() > 50, same=web.address.result() == address)
    while web.exception(1) is None:
        kill()
    tell(died=str(web.exception()))
"""


@pytest.mark.radical
@pytest.mark.network
@pytest.mark.mpi
def test_services_and_routed_tasks_are_tasks_of_radical_pilot(synced_home, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    venv = hand_made_venv(synced_home, tmp_path, "mpi4py>=4")
    words = ["--resource", LABEL, "--venv", str(venv), "--cores", "1", "--no-store"]
    done = subprocess.run(
        [sys.executable, "-m", "scalems.radical", *words, script],
        cwd=synced_home.project, env=synced_home.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)  # shown if it fails
    told: dict[str, object] = {}
    for line in done.stdout.splitlines():
        told.update(json.loads(line))
    assert told["size"]
    assert str(told["worker"]).startswith("scalems.worker.")
    assert str(told["task"]).startswith("scalems.own.")
    assert (told["hello"], told["printed"]) == ("hello\n", "seen 1\n")
    assert told["ranks"] == "[0, 1]"
    large, late, fail, exits = map(str, told["errors"])  # type: ignore[call-overload]
    assert "needs 99 cores that no Worker has" in large
    assert "longer than 3 s" in late
    assert "not there" in fail
    assert "exits ended without an outcome" in exits
    assert (told["again"], told["same"]) == (True, True)
    assert "the service web was ended by SIGKILL, and is started again" in done.stderr
    assert "was ended by SIGKILL" in str(told["died"])
