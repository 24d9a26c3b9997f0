"""A pool of persistent call processes, in this interpreter or in that of another venv.

A call process that exits, crashes or is killed is one failed call, and is replaced.
Short calls are sent several at a time; if one takes longer, others get those behind it.
Output is captured at the level of file descriptors, child processes included.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import BackendError, UsageError
from scalems.workflow.call import (
    CANCELLED,
    LOST,
    TIMEOUT,
    Call,
    Failure,
    Outcome,
    failed,
    failure_of,
)
from scalems.workflow.needs import NONE, Needs, machine_gpus
from scalems.workflow.process import MOST, CallProcess, Late, Launch, Lost
from scalems.workflow.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Done = Callable[[Outcome], None]

_CHECK = 1.0  # seconds between two looks at a call that runs
_TOGETHER = 0.02  # seconds of work that is sent together, as far as calls have shown
_STALLED = 0.05  # seconds after which the calls behind a long one are given to others
_EXIT_LIMIT = 2.0  # seconds for an idle process to leave by itself

_log = logging.getLogger(__name__)


class CallPool:
    """Runs calls in up to `size` processes, which are started as they are needed.

    Each stands for a core: a call that needs several runs when so many are free.

    :param python: the interpreter, by default this one. That of a venv runs as in the
        activated venv, with nothing of this process's Python settings.
    :param env: variables added to the environment of the processes.
    :param cwd: the folder that calls run in.
    :param gpus: names of the GPUs for calls that need some, by default all that are there.
    """

    def __init__(
        self,
        size: int,
        *,
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        gpus: Sequence[str] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one process, not {size}")
        self._size = size
        self._launch = Launch(python=python, env=dict(env or {}), cwd=cwd)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queued: Waiting[Done] = Waiting()
        self._cores = size  # that no slot has taken
        self._gpus = machine_gpus() if gpus is None else list(gpus)
        self._most_gpus = len(self._gpus)
        self._running: dict[int, _Slot] = {}
        self._slots: list[_Slot] = []
        self._idle = 0
        self._mean: float | None = None  # seconds that a call takes
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
            if (needs := call.needs).cores > self._size or needs.gpus > self._most_gpus:
                self._refuse(call, done, self._too_much(call))
                return
            self._queued.add(call, done)
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
            if (entry := self._queued.remove(call_id)) is not None:
                self._refuse(*entry, Failure(type=CANCELLED, message="cancelled before it ran"))
                return True
            slot = self._running.get(call_id)
            if slot is None:
                return False
            self._take_back(slot)
            if (entry := self._queued.remove(call_id)) is not None:
                self._refuse(*entry, Failure(type=CANCELLED, message="cancelled before it ran"))
            else:
                slot.cancel(call_id)
            return True

    def reclaim(self, count: int) -> list[int]:
        """Take out calls that have not begun, the last ones first; return their ids.

        They have no outcome, and will not run here.
        """
        with self._lock:
            if len(self._queued) < count:
                for slot in self._slots:
                    self._take_back(slot)
            return [self._queued.take_last()[0].id for _ in range(min(count, len(self._queued)))]

    def close(self, *, kill: bool = False) -> None:
        """End the pool, and every process of it; calls that were accepted are finished first.

        :param kill: do not wait: running calls are killed, and queued ones never run.
        """
        with self._lock:
            self._closed = True
            if kill:
                for slot in self._slots:
                    self._take_back(slot)
                for entry in self._queued:
                    self._refuse(*entry, Failure(type=CANCELLED, message="the run was ended"))
                self._queued.clear()
                for ident, slot in self._running.items():
                    slot.cancel(ident)
                for slot in self._slots:
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

    def take(self, slot: _Slot) -> bool:
        """Wait for calls and give them to a slot; tell if there will be none any more."""
        with self._lock:
            self._release(slot)
            self._idle += 1
            while not self._queued or not self._fits(self._queued.first()[0].needs):
                if self._closed and not self._queued:
                    return False
                self._work.wait()
            self._idle -= 1
            slot.sent = False
            slot.needs = needs = self._queued.first()[0].needs
            self._cores -= needs.cores
            slot.gpus = [self._gpus.pop(0) for _ in range(needs.gpus)]
            for _ in range(self._share()):
                if slot.entries and not _alike(self._queued.first()[0].needs, needs):
                    break
                call, done = self._queued.take()
                self._running[call.id] = slot
                slot.entries.append((call, done))
            return True

    def _share(self) -> int:
        """Return how many calls to take at once: few if they are long, or if few are left."""
        if self._mean is None:
            return 1
        fair = len(self._queued) // (2 * self._size)
        share = max(1, min(fair, int(_TOGETHER / max(self._mean, 1e-6)), MOST))
        return min(share, len(self._queued))

    def _fits(self, needs: Needs) -> bool:
        return needs.cores <= self._cores and needs.gpus <= len(self._gpus)

    def _release(self, slot: _Slot) -> None:
        """Take back the cores and GPUs of a slot."""
        if slot.needs is None:
            return
        self._cores += slot.needs.cores
        self._gpus = sorted([*self._gpus, *slot.gpus])
        if slot.needs.cores > 1 or slot.gpus:
            self._work.notify_all()  # it may be enough for several
        slot.needs = None

    def _too_much(self, call: Call) -> Failure:
        has = Needs(cores_per_rank=self._size).text()
        if self._most_gpus or call.needs.gpus:
            has += f" and {self._most_gpus} GPUs"
        return failure_of(
            UsageError(
                f"{call.name} needs {call.needs.text()}, and a worker has {has} here.",
                remedy="ask for less, or give workers more (-j, --cores)",
            )
        )

    def begin(self, slot: _Slot, process: CallProcess) -> list[Call]:
        """Return the calls that a slot is to send now; some may have been cancelled."""
        with self._lock:
            slot.sent = True
            process.offer(len(slot.entries))
            return [call for call, _ in slot.entries]

    def assign(self, slot: _Slot, process: CallProcess | None) -> None:
        """Note which process a slot has."""
        with self._lock:
            slot.process = process

    def ended(self, slot: _Slot, duration: float) -> tuple[Call, Done, bool]:
        """Note that the first call of a slot has ended; tell if it was cancelled.

        :param duration: seconds that it took.
        """
        with self._lock:
            # A long call weighs at once, a short one slowly.
            if self._mean is None or duration > self._mean:
                self._mean = duration
            else:
                self._mean += 0.1 * (duration - self._mean)
            return self._pop(slot)

    def give_back(self, slot: _Slot) -> None:
        """Let others have the calls that a slot has sent and that have not begun."""
        with self._lock:
            self._take_back(slot)

    def lost(self, slot: _Slot) -> tuple[Call, Done, bool] | None:
        """Let others have the calls of a slot whose process is gone, but the one that had begun.

        If it did not even start, the first one is what it was started for.

        :return: that call, and whether it was cancelled.
        """
        with self._lock:
            if slot.sent and slot.process is not None:
                self._requeue(slot, slot.process.take_back())
            else:
                self._requeue(slot, max(0, len(slot.entries) - 1))
            slot.sent = False
            return self._pop(slot) if slot.entries else None

    def _pop(self, slot: _Slot) -> tuple[Call, Done, bool]:
        call, done = slot.entries.popleft()
        del self._running[call.id]
        cancelled = call.id in slot.cancelled
        slot.cancelled.discard(call.id)
        return call, done, cancelled

    def _take_back(self, slot: _Slot) -> None:
        if slot.sent and slot.process is not None:
            self._requeue(slot, slot.process.take_back())
        else:
            self._requeue(slot, len(slot.entries))

    def _requeue(self, slot: _Slot, count: int) -> None:
        for _ in range(count):
            call, done = slot.entries.pop()
            del self._running[call.id]
            self._queued.add(call, done, first=True)
        self._work.notify(count)

    @property
    def launch(self) -> Launch:
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
        # What follows is changed by the pool only, under its lock.
        self.entries: deque[tuple[Call, Done]] = deque()
        """Calls that were sent, or are to be; the first one runs."""
        self.sent = False
        self.process: CallProcess | None = None
        self.cancelled: set[int] = set()
        self.needs: Needs | None = None
        """What it has taken from the pool."""
        self.gpus: list[str] = []

    def cancel(self, call_id: int) -> None:
        """End the running call's process tree."""
        self.cancelled.add(call_id)
        self.kill()

    def kill(self) -> None:
        """End the process tree."""
        if self.process is not None:
            self.process.kill()

    def run(self) -> None:
        """Serve calls until the pool is closed."""
        while self._pool.take(self):
            try:
                self._serve()
            except Exception as error:  # the pool goes on, whatever the system refused us
                _log.exception("calls could not be run")
                self._lose(Lost(repr(error)), time.time())
        self._drop(grace=_EXIT_LIMIT)

    def _serve(self) -> None:
        started = time.time()
        try:
            process = self._ready()
            calls = self._pool.begin(self, process)
            if calls:
                process.send(calls)
            while self.entries:
                started = time.time()
                outcome = self._next(process)
                if outcome is None:
                    continue  # all were taken back
                _, done, cancelled = self._pool.ended(self, outcome.ended - outcome.started)
                if cancelled:
                    self._drop()  # killed, or about to be
                _report(done, outcome)
        except Lost as lost:
            self._lose(lost, started)

    def _ready(self) -> CallProcess:
        needs = self.needs or NONE
        if self.process is not None and self.process.ended:
            self._drop()  # e.g. a thread that the last call left has ended it
        if self.process is not None and not self.process.fits(needs, self.gpus):
            self._drop(grace=_EXIT_LIMIT)
        if self.process is None:
            process = CallProcess(self._pool.launch, needs, self.gpus)
            self._pool.assign(self, process)
            process.wait_ready()
            return process
        return self.process

    def _next(self, process: CallProcess) -> Outcome | None:
        """Return the outcome of the first call; ``None`` if there is none any more.

        :raises Lost: its process is gone, or was ended since the call has run for too long.
        """
        begun = time.monotonic()
        while self.entries:
            call = self.entries[0][0]
            limit = begun + (math.inf if call.timeout is None else call.timeout)
            pause = _STALLED if len(self.entries) > 1 else _CHECK
            outcome = process.receive(min(pause, limit - time.monotonic()))
            if outcome is not None:
                return outcome
            if len(self.entries) > 1:
                self._pool.give_back(self)  # this one is long: let others have the rest
            if time.monotonic() >= limit:
                raise Late
        return None

    def _lose(self, lost: Lost, started: float) -> None:
        """End the first call by a failure; the others had not begun."""
        process = self.process
        pid, out, err = (process.pid, *process.output()) if process else (0, "", "")
        first = self._pool.lost(self)
        self._drop()
        if first is None:
            return
        call, done, cancelled = first
        if cancelled:
            failure = Failure(type=CANCELLED, message=f"{call.name} was cancelled")
        elif isinstance(lost, Late):
            message = f"{call.name} was ended after {call.timeout:g} s, its timeout"
            failure = Failure(type=TIMEOUT, message=message)
        else:
            failure = Failure(type=LOST, message=_lost_message(call.name, str(lost), err))
        outcome = failed(call, failure, pid=pid, started=started, env=self._pool.launch.fingerprint)
        _report(done, replace(outcome, stdout=out, stderr=err))

    def _drop(self, *, grace: float = 0.0) -> None:
        process = self.process
        self._pool.assign(self, None)
        if process is not None:
            process.close(grace=grace)


def _alike(needs: Needs, other: Needs) -> bool:
    """Return whether calls can be sent together: each takes what the first one has taken."""
    return needs is other or (needs.cores == needs.ranks == other.cores == 1 and not needs.gpus)


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
