"""The raptor Worker: runs calls in a pool of processes, in the Task venv.

RP loads this file by its path, not as a module of its package, so nothing here may be
pickled and no dataclass be made. Its environment brings the address of the data channel, and a
message of RP tells the session server what it is: neither waits for the raptor master. Calls
come by the channel from then on. Where the server cannot be reached they come as call-mode tasks:
the name of a method, and text.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import radical.pilot as rp
import radical.utils as ru

from scalems import probe
from scalems.radical import canary
from scalems.radical.parts import SHOWN, Gathering
from scalems.radical.uplink import NoRoute, Uplink
from scalems.radical.wire import (
    ALIVE,
    ALIVE_EVERY,
    ALIVE_LIMIT,
    CANCEL,
    HEARD,
    HELLO,
    INVITATION,
    SLOTS,
    call_of,
    light,
    outcome_row,
    pack,
    unpack,
)
from scalems.workflow import cores, stamp
from scalems.workflow.call import (
    CANCELLED,
    ENV_VARIABLE,
    LOST,
    Failure,
    failed,
    failure_in,
    hostname,
)
from scalems.workflow.pool import CallPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scalems.radical.wire import Row
    from scalems.workflow.call import Outcome

    Report = Callable[..., None]

_CALLABLE = frozenset({"run_calls"})
_SAY_AGAIN = 0.1  # seconds; what subscribes to a message needs some to connect
_LAST = 2.0  # seconds between the end of a call process and that of its Worker, if a job ends
_GATHER = 0.001  # seconds that outcomes are gathered, while there is more to do


class RaptorWorker(rp.raptor.Worker):  # type: ignore[misc]  # RP has no types
    """Runs batches of calls for the client of this run."""

    def __init__(self, raptor_id: str) -> None:
        self._slots = int(os.environ[SLOTS])
        self._ended = threading.Event()
        self._lock = threading.Condition()
        self._unfinished = 0
        self._cancelled: set[int] = set()
        self._blocks: dict[int, Gathering] = {}
        self._outcomes: list[Row] = []
        self._heard = time.monotonic()
        self._link = Uplink(self._on_message, on_sign=self._hear, on_refused=self.stop)
        self._canary = canary.Canary()
        # A foreign interpreter even though it is this one: nothing of RP's settings gets in.
        cpus = cores.for_calls(os.environ.get(cores.PIN, "auto"), self._slots)
        self._pool = CallPool(
            self._slots,
            python=Path(sys.executable),
            env={**_marks(), cores.PIN: "always" if cpus else "never"},
            cpus=cpus,
        )
        self._was_heard = threading.Event()
        self._linked = False
        with ThreadPoolExecutor(1, "scalems-hello") as beside:
            introduced = beside.submit(self._introduce)
            rank = int(os.environ.get("RP_RANK", "0"))
            super().__init__(manager=rank == 0, rank=rank, raptor_id=raptor_id)
        introduced.result()
        if not self._linked:
            self._put = ru.zmq.Putter("result", self._res_addr_put)
            self._get = ru.zmq.Getter("request", self._req_addr_get, cb=self._take)

    def _introduce(self) -> None:
        """Connect with the session server; say what this Worker is and how it is reached.

        See :func:`scalems.probe.describe`. With a channel it takes no tasks of RP.
        """
        invitation = unpack(os.environ.pop(INVITATION))
        address = reason = ""
        try:
            address = self._link.connect(invitation["addresses"], invitation["key"])
        except NoRoute as error:
            reason = str(error)
        told = {
            **probe.describe(),
            "channel": self._link.key,
            "address": address,
            "reason": reason,
            "worker": os.environ["RP_TASK_ID"],
            "slots": self._slots,
            "host": hostname(),
            "canary": self._canary.result(),
        }
        self._linked = bool(address)
        message = {"cmd": HELLO, "arg": {"text": pack(told)}, "fwd": True}
        threading.Thread(target=self._say, args=(message,), name="scalems-say", daemon=True).start()
        if self._linked:
            threading.Thread(target=self._tend, name="scalems-tend", daemon=True).start()

    def _say(self, message: dict[str, Any]) -> None:
        """Say something until it was heard."""
        registry = ru.zmq.RegistryClient(url=os.environ["RP_REGISTRY_ADDRESS"])
        channel = rp.constants.CONTROL_PUBSUB
        publisher = ru.zmq.Publisher(channel, url=registry[f"bridges.{channel}"]["addr_pub"])
        registry.close()
        pause = _SAY_AGAIN
        while not (self._was_heard.is_set() or self._ended.is_set()):
            publisher.put(channel, dict(message))
            self._was_heard.wait(pause)
            pause = min(2 * pause, ALIVE_EVERY)

    # --- what RP calls --------------------------------------------------------------------

    def start(self) -> None:
        """Watch for the client's death; requests come by themselves."""
        threading.Thread(target=self._watch, name="scalems-watch", daemon=True).start()

    def stop(self) -> None:
        """Ask the Worker to end."""
        self._ended.set()
        with self._lock:
            self._lock.notify_all()

    def join(self) -> int:
        """Wait for the end, and leave no call process."""
        while not self._ended.wait(3600):
            pass
        self._pool.close(kill=True)
        self._link.close()
        return 0

    def _control_cb(self, topic: str, message: dict[str, Any]) -> Any:
        command = message.get("cmd")
        if command == ALIVE:
            self._hear()
            return None
        if command == HEARD:
            if message["arg"]["worker"] == os.environ["RP_TASK_ID"]:
                self._was_heard.set()
                if self._linked:
                    self._reg_event.set()  # what the master would add is not needed
            return None
        if command == CANCEL:
            self._cancel(message["arg"]["calls"])
            return None
        return super()._control_cb(topic, message)

    def _state_cb(self, topic: str, messages: Any) -> bool:
        """Go on without the master; RP's Worker would end with it."""
        return True

    def _take(self, tasks: Any) -> None:
        for task in ru.as_list(tasks):
            # What is not taken yet goes to another Worker that has room.
            with self._lock:
                self._lock.wait_for(lambda: self._unfinished < self._slots or self._ended.is_set())
            try:
                name = task["description"]["function"]
                if name not in _CALLABLE:
                    raise ValueError(f"{name!r} is not a function of the scalems Worker")
                arguments = task["description"].get("args") or []
                getattr(self, name)(partial(self._report, task), *arguments)
            except Exception as error:
                self._report(task, error=repr(error))

    def _report(self, task: dict[str, Any], value: str | None = None, error: str = "") -> None:
        task.update(
            worker=self._uid,
            stdout="",
            stderr=error,
            exit_code=1 if error else 0,
            return_value=value,
            exception=error or None,
            exception_detail=error or None,
        )
        with self._lock:
            self._put.put(task)

    # --- the functions of the call mode ---------------------------------------------------

    def run_calls(self, report: Report, text: str, folder: str) -> None:
        """Run a batch of calls, and report their outcomes together."""
        rows: list[Row] = unpack(text)
        place = Path(folder) if folder else None
        outcomes: list[Row] = []

        def done(outcome: Any) -> None:
            with self._lock:
                self._unfinished -= 1
                outcomes.append(outcome_row(outcome))
                last = len(outcomes) == len(rows)
                self._lock.notify_all()
            if last:
                report(pack(outcomes, folder=place))

        self._run(rows, done)

    # --- the data channel -----------------------------------------------------------------

    def _on_message(self, kind: str, value: Any) -> None:
        if kind == "calls":
            self._run(value, self._done)
        elif kind == "cancel":
            self._cancel(value)
        elif kind == "give back":
            self._link.send("returned", self._reclaim(value))

    def _done(self, outcome: Outcome) -> None:
        if not outcome.ok and "SLURM_JOB_ID" in os.environ and failure_in(outcome).type == LOST:
            # Slurm ends all processes of a job at once; this one may be the next to hear of it.
            self._ended.wait(_LAST)
        if self._ended.is_set():
            return  # it was ended with the Worker: what becomes of it is not said here
        self._blocks.pop(outcome.id, None)
        with self._lock:
            self._unfinished -= 1
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        row = outcome_row(outcome)
        with self._lock:
            self._outcomes.append(row)
            first = len(self._outcomes) == 1
        if first:
            self._link.send_made(self._gathered)

    def _tend(self) -> None:
        """Let nothing wait for the long items of a part."""
        while not self._ended.wait(SHOWN):
            now = time.monotonic()
            for ident, gathering in list(self._blocks.items()):
                gathering.ahead(now, self._tell)
                if gathering.is_long(now):
                    gathering.give_back(self._pool.recall(ident), self._tell)

    def _gathered(self) -> tuple[str, object]:
        """Return the outcomes that there are, in the thread that sends them."""
        if self._unfinished > self._slots:
            time.sleep(_GATHER)
        with self._lock:
            rows, self._outcomes = self._outcomes, []
        return "outcomes", light(rows)

    # --- calls ----------------------------------------------------------------------------

    def _run(self, rows: Sequence[Row], done: Callable[[Any], None]) -> None:
        with self._lock:
            self._unfinished += len(rows)
        for row in rows:
            call = call_of(row)
            tell = done
            if call.items is not None:
                gathering = self._blocks[call.id] = Gathering(call, done)
                tell = gathering.add
            with self._lock:  # a call is either cancelled before it is submitted, or after
                cancelled = call.id in self._cancelled
                if not cancelled:
                    self._pool.submit(call, tell)
            if cancelled:
                failure = Failure(type=CANCELLED, message=f"{call.name} was cancelled")
                done(failed(call, failure))

    def _cancel(self, idents: Sequence[int | Sequence[int]]) -> None:
        """End calls, or items of parts."""
        with self._lock:
            for ident in idents:
                if not isinstance(ident, int):
                    self._pool.cancel(*ident)
                elif gathering := self._blocks.get(ident):
                    for item in reversed(gathering.items):
                        self._pool.cancel(ident, item)
                elif not self._pool.cancel(ident):
                    self._cancelled.add(ident)  # it may be on its way

    def _reclaim(self, count: int) -> list[int]:
        """Take back calls that have not begun, and will not."""
        taken = self._pool.reclaim(count)
        with self._lock:
            self._unfinished -= len(taken)
        return taken

    def _hear(self) -> None:
        self._heard = time.monotonic()

    # --- the client's death ---------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ended.wait(ALIVE_EVERY):
            if time.monotonic() - self._heard > ALIVE_LIMIT:
                self._log.error("the client is silent for %.0f s: the pilot is ended", ALIVE_LIMIT)
                message = {"cmd": "cancel_pilots", "arg": {"uids": [os.environ["RP_PILOT_ID"]]}}
                self._ctrl_pub.put(rp.constants.CONTROL_PUBSUB, message)
                self.stop()


def _marks() -> dict[str, str]:
    """Return the variables by which call processes know what they are part of."""
    manifest = probe.manifest_of(Path(sys.prefix))
    worker = os.environ.get("RP_TASK_ID", "")
    return {
        # A venv that scalems did not build has no manifest.
        ENV_VARIABLE: str(manifest.get("content_digest", os.environ.get(ENV_VARIABLE, ""))),
        stamp.VARIABLE: stamp.text(worker, manifest.get("software") or {}),
    }
