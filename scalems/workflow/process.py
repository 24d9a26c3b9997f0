"""One call process, seen from the pool that it belongs to.

Calls are sent several at a time, and it claims each by a byte from a pipe before it begins it:
so those that it has not begun can be taken back, and it is never in doubt which have begun. The
items of a block are claimed in shared memory, see ``scalems.workflow.records``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scalems.workflow import cores, oom, stamp
from scalems.workflow.call import ENV_VARIABLE, Call, Outcome
from scalems.workflow.child import APART, BLOBS, OUTPUT_LIMIT, RECORDED, cut, outcome_of, tail
from scalems.workflow.large import Blob, Large
from scalems.workflow.link import Link
from scalems.workflow.needs import NONE, Needs, variables
from scalems.workflow.records import Records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.large import Payload

MOST = 256
"""Calls that are sent together at most."""

_SPOOL_LIMIT = 64 * OUTPUT_LIMIT  # bytes a call may have on disk before they are cut
_START_LIMIT = 120.0  # seconds for an interpreter to start; a cold network disk is slow
_EXIT_LIMIT = 2.0  # seconds for a process that is ending
_CHECK = 1.0  # seconds between two looks at a process that starts

# `-c`, since `-m` would put the working folder on the path and a script's folder with it.
_START = (
    "import sys; sys.path[:1] = [] if sys.path[0] == '' else sys.path[:1];"
    " from scalems.workflow.child import main; main({descriptor}, {claims}, {records})"
)


class Lost(Exception):
    """The call process cannot report any more; the text says why."""


class Late(Lost):
    """The call has run for longer than it may."""


class Launch:
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
        self.stamp = self.env.get(stamp.VARIABLE, "")
        self._around = _around()

    def is_like(self, other: Launch) -> bool:
        """Return whether a process that was started so is as one that is started like the other.

        Where it looks for modules may differ: it is told that later.
        """
        names = ("python", "cwd", "env", "_around")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def _around() -> tuple[object, ...]:
    """Return what else a process inherits from this one, as far as a script may change it."""
    limits = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    try:
        folder = os.getcwd()  # noqa: PTH109 - of which no more is wanted
    except OSError:  # it is gone
        folder = ""
    return (
        *(folder, os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)),
        [resource.getrlimit(limit) for limit in limits],
    )


class CallProcess:
    """One call process, our end of its socket, and the files that its output goes to.

    :param needs: of the calls that it is for: libraries read at their start how many cores.
    :param gpus: those that it may use.
    """

    def __init__(self, launch: Launch, needs: Needs = NONE, gpus: Sequence[str] = ()) -> None:
        self._cores = needs.cores_per_rank
        self._gpus = list(gpus)
        self._cpus: tuple[int, ...] = ()
        self._kill_lock = threading.Lock()
        self._oom_kills = oom.kills()
        self._files: tuple[IO[bytes], IO[bytes]] = (_spool(), _spool())
        self._kept = [b"", b""]
        self._number = 0
        self._in_block = False
        self._payload: Payload = b""  # of the last block that it was sent
        self._claims, self._tokens = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # In memory, and ours: what an item has given outlives the process that has run it.
        self._memory = os.memfd_create("scalems-records")
        self._records = Records(self._memory)
        ours, theirs = socket.socketpair()
        self._link = Link(ours)
        self._blobs: deque[Blob] = deque()  # of items whose records were not read yet
        try:
            command = _START.format(
                descriptor=theirs.fileno(), claims=self._claims, records=self._memory
            )
            self._process = subprocess.Popen(
                [launch.python, "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=self._files[0],
                stderr=self._files[1],
                env={**launch.env, **variables(needs, gpus)},
                cwd=launch.cwd,
                pass_fds=[theirs.fileno(), self._claims, self._memory],
                start_new_session=True,
            )
        except OSError as error:
            self._close_all()
            raise Lost(f"no call process could be started: {error}") from error
        finally:
            theirs.close()
        self._poller = select.poll()  # Connection.poll makes a selector anew for each call
        self._poller.register(self._link.fileno(), select.POLLIN)
        self.pid = self._process.pid
        self._launch = launch
        self._path = launch.path
        self._env = launch.fingerprint
        self._stamp = launch.stamp

    def adopt(self, launch: Launch) -> bool:
        """Serve for a pool whose processes are started so; tell if that can be."""
        self._path = launch.path
        return self._launch.is_like(launch) and not self.ended

    def fileno(self) -> int:
        """Return a descriptor that can be read when the process says something."""
        return self._link.fileno()

    def fits(self, needs: Needs, gpus: Sequence[str]) -> bool:
        """Return whether it was started for such calls."""
        return self._cores == needs.cores_per_rank and self._gpus == list(gpus)

    def pin(self, cpus: tuple[int, ...]) -> None:
        """Keep it on these CPUs from now on; it stays where it is if there are none."""
        if cpus != self._cpus:
            self._cpus = cpus
            cores.pin(self.pid, cpus)

    def wait_ready(self) -> None:
        """Return when the process can take calls."""
        try:
            self._link.send(pickle.dumps(self._path, protocol=5))
            limit = time.monotonic() + _START_LIMIT
            while not self._poller.poll(_CHECK * 1000):
                if time.monotonic() > limit:
                    raise Lost(f"its process did not start within {_START_LIMIT:.0f} s")
                if self.ended:
                    raise EOFError
            self._link.receive()
        except (OSError, EOFError) as error:
            raise Lost(f"its process could not start ({self._ending()})") from error

    def offer(self, calls: Sequence[Call]) -> None:
        """Let the process take calls, or the items of a block, which :meth:`send` brings."""
        self._in_block = calls[0].items is not None
        if calls[0].items is not None:
            self._records.begin(len(calls[0].items))
        else:
            self._number = (self._number + 1) % 256
            os.write(self._tokens, bytes([self._number]) * len(calls))

    def take_back(self) -> int:
        """Return how many of the last calls or items it has not begun, and will not begin."""
        if self._in_block:
            return self._records.take_back()
        try:
            return len(os.read(self._claims, MOST))
        except BlockingIOError:
            return 0

    def send(self, calls: Sequence[Call]) -> None:
        """Send calls, to be run one after the other.

        :raises Lost: the process is gone.
        """
        self._kept = [b"", b""]
        known, payloads = False, [call.payload for call in calls]
        if calls[0].items is not None:
            self._blobs.clear()
            known, self._payload = payloads[0] is self._payload, payloads[0]
        if known:
            payloads = [b""]  # it has that of the block
        small = [
            (
                *(call.id, call.name, _head(payload)),
                *(call.area, None if call.needs is NONE or call.needs == NONE else call.needs),
                *(call.items, call.function),
            )
            for call, payload in zip(calls, payloads, strict=True)
        ]
        try:
            self._link.send(pickle.dumps((self._number, small), protocol=5))
            for payload in payloads:
                if isinstance(payload, Large):
                    self._link.send_blobs(payload.blobs)
                elif len(payload) > APART:
                    self._link.send(payload)
        except OSError as error:
            raise Lost(f"its process {self._ending()} before the call ended") from error

    def receive(self, timeout: float, *, there: bool = False) -> Outcome | None:
        """Return the next outcome, or ``None`` if there is none within some seconds.

        :param there: the process is known to have said something.
        :raises Lost: the process is gone.
        """
        try:
            data = self._link.receive() if there else self._message(timeout)
            if data is None:
                return None
            blobs, values = pickle.loads(data)
            outcome = outcome_of(values)
            if blobs < 0:
                outcome = replace(outcome, payload=self._link.receive())
            elif blobs:
                payload = Large(outcome.payload, self._link.receive_blobs(blobs))  # type: ignore[arg-type]
                outcome = replace(outcome, payload=payload)
        except (OSError, EOFError) as error:
            raise Lost(f"its process {self._ending()} before the call ended") from error
        if any(self._kept):
            out, err = (
                cut(kept + text.encode(), partial=True) if kept else text
                for kept, text in zip(self._kept, (outcome.stdout, outcome.stderr), strict=True)
            )
            outcome = replace(outcome, stdout=out, stderr=err)
            self._kept = [b"", b""]
        return outcome

    def news(self, timeout: float) -> bytes | None:
        """Return what the process says of its block within some seconds, if anything.

        :raises Lost: the process is gone.
        """
        try:
            return self._message(timeout)
        except (OSError, EOFError) as error:
            raise Lost(f"its process {self._ending()} before the call ended") from error

    def answers(self, call: Call) -> Answers | None:
        """Return what the first items of a block have given since the last time.

        :param call: the block, without those that have given something before.
        """
        return self._records.read(
            call, pid=self.pid, env=self._env, stamp=self._stamp, blobs=self._sent_before
        )

    def _sent_before(self, count: int) -> list[Blob]:
        """Return the next blobs, which the process has sent before it made the record of them."""
        while len(self._blobs) < count:
            self.news(_CHECK)
        return [self._blobs.popleft() for _ in range(count)]

    def _message(self, timeout: float) -> bytes | None:
        if self._poller.poll(max(0.0, timeout) * 1000):
            data: bytes = self._link.receive()
            if data.startswith(BLOBS):
                self._blobs += self._link.receive_blobs(int(data.removeprefix(BLOBS)))
                return RECORDED
            return data
        # The end of the socket does not tell if a fork of the call still holds it.
        if self.ended and not self._poller.poll(0):
            raise Lost(f"its process {self._ending()} before the call ended")
        self._cut_output()
        return None

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
        self._close_all()

    def _close_all(self) -> None:
        self._link.close()
        os.close(self._claims)
        os.close(self._tokens)
        os.close(self._memory)
        for file in self._files:
            file.close()

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
        return f"was killed by signal {name}" + self._why_killed() * (-code == signal.SIGKILL)

    def _why_killed(self) -> str:
        """Return what is known of why it was killed, as far as the kernel counts it."""
        now = oom.kills()
        if now is None or self._oom_kills is None:
            return " (often: out of memory)"
        if now > self._oom_kills:
            return ": out of memory, by the kernel, at the limit of its job or container"
        return ""

    def _tail(self, index: int) -> str:
        kept = self._kept[index]
        return cut(kept + tail(self._files[index].fileno()), partial=bool(kept))

    def _cut_output(self) -> None:
        for index, file in enumerate(self._files):
            size = os.fstat(file.fileno()).st_size
            if size > _SPOOL_LIMIT:
                self._kept[index] = os.pread(file.fileno(), OUTPUT_LIMIT, size - OUTPUT_LIMIT)
                os.ftruncate(file.fileno(), 0)


def _head(payload: Payload) -> bytes | tuple[bytes, int] | None:
    """Return what of a payload goes with the calls; the rest follows them."""
    if isinstance(payload, Large):
        return payload.stream, len(payload.blobs)
    return payload if len(payload) <= APART else None


def _spool() -> IO[bytes]:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the process
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_APPEND)  # so that it can be emptied between calls
    return file


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
