from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from scalems.errors import BackendError, SerializationError, TaskError, TaskLost
from scalems.workflow.call import CANCELLED, LOST, Call, Outcome, encode, failure_in, result
from scalems.workflow.child import OUTPUT_LIMIT
from scalems.workflow.pool import CallPool

LIMIT = 60  # seconds: for things that must happen


class Caller:
    """Submits calls to a pool, and gives futures of their outcomes."""

    def __init__(self, pool):
        self.pool = pool
        self.count = 0

    def __call__(self, function, *args, **kwargs):
        self.count += 1
        future = Future()
        future.call_id = self.count
        payload = encode(function, args, kwargs)
        call = Call(id=self.count, name=getattr(function, "__name__", "?"), payload=payload)
        self.pool.submit(call, future.set_result)
        return future

    def outcome(self, function, *args, **kwargs):
        return self(function, *args, **kwargs).result(LIMIT)

    def value(self, function, *args, **kwargs):
        return result(self.outcome(function, *args, **kwargs))


@pytest.fixture
def caller(request, tmp_path):
    pool = CallPool(getattr(request, "param", 1), cwd=tmp_path)
    yield Caller(pool)
    pool.close(kill=True)
    # A pool that was closed has no thread and no process left.
    assert not [t for t in threading.enumerate() if t.name.startswith("scalems")]
    assert not running_children()


def running_children():
    return subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True
    ).stdout.count("scalems.workflow.child")


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_calls_run_in_one_persistent_process(caller):
    pids = {caller.value(os.getpid) for _ in range(5)}
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert caller.outcome(abs, -1).pid in pids


@pytest.mark.parametrize("caller", [2], indirect=True)
def test_a_pool_runs_as_many_calls_at_once_as_it_has_processes(caller, tmp_path):
    def meet(mine, other):
        Path(mine).touch()
        limit = time.monotonic() + 60
        while not Path(other).exists():
            assert time.monotonic() < limit
            time.sleep(0.01)
        return os.getpid()

    first, second = caller(meet, "a", "b"), caller(meet, "b", "a")
    assert result(first.result(LIMIT)) != result(second.result(LIMIT))


def exits():
    print("partial", flush=True)
    os._exit(7)


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults():
    import ctypes

    ctypes.string_at(0)


def closes_all_files():
    os.closerange(0, 4096)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (exits, "exited with code 7"),
        (is_killed, "SIGKILL"),
        (segfaults, "SIGSEGV"),
        (closes_all_files, "segfaults|killed|closed|exited"),
    ],
)
def test_a_lost_process_is_one_failed_call(caller, function, expected):
    before = caller.value(os.getpid)
    outcome = caller.outcome(function)
    with pytest.raises(TaskLost, match=expected) as caught:
        result(outcome)
    assert function.__name__ in str(caught.value)
    assert outcome.pid == before
    assert caller.value(os.getpid) != before


def test_a_crash_keeps_the_output_and_shows_the_end_of_stderr(caller):
    assert caller.outcome(exits).stdout == "partial\n"
    with pytest.raises(TaskLost, match="Segmentation fault"):
        caller.value(segfaults)


def raises_exit():
    raise SystemExit(4)


def raises_interrupt():
    raise KeyboardInterrupt


def interrupts_itself():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(LIMIT)


@pytest.mark.parametrize("function", [raises_exit, raises_interrupt, interrupts_itself])
def test_exits_and_interrupts_fail_the_call_and_keep_the_process(caller, function):
    before = caller.value(os.getpid)
    with pytest.raises(TaskError, match=r"SystemExit|KeyboardInterrupt"):
        caller.value(function)
    assert caller.value(os.getpid) == before


def test_a_result_that_cannot_be_pickled_fails_the_call(caller):
    with pytest.raises(SerializationError, match="the result"):
        caller.value(threading.Lock)


def test_output_is_captured_from_descriptors_and_children(caller):
    def speak():
        print("from print")
        os.write(1, b"from write\n")
        os.system("echo from child; echo to stderr >&2")
        print("err", file=sys.stderr)

    outcome = caller.outcome(speak)
    assert outcome.stdout.splitlines() == ["from print", "from write", "from child"]
    assert outcome.stderr.splitlines() == ["to stderr", "err"]
    assert caller.outcome(abs, 1).stdout == ""


def test_a_hundred_megabytes_of_output_are_cut(caller):
    def flood():
        line = b"x" * 99 + b"\n"
        for _ in range(1000):
            os.write(1, line * 1000)
        print("the end")

    outcome = caller.outcome(flood)
    assert outcome.ok
    assert outcome.stdout.endswith("the end\n")
    assert outcome.stdout.startswith("[...")
    assert len(outcome.stdout) < OUTPUT_LIMIT + 100


def test_output_of_a_long_call_is_cut_while_it_runs(caller):
    def flood(flag):
        os.write(1, b"x" * 80_000_000 + b"last before\n")
        limit = time.monotonic() + 60
        while os.fstat(1).st_size > 1_000_000:
            assert time.monotonic() < limit
            time.sleep(0.05)
        print("after")

    outcome = caller.outcome(flood, "flag")
    assert result(outcome) is None
    assert outcome.stdout.endswith("last before\nafter\n")


def test_closed_and_replaced_streams_are_good_again_for_the_next_call(caller):
    def spoil():
        sys.stdout.close()
        os.close(1)
        os.close(2)
        sys.stderr = None

    assert caller.outcome(spoil).ok
    outcome = caller.outcome(lambda: (print("out"), print("err", file=sys.stderr)))
    assert (outcome.stdout, outcome.stderr) == ("out\n", "err\n")


def test_the_working_folder_is_the_same_for_every_call(caller, tmp_path):
    caller.value(os.chdir, "/")
    assert caller.value(os.getcwd) == str(tmp_path)


def test_a_fork_inside_a_call_gives_one_outcome(caller):
    def forks():
        return os.fork() and "parent"

    for _ in range(3):
        assert caller.value(forks) == "parent"
    assert caller.value(abs, -2) == 2


def test_a_process_that_dies_while_its_fork_lives_is_noticed(caller):
    def forks_and_dies():
        if os.fork() == 0:
            time.sleep(LIMIT)
        os._exit(5)

    with pytest.raises(TaskLost, match="code 5"):
        caller.value(forks_and_dies)


def test_a_thread_that_ends_the_process_after_its_call_harms_no_other_call(caller):
    def leaves_a_bomb():
        def bomb():
            while Path("fuse").exists():
                time.sleep(0.01)
            os._exit(9)

        Path("fuse").touch()
        threading.Thread(target=bomb).start()
        return os.getpid(), Path("fuse").resolve()

    pid, fuse = caller.value(leaves_a_bomb)
    fuse.unlink()
    until(lambda: not is_alive(pid))
    assert caller.value(os.getpid) != pid


def test_left_over_threads_do_not_keep_a_pool_open(tmp_path):
    pool = CallPool(1, cwd=tmp_path)
    caller = Caller(pool)

    def leaves_a_thread():
        threading.Thread(target=time.sleep, args=(3600,)).start()
        return os.getpid()

    pid = caller.value(leaves_a_thread)
    pool.close()
    assert not is_alive(pid)


def test_fifty_megabytes_go_there_and_back(caller):
    data = os.urandom(50_000_000)
    assert caller.value(bytes.swapcase, data) == data.swapcase()


def test_cancelling_kills_the_process_tree_of_a_running_call(caller, tmp_path):
    def long():
        child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
        Path("new").write_text(f"{os.getpid()} {child.pid}")
        Path("new").rename("pids")
        time.sleep(3600)

    future = caller(long)
    until((tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(is_alive, pids))
    assert caller.pool.cancel(future.call_id)
    with pytest.raises(CancelledError):
        result(future.result(LIMIT))
    until(lambda: not any(map(is_alive, pids)))
    assert not caller.pool.cancel(future.call_id)
    assert caller.value(abs, -3) == 3


def test_a_cancelled_queued_call_never_runs(caller, tmp_path):
    def wait():
        Path("running").touch()
        while not Path("go").exists():
            time.sleep(0.01)

    first = caller(wait)
    until((tmp_path / "running").exists)
    second = caller(Path.touch, tmp_path / "mark")
    assert caller.pool.cancel(second.call_id)
    with pytest.raises(CancelledError):
        result(second.result(LIMIT))
    (tmp_path / "go").touch()
    assert result(first.result(LIMIT)) is None
    assert not (tmp_path / "mark").exists()


def test_cancelling_inside_a_lock_that_done_needs_is_safe(tmp_path):
    pool = CallPool(1, cwd=tmp_path)
    lock, done = threading.Lock(), []

    def note(outcome):
        with lock:
            done.append(outcome.id)

    payload = encode(time.sleep, (3600,), {})
    with lock:
        for ident in range(10):
            pool.submit(Call(id=ident, name="sleep", payload=payload), note)
        for ident in range(10):
            assert pool.cancel(ident)
    pool.close()
    assert sorted(done) == list(range(10))


def test_closing_finishes_what_was_accepted(tmp_path):
    pool = CallPool(1, cwd=tmp_path)
    caller = Caller(pool)
    futures = [caller(abs, -n) for n in range(20)]
    pool.close()
    assert [result(future.result(0)) for future in futures] == list(range(20))
    pool.close()
    with pytest.raises(BackendError):
        caller(abs, 1)


def test_closing_with_kill_ends_running_and_queued_calls(tmp_path):
    pool = CallPool(1, cwd=tmp_path)
    caller = Caller(pool)
    futures = [caller(time.sleep, 3600) for _ in range(5)]
    pool.close(kill=True)
    for future in futures:
        with pytest.raises(CancelledError):
            result(future.result(0))


def test_a_function_of_the_callback_that_fails_does_not_stop_the_pool(caller, caplog):
    def bad(outcome):
        raise RuntimeError("callback")

    caller.pool.submit(Call(id=-1, name="abs", payload=encode(abs, (1,), {})), bad)
    assert caller.value(abs, -1) == 1
    assert "could not be delivered" in caplog.text


def test_an_interpreter_that_cannot_serve_is_told(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no module named cloudpickle >&2\nexit 1\n")
    python.chmod(0o755)
    pool = CallPool(1, python=python)
    with pytest.raises(TaskLost, match=r"could not start.*code 1(.|\n)*no module named"):
        Caller(pool).value(abs, 1)
    pool.close()
    pool = CallPool(1, python=tmp_path / "absent")
    with pytest.raises(TaskLost, match="could be started"):
        Caller(pool).value(abs, 1)
    pool.close()


def test_a_foreign_venv_is_entered_clean(tmp_path, monkeypatch):
    import venv

    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    import cloudpickle

    import scalems

    for package in (cloudpickle, scalems):
        source = Path(package.__file__).parent
        (Path(site) / source.name).symlink_to(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "intruder"))
    pool = CallPool(1, python=python, env={"SCALEMS_ENV_DIGEST": "abc"}, cwd=tmp_path)
    try:
        caller = Caller(pool)
        outcome = caller.outcome(lambda: (sys.prefix, sys.path, os.environ["VIRTUAL_ENV"]))
        prefix, path, activated = result(outcome)
        assert prefix == activated == str(tmp_path / "venv")
        assert not [entry for entry in path if entry in ("", str(tmp_path)) or "intruder" in entry]
        assert outcome.env == "abc"
        assert caller.value(lambda: __import__("shutil").which("python")) == str(python)
    finally:
        pool.close()


KILLED_CLIENT = """
import os, subprocess, sys, time
from pathlib import Path
from scalems.workflow.call import Call, encode
from scalems.workflow.pool import CallPool

def long(spin):
    child = subprocess.Popen(["sleep", "3600"])
    Path("new").write_text(f"{os.getpid()} {child.pid}")
    Path("new").rename("pids")
    while spin:
        pass
    time.sleep(3600)

pool = CallPool(1)
pool.submit(Call(id=1, name="long", payload=encode(long, (SPIN,), {})), print)
if os.fork() == 0:  # keeps our end of the socket open
    Path("fork").write_text(str(os.getpid()))
    time.sleep(3600)
time.sleep(3600)
"""


@pytest.mark.parametrize("spin", [True, False])
def test_children_do_not_outlive_a_killed_client(tmp_path, spin):
    script = tmp_path / "client.py"
    script.write_text(KILLED_CLIENT.replace("SPIN", str(spin)))
    client = subprocess.Popen([sys.executable, script], cwd=tmp_path)
    try:
        until(lambda: (tmp_path / "pids").exists() and (tmp_path / "fork").exists())
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(is_alive, pids))
    finally:
        client.kill()
        client.wait()
    until(lambda: not any(map(is_alive, pids)))
    os.kill(int((tmp_path / "fork").read_text()), signal.SIGKILL)


def test_short_calls_travel_together_and_a_long_one_holds_up_nobody(tmp_path):
    with contextlib.closing(CallPool(2, cwd=tmp_path)) as pool:
        outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

        def work(folder, index):
            import os
            import time
            from pathlib import Path

            Path(folder, f"{index}.{os.getpid()}").touch()
            if index == 210:
                Path(folder, "waiting").touch()
                while not Path(folder, "go").exists():
                    time.sleep(0.01)
            return index

        for index in range(500):
            call = Call(id=index, name="work", payload=encode(work, (str(tmp_path), index), {}))
            pool.submit(call, outcomes.put)
        ended = [outcomes.get(timeout=60).id for _ in range(499)]
        assert 210 not in ended  # all others have ended while it runs
        (tmp_path / "go").touch()
        assert outcomes.get(timeout=60).id == 210
        ran = [path.name.split(".")[0] for path in tmp_path.glob("*.*")]
        assert sorted(map(int, ran)) == list(range(500))  # none of them twice


def test_each_of_many_short_calls_can_be_cancelled_or_crash_by_itself(tmp_path):
    with contextlib.closing(CallPool(2, cwd=tmp_path)) as pool:
        outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

        def work(index):
            import os
            import sys

            print(index)
            if index % 50 == 7:
                sys.stdout.flush()
                os.kill(os.getpid(), 9)
            return index

        for index in range(400):
            call = Call(id=index, name="work", payload=encode(work, (index,), {}))
            pool.submit(call, outcomes.put)
        cancelled = {index for index in range(399, 0, -3) if pool.cancel(index)}
        got = {outcome.id: outcome for outcome in (outcomes.get(timeout=60) for _ in range(400))}
        assert sorted(got) == list(range(400))
        assert cancelled
        for index, outcome in got.items():
            if index in cancelled:
                assert outcome.ok or failure_in(outcome).type in (CANCELLED, LOST)
            elif index % 50 == 7:
                assert failure_in(outcome).type == LOST
                assert outcome.stdout == f"{index}\n"
            else:
                assert (outcome.ok, outcome.stdout) == (True, f"{index}\n")


def doubled(data):
    import resource

    more = data + data
    return len(more), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_large_argument_is_not_held_twice_while_its_call_runs(caller):
    size = 60_000_000
    _, before = caller.value(doubled, b"")
    length, after = caller.value(doubled, bytes(size))
    assert length == 2 * size
    assert after - before < 3.5 * size  # the argument, and what the function makes of it


def test_a_process_that_dies_between_two_calls_costs_no_call(caller):
    for number in range(5):
        pid = caller.value(os.getpid)
        os.kill(pid, signal.SIGKILL)
        if number % 2:
            until(lambda pid=pid: not is_alive(pid))
        assert caller.value(os.getpid) != pid


@pytest.mark.parametrize("caller", [2], indirect=True)
def test_calls_of_many_threads_have_one_outcome_each(caller):
    """Some go straight to an idle process, some wait; some are cancelled at any moment."""
    told: list[int] = []
    lock = threading.Lock()

    def serve(thread: int) -> None:
        for number in range(100):
            ident, ended = 1000 * thread + number, threading.Event()

            def done(outcome: Outcome, ended: threading.Event = ended) -> None:
                with lock:
                    told.append(outcome.id)
                ended.set()

            call = Call(id=ident, name="abs", payload=encode(abs, (-number,), {}))
            caller.pool.submit(call, done)
            if number % 20 == thread:
                caller.pool.cancel(ident)
            if number % 3:
                assert ended.wait(LIMIT)

    threads = [threading.Thread(target=serve, args=(one,)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(told) == 400)
    assert len(set(told)) == 400


@pytest.mark.parametrize("caller", [2], indirect=True)
def test_two_calls_run_side_by_side_also_if_only_one_process_is_there_yet(caller, tmp_path):
    def meet(name):
        Path(name).touch()
        while len(list(Path().iterdir())) < 2:
            time.sleep(0.02)

    caller.value(abs, -1)  # the first process waits for a call now
    time.sleep(0.2)
    for future in [caller(meet, name) for name in "ab"]:
        result(future.result(LIMIT))
