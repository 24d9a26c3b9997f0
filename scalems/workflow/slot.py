"""One of the pool's threads: it owns a call process, and replaces it when it is lost."""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from scalems.workflow.call import CANCELLED, LOST, TIMEOUT, Call, Failure, failed
from scalems.workflow.child import ENDED
from scalems.workflow.needs import NONE, Needs
from scalems.workflow.process import CallProcess, Late, Launch, Lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.backend import Done
    from scalems.workflow.call import Outcome

_CHECK = 1.0  # seconds between two looks at a call that runs
_STALLED = 0.05  # seconds after which the calls behind a long one are given to others
_EXIT_LIMIT = 2.0  # seconds for an idle process to leave by itself

_log = logging.getLogger(__name__)


class Feeder(Protocol):
    """What a slot needs of its pool. All of it is done under the pool's lock."""

    @property
    def launch(self) -> Launch:
        """How processes are started."""
        ...

    def started(self, needs: Needs, gpus: Sequence[str]) -> CallProcess:
        """Return a process for calls; it may not be ready yet."""
        ...

    def take(self, slot: Slot) -> bool:
        """Wait for calls and give them to a slot; tell if there will be none any more."""
        ...

    def begin(self, slot: Slot, process: CallProcess) -> list[Call]:
        """Return the calls that a slot is to send now; some may have been cancelled."""
        ...

    def assign(self, slot: Slot, process: CallProcess | None) -> None:
        """Note which process a slot has."""
        ...

    def ended(self, slot: Slot, duration: float) -> tuple[Call, Done, bool]:
        """Note that the first call of a slot has ended; tell if it was cancelled."""
        ...

    def answered(self, slot: Slot, answers: Answers) -> Done:
        """Note that the first items of a slot's block have ended."""
        ...

    def give_back(self, slot: Slot) -> None:
        """Let others have the calls that a slot has sent and that have not begun."""
        ...

    def lost(self, slot: Slot) -> tuple[Call, Done, bool] | None:
        """Let others have the calls of a slot whose process is gone, but the one that had begun."""
        ...


class Slot(threading.Thread):
    """The thread that owns one call process, and replaces it when it is lost."""

    def __init__(self, pool: Feeder, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._pool = pool
        # What follows is changed by the pool only, under its lock.
        self.entries: deque[tuple[Call, Done]] = deque()
        """Calls that were sent, or are to be; the first one runs."""
        self.sent = False
        self.process: CallProcess | None = None
        self.cancelled: set[tuple[int, int | None]] = set()
        self.needs: Needs | None = None
        """What it has taken from the pool."""
        self.gpus: list[str] = []
        self.cpus: tuple[int, ...] = ()
        """Those that it has, or had last; empty if calls are not pinned."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = select.poll()
        self._poller.register(self._bell, select.POLLIN)
        self._polled: CallProcess | None = None
        self._said = False

    def ring(self) -> None:
        """End its rest; under the pool's lock."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def unhang(self) -> None:
        """Be rung no more; under the pool's lock, when the thread has ended."""
        bell, self._bell = self._bell, -1
        if bell >= 0 and not self.is_alive():
            os.close(bell)

    def rest(self) -> bool:
        """Wait until it is rung, or its process says something; tell if that does.

        Not for ever, if it has a process: that may have been sent a call meanwhile.
        """
        if self._polled is not self.process:
            self._poller = select.poll()
            self._poller.register(self._bell, select.POLLIN)
            if self.process is not None:
                self._poller.register(self.process.fileno(), select.POLLIN)
            self._polled = self.process
        self._said = False
        for number, _ in self._poller.poll(None if self.process is None else _CHECK * 1000):
            if number == self._bell:
                os.eventfd_read(self._bell)
            else:
                self._said = True
        return self._said

    def cancel(self, call_id: int, item: int | None) -> None:
        """End the process tree of a call that runs."""
        self.cancelled.add((call_id, item))
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
        self.drop(grace=_EXIT_LIMIT)

    def _serve(self) -> None:
        started = time.time()
        try:
            if self.sent and self.process is not None:
                process = self.process
            else:
                self._said = False
                process = self._ready()
                calls = self._pool.begin(self, process)
                if calls:
                    process.send(calls)
                if calls and calls[0].items is not None:
                    self._serve_block(process)
            while self.entries:
                started = time.time()
                outcome = self._next(process)
                if outcome is None:
                    continue  # all were taken back
                _, done, cancelled = self._pool.ended(self, outcome.ended - outcome.started)
                if cancelled:
                    self.drop()  # killed, or about to be
                report(done, outcome)
        except Lost as lost:
            self._lose(lost, started)

    def _serve_block(self, process: CallProcess) -> None:
        """Serve the items of a block until its process has done with it.

        :raises Lost: its process is gone, or was ended since an item has run for too long.
        """
        begun = time.monotonic()  # of the item that runs, or a little earlier
        news = None
        while news != ENDED:
            entry = self.entries[0][0] if self.entries else None
            limit = math.inf if entry is None or entry.timeout is None else begun + entry.timeout
            news = process.news(min(_STALLED, limit - time.monotonic()))
            if self._answer(process):
                begun = time.monotonic()
            elif news is None:
                self._pool.give_back(self)  # this one is long: let others have the rest
                if time.monotonic() >= limit:
                    raise Late
        if self.cancelled:
            self.cancelled.clear()
            self.drop()  # killed, or about to be
        if self.entries:  # pragma: no cover - a record is missing
            raise Lost("its process left out a call")

    def _answer(self, process: CallProcess) -> bool:
        """Pass on what items of the block have given; tell if there was something."""
        try:
            entry = self.entries[0][0]
        except IndexError:  # all were taken back
            return False
        answers = process.answers(entry)
        if answers is not None:
            report(self._pool.answered(self, answers), answers)
        return answers is not None

    def _ready(self) -> CallProcess:
        needs = self.needs or NONE
        if self.process is not None and self.process.ended:
            self.drop()  # e.g. a thread that the last call left has ended it
        if self.process is not None and not self.process.fits(needs, self.gpus):
            self.drop(grace=_EXIT_LIMIT)
        if self.process is None:
            process = self._pool.started(needs, self.gpus)
            self._pool.assign(self, process)
            process.wait_ready()
            process.pin(self.cpus)
            return process
        self.process.pin(self.cpus)
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
            there, self._said = self._said, False
            outcome = process.receive(min(pause, limit - time.monotonic()), there=there)
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
        if process is not None and self.sent and self.entries and self.entries[0][0].items:
            self._answer(process)  # what it had recorded
        pid, out, err = (process.pid, *process.output()) if process else (0, "", "")
        first = self._pool.lost(self)
        self.drop()
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
        report(done, replace(outcome, stdout=out, stderr=err))

    def drop(self, *, grace: float = 0.0) -> None:
        """End its process."""
        process = self.process
        self._pool.assign(self, None)
        if process is not None:
            process.close(grace=grace)


def report(done: Done, outcome: Outcome | Answers) -> None:
    """Tell an outcome; what fails then is logged."""
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
