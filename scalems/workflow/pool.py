"""A pool of persistent call processes, in this interpreter or in that of another venv.

A call process that exits, crashes or is killed is one failed call, and is replaced.
Output is captured at the level of file descriptors, child processes included.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scalems.errors import BackendError
from scalems.workflow.call import (
    CANCELLED,
    ENV_VARIABLE,
    LOST,
    TIMEOUT,
    Call,
    Failure,
    Outcome,
    failed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Done = Callable[[Outcome], None]

OUTPUT_LIMIT = 1_000_000
"""Bytes kept of each of a call's output streams: the last ones."""

_SPOOL_LIMIT = 64 * OUTPUT_LIMIT  # bytes a call may have on disk before they are cut
_START_LIMIT = 120.0  # seconds for an interpreter to start; a cold network disk is slow
_EXIT_LIMIT = 2.0  # seconds for an idle process to leave by itself
_CHECK = 1.0  # seconds between two looks at a call that runs

_log = logging.getLogger(__name__)

# `-c`, since `-m` would put the working folder on the path and a script's folder with it.
_START = (
    "import sys; sys.path[:1] = [] if sys.path[0] == '' else sys.path[:1];"
    " from scalems.workflow.child import main; main({descriptor})"
)


class CallPool:
    """Runs calls in up to `size` processes, which are started as they are needed.

    :param python: the interpreter, by default this one. That of a venv runs as in the
        activated venv, with nothing of this process's Python settings.
    :param env: variables added to the environment of the processes.
    :param cwd: the folder that calls run in.
    """

    def __init__(
        self,
        size: int,
        *,
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one process, not {size}")
        self._size = size
        self._launch = _Launch(python=python, env=dict(env or {}), cwd=cwd)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queued: OrderedDict[int, tuple[Call, Done]] = OrderedDict()
        self._running: dict[int, _Slot] = {}
        self._slots: list[_Slot] = []
        self._idle = 0
        self._closed = False
        self._refused: queue.SimpleQueue[tuple[Call, Done, Failure] | None] = queue.SimpleQueue()
        self._refuser: threading.Thread | None = None

    def submit(self, call: Call, done: Done) -> None:
        """Queue a call; its outcome is passed to `done`, once, in a thread of the pool.

        :raises BackendError: if the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("The pool of call processes is closed.")
            self._queued[call.id] = (call, done)
            if self._idle < len(self._queued) and len(self._slots) < self._size:
                slot = _Slot(self, f"scalems-call-{len(self._slots)}")
                self._slots.append(slot)
                slot.start()
            self._work.notify()

    def cancel(self, call_id: int) -> bool:
        """Stop a call: one that is queued never runs, one that runs is killed with its children.

        :returns: False if there is no such call, or no longer.
        """
        with self._lock:
            if (entry := self._queued.pop(call_id, None)) is not None:
                self._refuse(*entry, Failure(type=CANCELLED, message="cancelled before it ran"))
                return True
            slot = self._running.get(call_id)
            if slot is None:
                return False
            slot.cancelled = True
            slot.kill()
            return True

    def close(self, *, kill: bool = False) -> None:
        """End the pool, and every process of it; calls that were accepted are finished first.

        :param kill: do not wait: running calls are killed, and queued ones never run.
        """
        with self._lock:
            self._closed = True
            if kill:
                for entry in self._queued.values():
                    self._refuse(*entry, Failure(type=CANCELLED, message="the run was ended"))
                self._queued.clear()
                for slot in self._running.values():
                    slot.cancelled = True
                    slot.kill()
            self._work.notify_all()
        for slot in self._slots:
            if slot is not threading.current_thread():
                slot.join()
        with self._lock:
            refuser, self._refuser = self._refuser, None
        if refuser is not None:
            self._refused.put(None)
            if refuser is not threading.current_thread():
                refuser.join()

    def take(self, slot: _Slot) -> tuple[Call, Done] | None:
        """Wait for the next call; None when there will be none."""
        with self._lock:
            self._idle += 1
            while not self._queued:
                if self._closed:
                    return None
                self._work.wait()
            self._idle -= 1
            _, entry = self._queued.popitem(last=False)
            self._running[entry[0].id] = slot
            slot.cancelled = False
            return entry

    def finish(self, call: Call) -> bool:
        """Note that a call runs no more; tell if it was cancelled, were it at the last moment."""
        with self._lock:
            return self._running.pop(call.id).cancelled

    @property
    def launch(self) -> _Launch:
        """How processes are started."""
        return self._launch

    def _refuse(self, call: Call, done: Done, failure: Failure) -> None:
        # Not in the caller's thread: it may hold a lock that `done` needs.
        if self._refuser is None:
            self._refuser = threading.Thread(
                target=self._serve_refused, name="scalems-refused", daemon=True
            )
            self._refuser.start()
        self._refused.put((call, done, failure))

    def _serve_refused(self) -> None:
        while (item := self._refused.get()) is not None:
            call, done, failure = item
            _report(done, failed(call, failure))


class _Slot(threading.Thread):
    """The thread that owns one call process, and replaces it when it is lost."""

    def __init__(self, pool: CallPool, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._pool = pool
        self._process: _CallProcess | None = None
        self.cancelled = False

    def kill(self) -> None:
        """End the running call's process tree."""
        process = self._process
        if process is not None:
            process.kill()

    def run(self) -> None:
        """Serve calls until the pool is closed."""
        while (entry := self._pool.take(self)) is not None:
            call, done = entry
            try:
                outcome = self._serve(call)
            except Exception as error:  # the pool goes on, whatever the system refused us
                _log.exception("call %s could not be run", call.name)
                self._drop()
                outcome = failed(call, Failure(type=LOST, message=f"{call.name}: {error!r}"))
            if self._pool.finish(call):
                self._drop()  # killed, or about to be
            _report(done, outcome)
        self._drop(grace=_EXIT_LIMIT)

    def _serve(self, call: Call) -> Outcome:
        started = time.time()
        try:
            if self._process is not None and self._process.ended:
                self._drop()  # e.g. a thread that the last call left has ended it
            if self._process is None:
                self._process = _CallProcess(self._pool.launch)
                self._process.wait_ready()
            if self.cancelled:
                raise _Lost("cancelled")
            return self._process.run(call)
        except _Lost as lost:
            process = self._process
            pid, out, err = (process.pid, *process.output()) if process else (0, "", "")
            self._drop()
            if self.cancelled:
                failure = Failure(type=CANCELLED, message=f"{call.name} was cancelled")
            elif isinstance(lost, _Late):
                message = f"{call.name} was ended after {call.timeout:g} s, its timeout"
                failure = Failure(type=TIMEOUT, message=message)
            else:
                failure = Failure(type=LOST, message=_lost_message(call.name, str(lost), err))
            outcome = failed(
                call, failure, pid=pid, started=started, env=self._pool.launch.fingerprint
            )
            return replace(outcome, stdout=out, stderr=err)

    def _drop(self, *, grace: float = 0.0) -> None:
        if self._process is not None:
            self._process.close(grace=grace)
            self._process = None


class _Lost(Exception):
    """The call process cannot report any more; the text says why."""


class _Late(_Lost):
    """The call has run for longer than it may."""


class _Launch:
    """How the processes of a pool are started."""

    def __init__(self, *, python: Path | None, env: dict[str, str], cwd: Path | None) -> None:
        self.python = str(python or sys.executable)
        self.cwd = cwd
        self.path = None if python else sys.path
        self.env = dict(os.environ)
        if python is not None:
            for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__"):
                self.env.pop(name, None)
            self.env["PATH"] = f"{python.parent}{os.pathsep}{self.env.get('PATH', os.defpath)}"
            if (python.parent.parent / "pyvenv.cfg").is_file():
                self.env["VIRTUAL_ENV"] = str(python.parent.parent)
        self.env.update(env)
        self.fingerprint = self.env.get(ENV_VARIABLE, "")


class _CallProcess:
    """One call process, our end of its socket, and the files that its output goes to."""

    def __init__(self, launch: _Launch) -> None:
        self._kill_lock = threading.Lock()
        self._files: tuple[IO[bytes], IO[bytes]] = (_spool(), _spool())
        self._kept = [b"", b""]
        ours, theirs = socket.socketpair()
        try:
            self._link: Connection[Any, Any] = Connection(ours.detach())
            self._process = subprocess.Popen(
                [launch.python, "-c", _START.format(descriptor=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._files[0],
                stderr=self._files[1],
                env=launch.env,
                cwd=launch.cwd,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            self._link.close()
            for file in self._files:
                file.close()
            raise _Lost(f"no call process could be started: {error}") from error
        finally:
            theirs.close()
        self._poller = select.poll()  # Connection.poll makes a selector anew for each call
        self._poller.register(self._link.fileno(), select.POLLIN)
        self.pid = self._process.pid
        self._path = launch.path

    def wait_ready(self) -> None:
        """Return when the process can take calls."""
        try:
            self._link.send_bytes(pickle.dumps(self._path, protocol=5))
            limit = time.monotonic() + _START_LIMIT
            while not self._poller.poll(_CHECK * 1000):
                if time.monotonic() > limit:
                    raise _Lost(f"its process did not start within {_START_LIMIT:.0f} s")
                self._check_alive()
            self._link.recv_bytes()
        except (OSError, EOFError) as error:
            raise _Lost(f"its process could not start ({self._ending()})") from error

    def run(self, call: Call) -> Outcome:
        """Run a call; what the process printed before it is forgotten."""
        self._kept = [b"", b""]
        for file in self._files:
            os.ftruncate(file.fileno(), 0)
        try:
            self._link.send_bytes(pickle.dumps((call.id, call.name), protocol=5))
            self._link.send_bytes(call.payload)
            limit = time.monotonic() + (math.inf if call.timeout is None else call.timeout)
            while not self._poller.poll(max(0.0, min(_CHECK, limit - time.monotonic())) * 1000):
                self._check_alive()
                self._cut_output()
                if time.monotonic() >= limit:
                    raise _Late
            payload = self._link.recv_bytes()
            fields = pickle.loads(self._link.recv_bytes())
        except (OSError, EOFError) as error:
            raise _Lost(f"its process {self._ending()} before the call ended") from error
        out, err = self.output()
        return Outcome(**{**fields, "payload": payload, "stdout": out, "stderr": err})

    def output(self) -> tuple[str, str]:
        """Return the end of what was written to file descriptors 1 and 2."""
        return self._tail(0), self._tail(1)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill the process, those of its group, and all that descend from it."""
        with self._kill_lock:
            if self._process.returncode is None:
                _kill_tree(self.pid)

    def close(self, *, grace: float = 0.0) -> None:
        """End the process, with all that calls have left in its group."""
        self._link.close()
        if grace:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        with self._kill_lock:
            if self._process.poll() is None:
                _kill_tree(self.pid)
                self._process.wait()
            _kill_group(self.pid)
        for file in self._files:
            file.close()

    def _check_alive(self) -> None:
        # The end of the socket does not tell if a fork of the call still holds it.
        if self.ended:
            raise _Lost(f"its process {self._ending()} before the call ended")

    def _ending(self) -> str:
        try:
            code = self._process.wait(_EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"exited with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        hint = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"was killed by signal {name}{hint}"

    def _tail(self, index: int) -> str:
        number = self._files[index].fileno()
        size = os.fstat(number).st_size
        if not size and not self._kept[index]:
            return ""
        data = self._kept[index] + os.pread(number, OUTPUT_LIMIT, max(0, size - OUTPUT_LIMIT))
        cut = bool(self._kept[index]) or size > OUTPUT_LIMIT
        text = data[-OUTPUT_LIMIT:].decode("utf-8", "replace")
        return f"[... only the end is kept ...]\n{text}" if cut else text

    def _cut_output(self) -> None:
        for index, file in enumerate(self._files):
            size = os.fstat(file.fileno()).st_size
            if size > _SPOOL_LIMIT:
                self._kept[index] = os.pread(file.fileno(), OUTPUT_LIMIT, size - OUTPUT_LIMIT)
                os.ftruncate(file.fileno(), 0)


def _spool() -> IO[bytes]:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the process
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_APPEND)  # so that it can be emptied between calls
    return file


def _report(done: Done, outcome: Outcome) -> None:
    try:
        done(outcome)
    except Exception:
        _log.exception("the outcome of call %d could not be delivered", outcome.id)


def _lost_message(name: str, reason: str, stderr: str) -> str:
    lines = stderr.strip().splitlines()[-12:]
    text = f"{name}: {reason}."
    return (
        "\n".join([text, "End of its stderr:", *(f"  {line}" for line in lines)]) if lines else text
    )


def _kill_tree(pid: int) -> None:
    """Kill a process group, and the descendants of its leader that left the group."""
    for victim in (*_descendants(pid), pid):
        with contextlib.suppress(OSError):
            os.kill(victim, signal.SIGKILL)
    _kill_group(pid)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The command's name, in brackets, may itself hold spaces and brackets.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = children.get(pid, [])
    for child in found:  # grows while it is read
        found.extend(children.get(child, []))
    return found
