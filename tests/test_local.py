from __future__ import annotations

import argparse
import os
import pydoc
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import scalems.local
from scalems.env import Build
from scalems.env.role import Role
from scalems.errors import BackendError
from scalems.local.backend import LocalBackend, cores
from scalems.workflow.call import ENV_VARIABLE
from scalems.workflow.current import activated
from scalems.workflow.graph import Graph

LIMIT = 120

LONG = """
import os, subprocess, sys
import scalems

@scalems.task
def long():
    with open(f"{os.getpid()}.started", "w"):
        subprocess.run(["sleep", "987654"])

@scalems.app
def main():
    futures = [long() for i in range(5)]
    futures.append(scalems.executable(["sleep", "987654"]))
    while "stubborn" in sys.argv:
        try:
            scalems.gather(futures)
        except KeyboardInterrupt:
            print("no", flush=True)
    scalems.gather(futures)
"""

ASYNC = """
import asyncio, os, sys
import scalems
from script import long

@scalems.app
async def main():
    await asyncio.gather(*(long() for i in range(5)))
"""


@scalems.task
def where():
    return sys.executable, os.environ.get(ENV_VARIABLE), os.environ.get("OF_THE_SCRIPT")


class Started:
    """A run that is amid its tasks, and all processes that it has ever had."""

    def __init__(self, folder, *words, source=LONG):
        (folder / "script.py").write_text(LONG)
        (folder / "run.py").write_text(source)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scalems.local", "-j", "2", "run.py", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Under nohup it would be ignored, as it should then.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        try:
            until(lambda: len(list(folder.glob("*.started"))) == 2)
            until(lambda: len(self.left()) >= 4)
        except BaseException:
            self.process.kill()
            raise

    def left(self):
        """Return the processes, zombies aside, that run in the folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                here = (process / "cwd").readlink() == self.folder
                if here and ") Z " not in (process / "stat").read_text():
                    found.append(process.name)
            except OSError:
                continue
        return found

    def end(self):
        out, err = self.process.communicate(timeout=LIMIT)
        until(lambda: not self.left())
        return self.process.returncode, out, err


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("source", [LONG, ASYNC], ids=["plain", "async"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_ends_the_run_in_good_order(tmp_path, number, code, source):
    run = Started(tmp_path, source=source)
    run.process.send_signal(number)
    returncode, out, err = run.end()
    assert returncode == code
    assert out == ""
    assert err.startswith(f"scalems: {number.name}: stopping; once more ends at once\n")
    assert re.search(rf"ended by {number.name}: 0 done, 0 failed, [56] cancelled", err)
    assert "Traceback" not in err


def test_second_signal_ends_the_run_at_once(tmp_path):
    run = Started(tmp_path, "stubborn")
    run.process.send_signal(signal.SIGINT)
    assert run.process.stdout.readline() == "no\n"
    run.process.send_signal(signal.SIGTERM)
    returncode, _, err = run.end()
    assert returncode == 143
    assert err.endswith("scalems: ended at once\n")


def test_killed_run_leaves_nothing(tmp_path):
    run = Started(tmp_path)
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL


def test_ignored_signal_stays_ignored(tmp_path):
    """As nohup starts it."""
    (tmp_path / "script.py").write_text(
        "import os, signal, scalems\n@scalems.app\ndef main():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n    print('here')\n"
    )
    done = subprocess.run(
        ["sh", "-c", f"trap '' HUP; exec {sys.executable} -m scalems.local script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (0, "here\n")


# --- the backend ----------------------------------------------------------------------------


def test_calls_run_in_this_python(monkeypatch):
    backend = LocalBackend(workers=1)
    monkeypatch.setenv("OF_THE_SCRIPT", "set after the backend was made")
    graph = Graph(backend)
    with activated(graph):
        assert where().result(LIMIT) == (sys.executable, None, "set after the backend was made")
    graph.close()
    with pytest.raises(BackendError):
        backend.submit(None, lambda outcome: None)
    backend.close()
    assert not backend.cancel(1)


def test_calls_run_in_the_task_venv(tmp_path):
    """A venv of links suffices: it sees our packages through a path file."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    ours = [str(Path(scalems.__file__).parent.parent)]
    ours += [path for path in sys.path if path.endswith("site-packages")]
    (packages / "ours.pth").write_text("\n".join(ours))
    build = Build(
        name="task",
        role=Role.TASK,
        folder=tmp_path,
        input_digest="in",
        content_digest="abc",
        scalems_digest="",
        versions={},
    )
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, scalems

            @scalems.task
            def where():
                numba = os.environ["NUMBA_CACHE_DIR"].startswith(sys.prefix)
                return sys.prefix, os.environ["SCALEMS_ENV_DIGEST"], numba
            """
        )
    )
    graph = Graph(LocalBackend(workers=1, build=build, label="local x/task"))
    namespace = {"__name__": "__main__"}
    exec(script.read_text(), namespace)
    with activated(graph):
        assert namespace["where"]().result(LIMIT) == (str(venv), "abc", False)
    graph.close()


def test_workers_are_the_cores_by_default():
    assert 1 <= cores() <= os.cpu_count()
    options = scalems.local.parser.parse_args([])
    backend = scalems.local.make_backend(options, print)
    assert backend.status() == {"processes": str(cores())}
    options = scalems.local.parser.parse_args(["-j", "3"])
    assert scalems.local.make_backend(options, print).status() == {"processes": "3"}


def test_unknown_venv(tmp_path):
    (tmp_path / "script.py").write_text("import scalems\n@scalems.app\ndef main(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "scalems.local", "--venv", "nosuch", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode in (2, 3)
    assert done.stderr.startswith("error: ")
    assert "remedy: " in done.stderr


# --- for people -----------------------------------------------------------------------------


def test_parser_is_there_for_documentation():
    assert isinstance(scalems.local.parser, argparse.ArgumentParser)
    assert scalems.local.parser is scalems.local.parser
    assert scalems.local.parser.prog == "python -m scalems.local"


def test_help():
    done = subprocess.run(
        [sys.executable, "-m", "scalems.local", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for text in ("--venv NAME", "--max-workers N", "python -m scalems.local -j 2", "Exit codes"):
        assert text in done.stdout


def test_version():
    done = subprocess.run(
        [sys.executable, "-m", "scalems.local", "--version"], capture_output=True, text=True
    )
    assert re.fullmatch(r"scalems \d+\.\d+.*\n", done.stdout)


def test_documentation():
    text = pydoc.plain(pydoc.render_doc(scalems.local))
    assert "python -m scalems.local script.py" in text


def test_import_is_light():
    program = (
        "import sys, scalems.local, scalems.workflow.graph;"
        "heavy = {'rich', 'asyncio', 'radical.pilot', 'jsonschema'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_inline_calls_run_in_the_script_itself(tmp_path):
    (tmp_path / "run.py").write_text(
        "import os, scalems\n"
        "@scalems.task\n"
        "def where():\n    print('hello')\n    os.chdir('/')\n    return os.getpid()\n"
        "@scalems.task\ndef fail():\n    raise ValueError('no')\n"
        "@scalems.app\n"
        "def main():\n    print(where().result() == os.getpid(), os.getcwd() == '/')\n"
        "    fail().result()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "scalems.local", "--inline", "run.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "hello\nTrue False\n"
    assert "ValueError: no" in done.stderr
    assert done.returncode == 1
    done = subprocess.run(
        [sys.executable, "-m", "scalems.local", "--inline", "--venv", "task", "run.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "use one of them" in done.stderr


@pytest.mark.parametrize("changed", [False, True])
def test_a_process_that_starts_while_the_script_loads_serves_if_it_is_as_any_other(
    changed, monkeypatch
):
    backend = LocalBackend(workers=1)
    backend.prepare()
    spare = backend._spare
    assert spare is not None
    graph = Graph(backend)
    with activated(graph):
        if changed:  # as a script may do before its first call
            monkeypatch.setenv("SCALEMS_TEST", "set by the script")
        pid, value = scalems.submit(lambda: (os.getpid(), os.environ.get("SCALEMS_TEST"))).result()
    assert (pid == spare.pid) == (not changed)
    assert value == ("set by the script" if changed else None)
    graph.close()
    assert spare.ended


def test_a_process_that_nobody_needed_is_ended():
    backend = LocalBackend(workers=1)
    backend.prepare()
    spare = backend._spare
    assert spare is not None
    backend.close()
    assert spare.ended
