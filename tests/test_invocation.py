"""The command as its users meet it: real processes, real scripts, what is printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

LIMIT = 120

HEAD = """
import asyncio, os, signal, sys, threading
import scalems
from scalems.errors import EnvironmentNotReady, UsageError

lock = threading.Lock()

@scalems.task
def double(x): return 2 * x

@scalems.task
def fail(text="broken"):
    print("printed before")
    print("warned before", file=sys.stderr)
    raise ValueError(text)

@scalems.task
def holds_lock(): return lock.locked()

@scalems.task
def end(how):
    if how == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if how == "aborted": os.abort()
    os._exit(5) if how == "exits" else sys.exit(5)

@scalems.app
"""


@pytest.fixture
def run(tmp_path):
    def run(body, *words, head=HEAD, options=(), python=(), **kwargs):
        """Run a script whose app has this body."""
        kind = "async def" if "await" in body else "def"
        app = f"{kind} main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        (tmp_path / "script.py").write_text(head + app)
        command = [sys.executable, "-W", "error", *python, "-m", "scalems.local", *options]
        return subprocess.run(
            [*command, "script.py", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            **kwargs,
        )

    return run


def test_done(run):
    done = run("print(double(double(1)).result(), sys.argv)", "-n", "10", "--verbose")
    assert done.returncode == 0
    assert done.stdout == "4 ['script.py', '-n', '10', '--verbose']\n"
    assert re.fullmatch(r"scalems: 2 done, 0 failed in \d+\.\d s on local\n", done.stderr)


def test_options_before_the_script_pass_on(run):
    done = run("print(sys.argv)", "-n", "10", options=["--foo=1", "-j", "1", "--bar", "x"])
    assert done.stdout == "['script.py', '--foo=1', '--bar', 'x', '-n', '10']\n"


def test_option_that_is_nearly_ours_is_pointed_at(run):
    done = run("print(sys.argv)", options=["--max-worker=2"])
    assert done.returncode == 0
    assert "did you mean --max-workers?" in done.stderr


def test_async_app(run):
    done = run("print(await asyncio.gather(double(1), double(double(2))))")
    assert (done.returncode, done.stdout) == (0, "[2, 8]\n")


@pytest.mark.parametrize("use", ["open(future)", "''.join([future])", "'%d' % future"])
def test_a_future_in_a_message_of_others_has_a_remedy(run, use):
    done = run(f"future = double(1)\n{use}")
    assert done.returncode == 1
    assert done.stderr.count("remedy: a Future is not its value: .result() waits for that") == 1


def test_quiet(run):
    done = run("double(1).result()", options=["-q"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json(run):
    done = run("double(1)\nfail().exception()", options=["--json", "-q"])
    told = json.loads(done.stdout)
    assert told.pop("elapsed") >= 0
    assert told.pop("store").endswith(".scalems")
    assert told.pop("status") == {"processes": str(len(os.sched_getaffinity(0)))}
    names = told.pop("names")
    assert told == {
        "exit_code": 0,
        "backend": "local",
        "label": "local",
        "tasks": {"done": 1, "reused": 0, "failed": 1, "cancelled": 0},
        "run": 1,
        "lost": None,
        "error": None,
        "failures": [{"task": "fail", "id": 2, "error": "ValueError: broken", "stopped": []}],
    }
    double, fail = sorted(names, key=lambda one: one["name"])  # else by who was first to end
    assert (double["name"], double["done"], fail["name"], fail["failed"]) == (
        "double",
        1,
        "fail",
        1,
    )


def test_what_tasks_print_is_shown_when_asked_for(run):
    body = "fail().exception()"
    told = run(body).stderr
    assert "printed before" not in told
    assert "1 printed something: -v shows it" in told
    told = run(body, options=["-v"]).stderr
    assert "fail#1: printed before" in told
    assert "fail#1: warned before" in told


def test_log_level(run):
    body = "import logging; logging.getLogger('scalems.x').info('told'); double(1)"
    assert "told" not in run(body).stderr
    assert "told" in run(body, options=["--log-level", "info"]).stderr


def test_waits_for_tasks_that_nobody_waits_for(run, tmp_path):
    done = run(
        """
        scalems.executable(["sh", "-c", "sleep 0.5; echo late"], stdout="late.txt")
        """
    )
    assert done.returncode == 0
    assert (tmp_path / "late.txt").read_text() == "late\n"


# --- exit codes and errors ------------------------------------------------------------------


def test_failed_task(run):
    done = run("x = fail('no such atom').result()")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "in fail\n" in done.stderr  # where it was raised
    assert "in main\n    x = fail('no such atom').result()" in done.stderr  # where it was met
    assert "\nValueError: no such atom\n" in done.stderr
    assert "the end of stdout of fail#1:\nprinted before\n" in done.stderr
    assert "the end of stderr of fail#1:\nwarned before\n" in done.stderr
    assert "the app failed: 0 done, 1 failed" in done.stderr
    assert "scalems/workflow" not in done.stderr  # our frames are nobody's business


def test_whole_traceback_when_asked_for(run):
    assert "scalems/workflow/future.py" in run("fail().result()", options=["-v"]).stderr


def test_failed_ancestor(run):
    done = run("double([fail()]).result()")
    assert done.returncode == 1
    assert "in fail\n" in done.stderr
    assert "double#2 was not run: it depends on fail#1, which failed: ValueError" in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 2
    assert "scalems/workflow" not in done.stderr


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", "end: its process was killed by signal SIGKILL"),
        ("aborted", "SIGABRT"),
        ("exits", "exited with code 5"),
        ("sys.exit", r"sys\.exit\(5\)"),
    ],
)
def test_task_that_ends_its_process(run, how, message):
    done = run(f"end({how!r}).result()")
    assert done.returncode == 1
    assert re.search(message, done.stderr)


def test_failures_that_nobody_asked_for(run):
    done = run(
        """
        for i in range(12):
            fail(f"number {i}")
        fail("heard").exception()
        double(fail("heard through a dependent")).exception()
        """
    )
    assert done.returncode == 1
    assert "error: 12 tasks failed, and nobody asked for the result:" in done.stderr
    assert "fail#1: ValueError: number 0\n" in done.stderr
    assert "… and 2 other reasons" in done.stderr
    assert "heard" not in done.stderr


def test_error_of_the_app_itself(run):
    done = run("double(1)\nraise KeyError('mine')")
    assert done.returncode == 1
    assert done.stderr.count('File "') == 1
    assert "KeyError: 'mine'" in done.stderr


@pytest.mark.parametrize(
    ("statement", "code", "told"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('so long')", 1, "so long\n"),
        ("return 5", 0, ""),
        ("fail(); sys.exit(7)", 7, ""),
        ("fail(); sys.exit(0)", 1, "nobody asked"),
    ],
)
def test_exit_code_of_the_script(run, statement, code, told):
    done = run(statement)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("statement", "code", "told"),
    [
        ("holds_lock()", 2, "holds_lock: global variable 'lock'"),
        ("double(lock)", 2, "double: argument 'x' (lock) cannot be sent"),
        ("scalems.executable('echo')", 2, "takes a list of the program"),
        ("raise EnvironmentNotReady('changed', remedy='scalems env sync')", 3, "scalems env sync"),
    ],
)
def test_errors_of_ours_are_short(run, statement, code, told):
    done = run(statement)
    assert done.returncode == code
    assert told in done.stderr
    assert f"at: script.py:{HEAD.count(chr(10)) + 2}: {statement}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1\n", "script.py defines no app"),
        ("import scalems\ndef main(:\n", "script.py:2: invalid syntax\n    def main(:\n"),
        ("import scalems\n@scalems.task\ndef f(): pass\nf()\n", "no workflow is running"),
    ],
)
def test_wrong_scripts(tmp_path, source, told):
    (tmp_path / "script.py").write_text(source)
    done = command("script.py", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_script_that_fails_while_it_is_loaded(tmp_path):
    (tmp_path / "script.py").write_text("import scalems\nimport nosuchmodule\n")
    done = command("script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Traceback (most recent call last):\n"
        f'  File "{tmp_path}/script.py", line 2, in <module>\n'
        "    import nosuchmodule\n"
        "ModuleNotFoundError: No module named 'nosuchmodule'\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "No script is given"),
        (["nosuch.py"], "There is no script nosuch.py"),
        (["-j", "0", "x.py"], "'0' is not a whole number"),
        (["-j"], "expected one argument"),
        (["--log-level", "loud", "x.py"], "invalid choice: 'loud'"),
    ],
)
def test_wrong_use(tmp_path, words, told):
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "scalems.local", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_app_that_handles_an_interrupt_goes_on(run):
    done = run(
        """
        try:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("handled")
        print(double(2).result())
        """
    )
    assert (done.returncode, done.stdout) == (0, "handled\n4\n")


def test_a_run_can_stop_at_the_first_failure(run):
    body = """
        def work(x):
            if x == 0:
                raise ValueError("no")
            time.sleep(600)

        futures = [scalems.submit(work, x) for x in range(8)]
        futures[-1].result()
    """
    done = run(
        body, options=["--on-error", "stop"], head=HEAD.replace("asyncio,", "asyncio, time,")
    )
    assert done.returncode == 1
    assert (
        "error: The run was stopped, since main.<locals>.work#1 failed: ValueError: no"
        in done.stderr
    )
    assert done.stderr.count("was stopped") == 1
