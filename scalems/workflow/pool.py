"""A pool of persistent call processes, in this interpreter or in that of another venv.

A call process that exits, crashes or is killed is one failed call, and is replaced.
Short calls are sent several at a time; if one takes longer, others get those behind it.
Output is captured at the level of file descriptors, child processes included.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import BackendError, UsageError
from scalems.workflow import block
from scalems.workflow.call import CANCELLED, Call, Failure, failed, failure_of
from scalems.workflow.child import APART
from scalems.workflow.cores import Cores
from scalems.workflow.large import Large
from scalems.workflow.needs import NONE, Needs, machine_gpus
from scalems.workflow.process import MOST, CallProcess, Launch, Lost
from scalems.workflow.slot import Slot, report
from scalems.workflow.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.backend import Done

_TOGETHER = 0.02  # seconds of work that is sent together, as far as calls have shown
_LEAST = 0.001  # seconds of items of a block that are not worth sharing out
_NAMES = 1000  # functions whose duration is remembered


class CallPool:
    """Runs calls in up to `size` processes, which are started as they are needed.

    Each stands for a core: a call that needs several runs when so many are free.

    :param python: the interpreter, by default this one. That of a venv runs as in the
        activated venv, with nothing of this process's Python settings.
    :param env: variables added to the environment of the processes.
    :param cwd: the folder that calls run in.
    :param gpus: names of the GPUs for calls that need some, by default all that are there.
    :param cpus: numbers of the CPUs that calls are pinned to, each to its own; with fewer than
        `size`, and by default, they run where the system lets them.
    :param spare: a process that was started before, for a call on one core; it is closed with the
        pool, or at once if one that is started now would be another.
    """

    def __init__(
        self,
        size: int,
        *,
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        gpus: Sequence[str] | None = None,
        cpus: Sequence[int] = (),
        spare: CallProcess | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one process, not {size}")
        self._size = size
        self._launch = Launch(python=python, env=dict(env or {}), cwd=cwd)
        if spare is not None and not spare.adopt(self._launch):
            spare.close()
            spare = None
        self._spare = spare
        self._lock = threading.Lock()
        self._queued: Waiting[Done] = Waiting()
        self._cores = Cores(size, cpus)  # that no slot has taken
        self._gpus = machine_gpus() if gpus is None else list(gpus)
        self._most_gpus = len(self._gpus)
        self._running: dict[int, Slot] = {}
        self._slots: list[Slot] = []
        self._idle: set[Slot] = set()
        self._resting: dict[Slot, None] = {}  # those of the idle ones that were not rung
        self._mean: float | None = None  # seconds that a call takes
        self._means: dict[str, float] = {}  # the same for the items of blocks, by name
        self._closed = False
        self._refused: queue.SimpleQueue[tuple[Call, Done, Failure] | None] = queue.SimpleQueue()
        self._refuser: threading.Thread | None = None

    def submit(self, call: Call, done: Done) -> None:
        """Queue a call, or a block of calls.

        The outcome is passed to `done`, once, in a thread of the pool; those of a block as they
        come, until each of its items has one.

        :raises BackendError: if the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("The pool of call processes is closed.")
            if (needs := call.needs).cores > self._size or needs.gpus > self._most_gpus:
                self._refuse(call, done, self._too_much(call))
                return
            if self._straight(call, done):
                return
            self._queued.add(call, done)
            more = len(self._queued) - len(self._idle) if call.items is not None else 1
            while (
                more > 0 and len(self._idle) < len(self._queued) and len(self._slots) < self._size
            ):
                more -= 1
                slot = Slot(self, f"scalems-call-{len(self._slots)}")
                self._slots.append(slot)
                slot.start()
            self._wake(1 if call.items is None else len(call.items))

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """Stop a call: one that is queued never runs, one that runs is killed with its children.

        :param item: its position, if it is one of a block; the others of it go on.
        :returns: False if there is no such call, or no longer.
        """
        with self._lock:
            if (entry := self._queued.remove(call_id, item)) is not None:
                self._refuse(*entry, Failure(type=CANCELLED, message="cancelled before it ran"))
                return True
            slot = self._running.get(call_id) if item is None else self._runs(call_id, item)
            if slot is None:
                return False
            self._take_back(slot)
            if (entry := self._queued.remove(call_id, item)) is not None:
                self._refuse(*entry, Failure(type=CANCELLED, message="cancelled before it ran"))
            else:
                slot.cancel(call_id, item)
            return True

    def reclaim(self, count: int) -> list[int]:
        """Take out calls that have not begun, the last ones first; return their ids.

        They have no outcome, and will not run here.
        """
        with self._lock:
            if len(self._queued) < count:
                for slot in self._slots:
                    self._take_back(slot)
            taken: list[int] = []
            while len(taken) < count and self._queued:
                call, done = self._queued.take_last()
                if call.items is not None:  # others of that block may have begun
                    self._queued.add(call, done)
                    break
                taken.append(call.id)
            return taken

    def recall(self, call_id: int) -> list[int]:
        """Take out the calls of a block that have not begun, if one of it runs; return which.

        They have no outcome, and will not run here.
        """
        with self._lock:
            its = []
            for slot in self._slots:
                if slot.sent and any(call.id == call_id for call, _ in slot.entries):
                    its.append(slot)
            for slot in its:
                self._take_back(slot)
            return self._queued.remove_block(call_id) if its else []

    def _runs(self, call_id: int, item: int) -> Slot | None:
        """Return the slot that an item of a block was sent to, and that has not told its end."""
        for slot in self._slots:
            for call, _ in slot.entries:
                if call.id == call_id and call.items is not None and item in call.items:
                    return slot
        return None

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
                for slot in self._slots:
                    for call, _ in slot.entries:
                        slot.cancel(call.id, call.items[0] if call.items else None)
                for slot in self._slots:
                    slot.kill()
            for slot in self._slots:
                slot.ring()
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()
        for slot in self._slots:
            if slot is not threading.current_thread():
                slot.join()
        with self._lock:
            for slot in self._slots:
                slot.unhang()
            refuser, self._refuser = self._refuser, None
        if refuser is not None:
            self._refused.put(None)
            if refuser is not threading.current_thread():
                refuser.join()

    def _straight(self, call: Call, done: Done) -> bool:
        """Send a call to a process that waits for one, from this thread; tell if it was sent.

        The slot of the process is woken by what that sends back, and by nothing before.
        """
        if self._queued or not self._resting or self._cores.free < 1 or call.timeout is not None:
            return False
        if call.items is not None or not (call.needs is NONE or call.needs == NONE):
            return False
        if isinstance(call.payload, Large) or len(call.payload) + len(call.function) > APART:
            return False
        for slot in reversed(self._resting):
            process = slot.process
            if process is not None and process.fits(NONE, ()):
                break
        else:
            return False
        del self._resting[slot]
        self._idle.discard(slot)  # it may rest on, and takes no other call
        slot.needs, slot.gpus, slot.sent = NONE, [], True
        slot.cpus = self._cores.take(1, slot.cpus)
        process.pin(slot.cpus)
        self._running[call.id] = slot
        slot.entries.append((call, done))
        process.offer([call])
        with contextlib.suppress(Lost):  # its slot sees that too, and lets another have the call
            process.send([call])
        return True

    def _wake(self, count: int) -> None:
        """Let so many slots that rest look for calls."""
        while count > 0 and self._resting:
            count -= 1
            self._resting.popitem()[0].ring()

    def take(self, slot: Slot) -> bool:
        """Wait for calls and give them to a slot; tell if there will be none any more."""
        while True:
            with self._lock:
                self._release(slot)
                if self._queued and self._fits(self._queued.first()[0].needs):
                    self._give(slot)
                    return True
                if self._closed and not self._queued:
                    return False
                self._idle.add(slot)
                self._resting[slot] = None
            said = slot.rest()
            with self._lock:
                self._idle.discard(slot)
                self._resting.pop(slot, None)
                if slot.entries:
                    return True  # it was sent a call
            if said:
                slot.drop()  # its process has ended by itself

    def _give(self, slot: Slot) -> None:
        """Give a slot the calls that are next."""
        slot.sent = False
        slot.needs = needs = self._queued.first()[0].needs
        slot.cpus = self._cores.take(needs.cores, slot.cpus)
        slot.gpus = [self._gpus.pop(0) for _ in range(needs.gpus)]
        first = self._queued.first()[0]
        if first.items is not None:
            share = self._share(self._means.get(first.name), block.MOST, least=_LEAST)
            slot.entries.append(self._queued.take(share))
            return
        for _ in range(self._share(self._mean, MOST)):
            first = self._queued.first()[0]
            if slot.entries and not (first.items is None and _alike(first.needs, needs)):
                break
            call, done = self._queued.take()
            self._running[call.id] = slot
            slot.entries.append((call, done))

    def _share(self, mean: float | None, most: int, *, least: float = 0.0) -> int:
        """Return how many calls to take at once: few if they are long, or if few are left.

        :param mean: seconds that such a call takes.
        :param least: seconds of work that are not shared out.
        """
        if mean is None:
            return 1
        mean = max(mean, 1e-7)
        fair = max(len(self._queued) // (2 * self._size), int(least / mean))
        share = max(1, min(fair, int(_TOGETHER / mean), most))
        return min(share, len(self._queued))

    def _fits(self, needs: Needs) -> bool:
        return needs.cores <= self._cores.free and needs.gpus <= len(self._gpus)

    def _release(self, slot: Slot) -> None:
        """Take back the cores and GPUs of a slot."""
        if slot.needs is None:
            return
        self._cores.give(slot.needs.cores, slot.cpus)
        self._gpus = sorted([*self._gpus, *slot.gpus])
        if slot.needs.cores > 1 or slot.gpus:
            self._wake(len(self._slots))  # it may be enough for several
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

    def begin(self, slot: Slot, process: CallProcess) -> list[Call]:
        """Return the calls that a slot is to send now; some may have been cancelled."""
        with self._lock:
            slot.sent = True
            calls = [call for call, _ in slot.entries]
            if calls:
                process.offer(calls)
            return calls

    def assign(self, slot: Slot, process: CallProcess | None) -> None:
        """Note which process a slot has."""
        with self._lock:
            slot.process = process

    def ended(self, slot: Slot, duration: float) -> tuple[Call, Done, bool]:
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

    def answered(self, slot: Slot, answers: Answers) -> Done:
        """Note that the first items of a slot's block have ended; return who is to know."""
        mean = (answers.ended - answers.started) / len(answers)
        with self._lock:
            call, done = slot.entries.popleft()
            if call.items is not None and len(answers) < len(call.items):
                slot.entries.appendleft((replace(call, items=call.items[len(answers) :]), done))
            # The more of them there are the less chance is in it; long ones weigh at once.
            former = self._means.pop(call.name, None)
            if former is not None and mean < former:
                mean += (former - mean) / (1 + len(answers))
            self._means[call.name] = mean
            if len(self._means) > _NAMES:
                self._means.pop(next(iter(self._means)))
            return done

    def give_back(self, slot: Slot) -> None:
        """Let others have the calls that a slot has sent and that have not begun."""
        with self._lock:
            self._take_back(slot)

    def lost(self, slot: Slot) -> tuple[Call, Done, bool] | None:
        """Let others have the calls of a slot whose process is gone, but the one that had begun.

        If it did not even start, the first one is what it was started for.

        :return: that call, and whether it was cancelled.
        """
        with self._lock:
            if slot.sent and slot.process is not None:
                self._requeue(slot, slot.process.take_back())
            else:
                self._requeue(slot, sum(_weight(call) for call, _ in slot.entries) - 1)
            slot.sent = False
            return self._pop(slot) if slot.entries else None

    def _pop(self, slot: Slot) -> tuple[Call, Done, bool]:
        call, done = slot.entries.popleft()
        if call.items is None:
            del self._running[call.id]
        else:
            if call.items[1:]:  # pragma: no cover - only one can have begun
                self._queued.add(replace(call, items=call.items[1:]), done, first=True)
            call = replace(call, items=None, item=call.items[0])
        cancelled = (call.id, call.item) in slot.cancelled
        slot.cancelled.discard((call.id, call.item))
        return call, done, cancelled

    def _take_back(self, slot: Slot) -> None:
        if slot.sent and slot.process is not None:
            self._requeue(slot, slot.process.take_back())
        else:
            self._requeue(slot, sum(_weight(call) for call, _ in slot.entries))

    def _requeue(self, slot: Slot, count: int) -> None:
        """Let others have the last calls of a slot."""
        left = count
        while left > 0:
            call, done = slot.entries.pop()
            if call.items is None:
                del self._running[call.id]
            elif left < len(call.items):
                slot.entries.append((replace(call, items=call.items[:-left]), done))
                call = replace(call, items=call.items[-left:])
            self._queued.add(call, done, first=True)
            left -= _weight(call)
        slot.ring()  # it may have none any more
        self._wake(count)

    def started(self, needs: Needs, gpus: Sequence[str]) -> CallProcess:
        """Return a process for calls; it may not be ready yet.

        :raises Lost: none could be started.
        """
        with self._lock:
            spare = self._spare
            if spare is not None and spare.fits(needs, gpus):
                self._spare = None
                return spare
        return CallProcess(self._launch, needs, gpus)

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
            if call.items is None:
                report(done, failed(call, failure))
            for position in call.items or ():
                report(done, failed(replace(call, items=None, item=position), failure))


def _alike(needs: Needs, other: Needs) -> bool:
    """Return whether calls can be sent together: each takes what the first one has taken."""
    return needs is other or (needs.cores == needs.ranks == other.cores == 1 and not needs.gpus)


def _weight(call: Call) -> int:
    """Return how many calls it is."""
    return 1 if call.items is None else len(call.items)
