"""Sessions of RADICAL-Pilot: calls in a Task venv, and what becomes of a run when a part fails."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path

import pytest

from scalems import probe
from scalems.env.spec import Role
from scalems.env.verification import Build
from scalems.errors import BackendError, EnvironmentNotReady, TaskError, TaskLost, UsageError
from scalems.radical import processes, runs
from scalems.radical.backend import RadicalBackend
from scalems.radical.launch import OwnServer
from scalems.radical.settings import Settings
from scalems.workflow.answers import Answers
from scalems.workflow.block import encoded
from scalems.workflow.call import Call, encode, result
from scalems.workflow.needs import Needs

pytestmark = [pytest.mark.radical, pytest.mark.network]

LIMIT = 200  # seconds: for things that must happen; a run takes about 20 to start
ROOT = Path(__file__).parent.parent


# --- environments ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def venvs(tmp_path_factory):
    """Build a Pilot and a Task venv of the client's versions."""
    folder = tmp_path_factory.mktemp("envs")
    source = folder / "source"  # a copy, so that no build files appear in the project
    source.mkdir()
    for item in ("scalems", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / item
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / item)
    make_venv(folder / "pilot" / "venv", sys.executable, source)
    make_venv(folder / "task" / "venv", sys.executable, source, "numpy")
    return folder


def make_venv(venv, python, source, *extra):
    """Make a venv of the client's versions."""
    pins = [
        f"{name}=={importlib.metadata.version(name)}"
        for name in ("radical.pilot", "radical.utils", "radical.gtod", "psij-python", "cloudpickle")
    ]
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", python, venv], check=True)
    install = [*uv, "pip", "install", "-q", "--python", venv / "bin" / "python"]
    subprocess.run([*install, *pins, *extra], check=True)
    subprocess.run([*install, "--no-deps", source], check=True)


def build_of(folder):
    venv = folder / "venv"
    return Build(
        name=folder.name,
        role=Role.TASK,
        folder=folder,
        input_digest="",
        content_digest="",
        scalems_digest="",
        versions=probe.versions([probe.site_packages(venv)]),
    )


@pytest.fixture
def home(tmp_path, monkeypatch, venvs):
    return make_home(tmp_path, monkeypatch, venvs / "pilot" / "venv")


def make_home(folder, monkeypatch, pilot, **fields):
    """Make a home with a resource definition, and nothing of the client's venv in the way."""
    configs = folder / ".radical" / "pilot" / "configs"
    configs.mkdir(parents=True)
    definition = {"virtenv_mode": "use", "virtenv": str(pilot), "rp_version": "installed", **fields}
    (configs / "resource_local.json").write_text(json.dumps({"localhost": definition}))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return folder


class Run:
    """A backend, and the calls that it was given."""

    def __init__(self, build, *, pilots=1, **settings):
        name, folder = runs.new()
        self.notes = []
        self.settings = Settings(
            **{
                "policies": {},
                "run": name,
                "folder": folder,
                "label": "local.localhost",
                "build": build,
                "slots": 2,
                "runtime": None,
                "options": {},
                **settings,
            }
        )
        server = OwnServer(self.settings)
        self.backend = RadicalBackend(server, notify=self.notes.append, label="test", pilots=pilots)
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.backend.close(abort=True)
        assert self.processes() == []

    def processes(self):
        return processes.members(self.settings.run, self.settings.folder)

    def __call__(self, function, *args, once=False, priority=0, **kwargs):
        self.count += 1
        future = Future()
        future.call_id = self.count
        name = getattr(function, "__name__", "?")
        payload = encode(function, args, kwargs)
        needs = Needs(once=once, priority=priority)
        call = Call(id=self.count, name=name, payload=payload, needs=needs)
        self.backend.submit(call, future.set_result)
        return future

    def value(self, function, *args, **kwargs):
        return result(self(function, *args, **kwargs).result(LIMIT))


@pytest.fixture(scope="class")
def run(venvs, tmp_path_factory):
    """Give one run to all tests that leave it as it was."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("home")
        make_home(folder, monkeypatch, venvs / "pilot" / "venv")
        with Run(build_of(venvs / "task"), pin="always") as run:
            run.early = run(lambda: sys.prefix)
            run.backend.start()
            yield run


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- calls ----------------------------------------------------------------------------------


class TestCalls:
    """Calls of one run, which ends before the tests below start theirs."""

    def test_calls_run_in_the_task_venv_also_those_submitted_before_the_start(self, run, venvs):
        venv = venvs / "task" / "venv"
        assert result(run.early.result(LIMIT)) == str(venv)
        path = run.value(lambda: sys.path)
        assert not [entry for entry in path if "pilot" in Path(entry).parts or entry == ""]
        assert run.value(lambda: os.environ["VIRTUAL_ENV"]) == str(venv)
        assert run.value(lambda: __import__("numpy").__version__)
        assert run.backend.status() == {"pilot": "PMGR_ACTIVE", "workers": "1"}

    @pytest.mark.parametrize(
        "value",
        [
            {1, 2},
            3 + 4j,
            Path("/x"),
            b"\xff\x00",
            (1, (2,)),
            {(1, 2): None},
            2**80,
            "\udcff",
            print,
        ],
        ids=repr,
    )
    def test_values_that_rp_would_lose_come_back(self, run, value):
        back = run.value(lambda x: x, value)
        assert back == value
        assert type(back) is type(value)

    def test_calls_side_by_side_have_cpus_of_their_own(self, run, tmp_path):
        def mask(folder, name):
            Path(folder, name).touch()
            while len(list(Path(folder).iterdir())) < 2:
                time.sleep(0.05)
            return os.sched_getaffinity(0)

        futures = [run(mask, tmp_path, name) for name in "ab"]
        first, second = [result(future.result(LIMIT)) for future in futures]
        if len(os.sched_getaffinity(0)) > 1:
            assert len(first) == len(second) == 1
            assert first != second

    def test_failures_come_back_as_themselves(self, run):
        def fail():
            print("before")
            raise KeyError("no such residue")

        outcome = run(fail).result(LIMIT)
        assert outcome.stdout == "before\n"
        with pytest.raises(KeyError, match="no such residue") as caught:
            result(outcome)
        assert "in fail" in str(caught.value.__cause__)

    @pytest.mark.parametrize(
        ("function", "error"),
        [
            (lambda: os._exit(3), TaskLost),
            (lambda: os.kill(os.getpid(), signal.SIGKILL), TaskLost),
            (lambda: __import__("ctypes").string_at(0), TaskLost),
            (lambda: os.closerange(0, 4096), TaskLost),
            (lambda: sys.exit(4), TaskError),
            (lambda: threading.Lock(), UsageError),
        ],
        ids=["exit", "kill", "segfault", "close", "SystemExit", "lock"],
    )
    def test_what_hangs_rp_is_one_failed_call(self, run, function, error):
        with pytest.raises(error):
            run.value(function)
        assert run.value(abs, -1) == 1

    def test_a_fork_inside_a_call_gives_one_outcome(self, run):
        assert run.value(lambda: os.fork() and "parent") == "parent"

    def test_fifty_megabytes_go_there_and_back(self, run):
        data = os.urandom(50_000_000)
        assert run.value(bytes.swapcase, data) == data.swapcase()
        assert list(run.settings.data.iterdir()) == []

    def test_thousands_of_calls(self, run):
        futures = [run(abs, -n) for n in range(3000)]
        assert [result(future.result(LIMIT)) for future in futures] == list(range(3000))

    def test_a_block_of_calls_gives_an_outcome_for_each_item(self, run):
        def inverse(x):
            return 1 / x

        count = 1000
        told = {}
        finished = threading.Event()

        def done(one):
            for outcome in one.outcomes() if isinstance(one, Answers) else [one]:
                assert outcome.item not in told
                told[outcome.item] = outcome
            if len(told) == count:
                finished.set()

        ((_, payload),) = encoded(inverse, [(n,) for n in range(count)])
        block = Call(id=10**6, name="inverse", payload=payload, items=range(count))
        run.backend.submit(block, done)
        assert finished.wait(LIMIT)
        with pytest.raises(ZeroDivisionError):
            result(told[0])
        assert [result(told[n]) for n in range(1, count)] == [1 / n for n in range(1, count)]
        assert {outcome.id for outcome in told.values()} == {10**6}

    def test_a_long_item_keeps_no_other_waiting_and_is_cancelled_alone(self, run, tmp_path):
        def hold(folder, n):
            if n == 30:
                Path(folder, "pid").write_text(str(os.getpid()))
                time.sleep(3600)
            return n

        count, told, changed = 60, {}, threading.Condition()

        def done(one):
            with changed:
                for outcome in one.outcomes() if isinstance(one, Answers) else [one]:
                    assert outcome.item not in told
                    told[outcome.item] = outcome
                changed.notify_all()

        ((_, payload),) = encoded(hold, [(tmp_path, n) for n in range(count)])
        call = Call(id=10**6 + 1, name="hold", payload=payload, items=range(count))
        run.backend.submit(call, done)
        with changed:
            assert changed.wait_for(lambda: len(told) == count - 1, LIMIT)
            assert 30 not in told
        assert run.backend.cancel(call.id, 30)
        with changed:
            assert changed.wait_for(lambda: len(told) == count, LIMIT)
        with pytest.raises(CancelledError):
            result(told.pop(30))
        assert [result(told[n]) for n in sorted(told)] == [n for n in range(count) if n != 30]
        until(lambda: not is_alive(int((tmp_path / "pid").read_text())))

    def test_running_queued_and_unsent_calls_can_be_cancelled(self, run, tmp_path):
        def hold(folder):
            child = subprocess.Popen(["sleep", "3600"])
            Path(folder, f"new{child.pid}").write_text(f"{os.getpid()} {child.pid}")
            Path(folder, f"new{child.pid}").rename(Path(folder, f"pids{child.pid}"))
            time.sleep(3600)

        futures = [run(hold, tmp_path) for _ in range(40)]
        until(lambda: len(list(tmp_path.glob("pids*"))) == 2)
        # The last ones first, so that none of them gets to run.
        for future in reversed(futures):
            assert run.backend.cancel(future.call_id)
        for future in futures:
            with pytest.raises(CancelledError):
                result(future.result(LIMIT))
        pids = [int(pid) for file in tmp_path.glob("pids*") for pid in file.read_text().split()]
        assert len(pids) == 4
        until(lambda: not any(map(is_alive, pids)))
        assert run.value(abs, -2) == 2
        assert not run.backend.cancel(futures[0].call_id)

    def test_the_most_urgent_call_of_those_that_wait_is_next(self, run, tmp_path):
        def hold(folder, name):
            Path(folder, name).touch()
            time.sleep(3600)

        holders = [run(hold, tmp_path, name) for name in "ab"]
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        futures = [(number, run(abs, 1, priority=number)) for number in (0, 0, 3, -1, 3, 1)]
        until(lambda: not len(run.backend._outbox._waiting))
        assert run.backend.cancel(holders[0].call_id)  # behind the calls, on the same link
        outcomes = [(number, future.result(LIMIT)) for number, future in futures]
        order = [number for number, _ in sorted(outcomes, key=lambda one: one[1].started)]
        assert order == sorted(order, reverse=True)
        assert run.backend.cancel(holders[1].call_id)

    def test_nothing_of_rp_is_in_the_working_folder(self, run):
        leftovers = [path.name for path in Path.cwd().iterdir() if run.settings.run in path.name]
        assert leftovers == []


def test_without_a_route_calls_go_through_rp(home, venvs, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("SCALEMS_CHANNEL", "198.51.100.1")  # RFC 5737: nobody's
    with Run(build_of(venvs / "task")) as run:
        run.backend.start()
        assert "by RADICAL-Pilot's tasks: the session server does not answer" in caplog.text
        futures = [run(abs, -n) for n in range(300)]
        assert [result(future.result(LIMIT)) for future in futures] == list(range(300))
        data = os.urandom(5_000_000)
        assert run.value(bytes.swapcase, data) == data.swapcase()
        with pytest.raises(TaskLost):
            run.value(lambda: os._exit(3))
        held = [run(time.sleep, 3600) for _ in range(6)]
        for future in reversed(held):
            assert run.backend.cancel(future.call_id)
        for future in held:
            with pytest.raises(CancelledError):
                result(future.result(LIMIT))
        assert run.value(abs, -2) == 2


# --- the end --------------------------------------------------------------------------------


def test_a_closed_run_leaves_no_process_and_no_call_without_outcome(home, venvs, tmp_path):
    def hold(folder):
        Path(folder, "running").touch()
        time.sleep(3600)

    run = Run(build_of(venvs / "task"))
    future = run(hold, tmp_path)
    run.backend.start()
    until((tmp_path / "running").exists)
    run.backend.close()
    assert run.processes() == []
    with pytest.raises(CancelledError):
        result(future.result(0))
    with pytest.raises(CancelledError):
        run.value(abs, 1)
    run.backend.close()


def test_a_run_can_be_closed_before_it_is_started(venvs):
    with Run(build_of(venvs / "task")) as run:
        future = run(abs, 1)
        assert run.backend.cancel(future.call_id)
    with pytest.raises(CancelledError):
        result(future.result(0))
    with pytest.raises(BackendError):
        run.backend.start()
    assert not run.settings.folder.exists()


@pytest.mark.parametrize(
    "moment", ["starting the RADICAL-Pilot", "starting the task manager", "waiting for its agent"]
)
def test_a_run_can_be_closed_while_it_starts(home, venvs, moment):
    run = Run(build_of(venvs / "task"))
    failure = []

    def start():
        try:
            run.backend.start()
        except BackendError as error:
            failure.append(error)

    starter = threading.Thread(target=start)
    future = run(abs, 1)
    starter.start()
    until(lambda: any(moment in note for note in run.notes))
    run.backend.close(abort=True)
    assert run.processes() == []
    starter.join(LIMIT)
    assert not starter.is_alive()
    with pytest.raises(CancelledError):
        result(future.result(0))


CLIENT = """
import pickle, sys, time
from pathlib import Path
from scalems.radical.backend import RadicalBackend
from scalems.radical.launch import OwnServer
from scalems.workflow.call import Call, encode

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
backend = RadicalBackend(OwnServer(settings), notify=print, label="test")
def call(folder):
    from pathlib import Path
    import time
    Path(folder, "running").touch()
    time.sleep(3600)
backend.submit(Call(id=1, name="call", payload=encode(call, (sys.argv[2],), {})), print)
backend.start()
time.sleep(3600)
"""


def test_a_killed_client_leaves_no_process(home, venvs, tmp_path):
    import pickle

    run = Run(build_of(venvs / "task"))
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    (tmp_path / "settings").write_bytes(pickle.dumps(run.settings))
    client = subprocess.Popen([sys.executable, script, tmp_path / "settings", tmp_path])
    try:
        until((tmp_path / "running").exists)
        assert run.processes()
    finally:
        client.kill()
        client.wait()
    until(lambda: not run.processes())


# --- faults ---------------------------------------------------------------------------------


def clone(venvs, tmp_path, name="task"):
    """Copy a venv, to be broken."""
    folder = tmp_path / name
    shutil.copytree(venvs / name, folder, symlinks=True)
    for file in (folder / "venv" / "bin").iterdir():
        if not file.is_symlink():
            data = file.read_bytes()
            if b"\0" not in data:
                file.write_bytes(data.replace(bytes(venvs / name), bytes(folder)))
    return folder


def remove_scalems(venv):
    shutil.rmtree(probe.site_packages(venv) / "scalems" / "workflow")


def remove_rp(venv):
    shutil.rmtree(probe.site_packages(venv) / "radical" / "pilot")


def remove_python(venv):
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nonexistent/python")


def remove_activate(venv):
    (venv / "bin" / "activate").unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_scalems, "No module named 'scalems.workflow'"),
        (remove_rp, "radical.pilot|attribute"),
        (remove_python, "file not found|bad interpreter|No such file"),
        (remove_activate, "activate"),
    ],
)
def test_a_task_venv_that_broke_after_its_verification_is_told(
    home, venvs, tmp_path, damage, expected
):
    folder = clone(venvs, tmp_path)
    build = build_of(folder)
    with Run(build) as run:
        damage(folder / "venv")
        future = run(abs, 1)
        with pytest.raises(BackendError, match=f"Worker 0 has ended(.|\n)*({expected})") as caught:
            run.backend.start()
        assert str(run.settings.folder) in str(caught.value.remedy)
        with pytest.raises(BackendError, match="Worker 0 has ended"):
            result(future.result(LIMIT))


def test_a_worker_that_is_not_what_was_verified_stops_the_run(home, venvs):
    build = build_of(venvs / "task")
    versions = {**build.versions, "numpy": "0.9", "absent": "1.0"}
    with Run(replace(build, versions=versions, content_digest="abc")) as run:
        future = run(abs, 1)
        with pytest.raises(EnvironmentNotReady) as caught:
            run.backend.start()
        for part in ("numpy: expected 0.9", "absent: expected 1.0, found nothing", "abc"):
            assert part in str(caught.value)
        with pytest.raises(EnvironmentNotReady):
            result(future.result(LIMIT))


def test_a_node_that_has_not_what_was_asked_for_gives_the_pilot_back(home, venvs):
    """RP believes its definition, which says that this machine has a GPU."""
    with Run(build_of(venvs / "task"), options={"gpus": 1}) as run:
        future = run(abs, 1)
        with pytest.raises(EnvironmentNotReady) as caught:
            run.backend.start()
        assert f"the node {platform.node()} cannot run the calls" in caught.value.cause
        assert "it shows no GPU, and 1 were asked for" in caught.value.cause
        with pytest.raises(EnvironmentNotReady):
            result(future.result(LIMIT))


def other_python():
    """Return an interpreter of another minor version, if this machine has one."""
    for minor in range(10, 14):
        path = shutil.which(f"python3.{minor}")
        if path and minor != sys.version_info.minor:
            run = subprocess.run([path, "-V"], capture_output=True, check=False)
            if run.returncode == 0:
                return path
    return None


@pytest.mark.skipif(other_python() is None, reason="needs another minor version of Python")
def test_a_worker_of_another_python_stops_the_run(home, venvs, tmp_path):
    other = tmp_path / "other"
    make_venv(other / "venv", other_python(), venvs / "source")
    with Run(build_of(other)) as run, pytest.raises(EnvironmentNotReady, match="python: expected"):
        run.backend.start()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"virtenv": "/nonexistent"}, "given virtenv does not exist"),
        ({"agent_scheduler": "NONSENSE"}, "Scheduler NONSENSE unknown"),
        ({"agent_spawner": "NONSENSE"}, "NONSENSE unknown"),
        ({"agent_config": "nonsense"}, "nonsense|bridges"),
        ({"resource_manager": "NONSENSE"}, "NONSENSE"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_why_a_pilot_does_not_start_is_told(tmp_path, monkeypatch, venvs, fields, expected):
    make_home(tmp_path, monkeypatch, venvs / "pilot" / "venv", **fields)
    with (
        Run(build_of(venvs / "task")) as run,
        pytest.raises((BackendError, UsageError), match=expected),
    ):
        run.backend.start()


def test_an_unknown_resource_and_a_wrong_definition_are_wrong_use(tmp_path, monkeypatch, venvs):
    make_home(tmp_path, monkeypatch, venvs / "pilot" / "venv", nonsense=1)
    for label in ("local.elsewhere", "local.localhost"):
        with (
            Run(build_of(venvs / "task"), label=label) as run,
            pytest.raises(UsageError, match="local"),
        ):
            run.backend.start()


def process_of(run, title):
    """Return the process that has this in its command line."""
    for pid in run.processes():
        if title.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"no process {title}")


class Items:
    """What the items of a block give, one by one."""

    def __init__(self, run, function, count, *, once=False):
        self.told = {}
        self._changed = threading.Condition()
        self._count = count
        run.count += 1
        ((_, payload),) = encoded(function, [(n,) for n in range(count)])
        needs = Needs(once=once)
        block = Call(id=run.count, name="item", payload=payload, items=range(count), needs=needs)
        run.backend.submit(block, self._hear)

    def _hear(self, one):
        with self._changed:
            for outcome in one.outcomes() if isinstance(one, Answers) else [one]:
                assert outcome.item not in self.told
                self.told[outcome.item] = outcome
            self._changed.notify_all()

    def wait(self, count=None):
        """Wait until so many have ended; return which have."""
        with self._changed:
            wanted = self._count if count is None else count
            assert self._changed.wait_for(lambda: len(self.told) >= wanted, LIMIT)
            return set(self.told)


def test_a_run_survives_the_loss_of_its_parts(home, venvs, tmp_path):
    def item(n, folder=str(tmp_path), kind="item"):
        """Be lost the first time, if it is the hundredth one."""
        mark = Path(folder, f"{kind}-{n}")
        with mark.open("a") as ran:
            ran.write("x")
        if n == 100 and mark.stat().st_size == 1:
            time.sleep(3600)
        return n

    def only(n, folder=str(tmp_path)):
        return item(n, folder, "only")

    def ran(kind, n):
        return len((tmp_path / f"{kind}-{n}").read_text())

    def once(name):
        """Be lost the first time."""
        path = tmp_path / name
        if not path.exists():
            path.touch()
            time.sleep(3600)
        return "again"

    def begun(name):
        future = run(once, name)
        until((tmp_path / name).exists)
        return future

    def noted(text):
        return any(text in note for note in run.notes)

    with Run(build_of(venvs / "task"), pilots=2, slots=3) as run:
        run.backend.start()
        # A Worker amid parts of many items: only what was not told runs again.
        many, unsafe = Items(run, item, 400), Items(run, only, 150, once=True)
        unsafe.wait(149)
        until((tmp_path / "item-100").exists)
        before = many.wait(100)
        os.kill(process_of(run, "raptor-worker"), signal.SIGKILL)
        many.wait()
        assert [result(many.told[n]) for n in range(400)] == list(range(400))
        assert 100 not in before
        assert {ran("item", n) for n in before} == {1}
        assert ran("item", 100) == 2
        assert max(ran("item", n) for n in range(400)) == 2
        unsafe.wait()
        with pytest.raises(TaskLost, match=r"may have begun, and its task has cache=False"):
            result(unsafe.told.pop(100))
        assert [result(unsafe.told[n]) for n in sorted(unsafe.told)] == sorted(unsafe.told)
        assert {ran("only", n) for n in range(150)} == {1}
        # A Worker: another takes its place, and does again what may be done twice.
        future, unsafe = begun("one"), run(once, "unsafe", once=True)
        until((tmp_path / "unsafe").exists)
        os.kill(process_of(run, "raptor-worker"), signal.SIGKILL)
        with pytest.raises(TaskLost, match=r"may have begun, and its task has cache=False"):
            result(unsafe.result(LIMIT))
        assert result(future.result(LIMIT)) == "again"
        assert noted("Worker 2 takes its place")
        # The master: it is not needed for calls, and the new one has the next Worker.
        os.kill(process_of(run, "raptor-master"), signal.SIGKILL)
        until(lambda: noted("Another one was started"))
        assert run.value(abs, -1) == 1
        future = begun("two")
        os.kill(process_of(run, "raptor-worker"), signal.SIGKILL)
        assert result(future.result(LIMIT)) == "again"
        assert run.backend.status()["workers"] == "1"
        # The agent, and the whole pilot with it: the next one goes on.
        future = begun("three")
        os.kill(process_of(run, "rp.agent.0"), signal.SIGKILL)
        assert result(future.result(LIMIT)) == "again"
        assert noted("Going on in another pilot, 1 call")
        # There may be no third one.
        future = begun("four")
        run.settings = run.backend._server.settings
        os.kill(process_of(run, "rp.agent.0"), signal.SIGKILL)
        with pytest.raises(BackendError, match=r"has failed|has ended"):
            result(future.result(LIMIT))


@pytest.mark.parametrize("victim", ["agent", "server"])
def test_calls_fail_when_a_part_of_the_run_is_killed(home, venvs, tmp_path, victim):
    def hold(folder):
        Path(folder, "running").touch()
        time.sleep(3600)

    with Run(build_of(venvs / "task")) as run:
        future = run(hold, tmp_path)
        run.backend.start()
        until((tmp_path / "running").exists)
        server = run.backend._server._process.pid
        pid = server if victim == "server" else process_of(run, "rp.agent.0")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BackendError) as caught:
            result(future.result(LIMIT))
        assert str(run.settings.folder) in str(caught.value)
        with pytest.raises(BackendError):
            run.value(abs, 1)


@pytest.mark.slow
def test_a_scheduler_that_never_wakes_up_is_started_again(home, venvs, monkeypatch):
    """RP forks it while threads hold locks; now and then one of them is never let go."""
    monkeypatch.setenv("RADICAL_PROFILE", "TRUE")  # which tells when it is there

    def frozen():
        # Its process is there, and no task yet.
        made = first.folder.glob("**/pilot.0000/agent_scheduling.0000.prof")
        if not any("component_init" in path.read_text() for path in made):
            return False
        named = {}
        for pid in processes.members(first.run, first.folder):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if b"agent_scheduling" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    status = Path(f"/proc/{pid}/stat").read_text()
                    named[pid] = int(status.rpartition(")")[2].split()[1])
        forked = [pid for pid, parent in named.items() if parent in named]
        for pid in forked:
            os.kill(pid, signal.SIGSTOP)
        return bool(forked)

    with Run(build_of(venvs / "task")) as run:
        first = run.settings
        future = run(lambda: sys.prefix)
        watcher = threading.Thread(target=until, args=[frozen])
        watcher.start()
        run.backend.start()
        watcher.join()
        assert result(future.result(LIMIT)) == str(venvs / "task" / "venv")
        assert any("scheduler did nothing" in note for note in run.notes)
        assert processes.members(first.run, first.folder) == []
        run.settings = run.backend._server.settings
        assert run.settings.run != first.run
