"""The process that holds RADICAL-Pilot's session for a client.

RP does not run in the user's process: it needs its venv to be activated, writes to the
terminal and to the working folder, starts processes that Ctrl-C would hit, and ends the
main thread when a pilot fails. Here it has an environment, a folder, a terminal (a log
file) and a process group of its own, and outlives a client that is killed just for long
enough to give back what it holds. The server of a warm pilot serves one client after
another, or several at once, until it is told to end or nobody has used it for a while.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import shutil
import signal
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from scalems.env.finding import About, Policy
from scalems.errors import BackendError, ScalemsError
from scalems.radical import (
    admission,
    diagnosis,
    patience,
    processes,
    surroundings,
    warm,
    wire,
)
from scalems.radical.clients import ClientEvent, Clients
from scalems.radical.hub import GONE, WorkerEvent
from scalems.radical.owntasks import OWN, OwnTasks, apart
from scalems.radical.patience import Patience
from scalems.radical.plane import Plane
from scalems.radical.session import FINAL, Hello, JobEvent, PilotEvent, PilotSession, TaskEvent
from scalems.radical.staffing import Staffing
from scalems.radical.verdict import Verdict
from scalems.radical.warm import WarmPilot
from scalems.radical.wire import ALIVE, ALIVE_EVERY, HEARD, pack, unpack
from scalems.workflow.call import hostname

if TYPE_CHECKING:
    from scalems.radical.batch import Job
    from scalems.radical.settings import Settings
    from scalems.radical.verdict import End

_STEP_LIMIT = 120.0  # seconds for RP to make its session, or a manager
_ROOM = 5_000_000  # bytes that a run's logs take at least
_STEP_SLOW = 20.0  # seconds after which it is said that it takes long
_LOCAL_PILOT_LIMIT = 150.0  # seconds from submission to PMGR_ACTIVE on this machine
_MAKING_LIMIT = 900.0  # seconds, the same if RP makes the Pilot venv first
_QUEUED_PILOT_LIMIT = 48 * 3600.0  # seconds; a batch system may let it wait
_RUNNING_JOB_LIMIT = 300.0  # seconds from the start of its job to PMGR_ACTIVE
_WORKER_LIMIT = 180.0  # seconds from PMGR_ACTIVE to the Worker's answer
_SCHEDULING_LIMIT = 30.0  # seconds in the agent's scheduler, which takes milliseconds
_SUSPICIOUS = 8.0  # seconds after which a wait may have a reason that can be seen
_HEAR_OUT = 2.0  # seconds between the end of a Worker and that of its pilot
_TICK = 1.0  # seconds

log = logging.getLogger(__name__)


class _Over(Exception):
    def __init__(self, error: BackendError) -> None:
        super().__init__(error)
        self.error = error


class _Hung(_Over):
    """RP does not go on with the start, and would if it were started again."""


class _Ended(_Over):
    """The pilot has ended, and another one could go on with what is left to do."""


class _Closed(Exception):
    """A client has asked for the end, or nobody needs the session any more."""


def main(descriptor: int) -> None:
    """Serve the client at the other end of a socket, until it is gone or asks for the end.

    A pilot that is kept stays for others.
    """
    link: Connection[Any, Any] = Connection(descriptor)
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)  # shows where it is, in its log
    os.environ.pop("PYTHONPATH", None)  # the agent would inherit it, and its tasks
    settings: Settings = wire.receive(link)[0]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        _Server(settings, link).serve()
    finally:
        processes.sweep(settings.run, settings.folder)
        shutil.rmtree(settings.data, ignore_errors=True)
        if settings.area:
            shutil.rmtree(settings.area, ignore_errors=True)
        logging.shutdown()
        os._exit(0)  # RP leaves threads that keep an interpreter from ending


class _Server:
    """Connects clients with a pilot session; all but reading happens in the main thread."""

    def __init__(self, settings: Settings, link: Connection[Any, Any]) -> None:
        self._settings = settings
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._clients = Clients(self._on_client)
        self._idle_since = time.monotonic()
        self._record: WarmPilot | None = None
        self._session = PilotSession(
            settings, self._events.put, invite=lambda: pack(self._plane.invitation())
        )
        self._plane = Plane(self._session, self._clients, self._events.put, folder=settings.data)
        self._own = OwnTasks(self._session, self._clients)
        self._state = "NEW"
        self._runs_since: float | None = None  # the pilot's job
        self._changed = self._alive_sent = time.monotonic()
        self._up = False
        self._reached = self._changed  # when a Worker was there last
        self._timers: tuple[threading.Timer, ...] = ()
        self._patience = Patience(lambda line: self._clients.tell_all("note", line))
        self._suspicious = True
        self._staffing = Staffing(self._session, self._plane)
        self._gone: list[tuple[float, TaskEvent]] = []  # of the staff, and when to see to it
        self._verdict = Verdict(lambda line: self._clients.tell_all("note", line))
        parent = os.getppid()
        self._owner = 0  # the first client; it speaks at once
        self._users = {self._owner}
        self._closer = -1  # who has asked for the end
        self._clients.add(link, lambda: os.getppid() == parent)

    def serve(self) -> None:
        """Run the session from its start to its end."""
        signal.signal(signal.SIGTERM, lambda *_: self._close())
        try:
            self._look_first()
            self._session.open(self._proceed)
            self._stop_timer()
            while True:
                self._step()
        except _Closed:
            log.info("the session is closed")
            self._users.discard(self._closer)
            name = f"warm pilot {self._record.name!r}" if self._record else "session"
            self._tell_end("failed", BackendError(f"The {name} was ended by somebody else."))
        except _Hung as hung:
            log.error("the start hangs: %s", hung.error)
            self._clients.tell_all("hung", hung.error)
        except _Ended as ended:
            log.error("the pilot has ended: %s", ended.error)
            self._tell_end("ended", ended.error)
        except ScalemsError as error:
            self._fail(error)
        except Exception as error:
            log.exception("the server failed")
            self._fail(BackendError(f"The RADICAL-Pilot session failed: {error!r}"))
        self._stop_timer()
        if self._record is not None:
            warm.remove(self._record)
        self._clients.tell_all("note", "ending the pilot")
        self._plane.close()
        self._session.close()
        self._clients.tell_all("closed")

    # --- clients --------------------------------------------------------------------------

    def _on_client(self, event: ClientEvent) -> None:
        # In a thread of the client: the main one may be somewhere in RP.
        needed = self._record is not None  # also without the client that started it
        if event.message == ("close",) or (
            event.message is None and event.client == self._owner and not needed
        ):
            self._closer = event.client
            self._close()
        else:
            self._events.put(event)

    def _close(self) -> None:
        self._closing.set()
        self._events.put(None)

    def _on_message(self, client: int, message: tuple[Any, ...] | None) -> None:
        if message is None or message == ("leave",):
            self._clients.tell(client, "closed")
            self._clients.forget(client)
            if client in self._users:
                self._users.remove(client)
                self._idle_since = time.monotonic()
            self._plane.drop(client)
            self._own.drop(client)
            return
        kind, *values = message
        if kind == "use":
            self._users.add(client)
            self._clients.tell(client, "status", self._status())
            self._clients.tell(client, "ready", self._session.slots)
        elif kind == "calls":
            rows, area = values[0], self._settings.area
            workers, own = apart([wire.placed(row, area) for row in rows] if area else rows)
            self._plane.add(client, workers)
            for row in own:
                self._own.call(client, row)
        elif kind == "serve":
            self._own.serve(client, *values)
        elif kind == "cancel":
            self._plane.cancel(client, self._own.cancel(client, *values))
        elif kind == "cancel item":
            self._plane.cancel_item(client, *values)
        elif kind == "give back":
            self._clients.tell(client, "returned", self._plane.give_back(client, *values))
        elif kind == "report":
            self._clients.tell(client, "report", self._report())

    def _status(self) -> dict[str, str]:
        count = sum(what.startswith("Worker") for what in self._session.staff.values())
        return {"pilot": self._state, "workers": str(count if self._up else 0)}

    def _report(self) -> dict[str, object]:
        """Return what `scalems pilot list` shows."""
        idle = 0.0 if self._users else time.monotonic() - self._idle_since
        return {
            "clients": len(self._users),
            "calls": len(self._plane) + len(self._own),
            "route": self._plane.route(),
            "idle": idle,
            **self._status(),
        }

    # --- starting -------------------------------------------------------------------------

    def _proceed(self, step: str) -> None:
        if self._closing.is_set():
            raise _Closed
        self._stop_timer()
        self._timers = (
            threading.Timer(_STEP_LIMIT, self._hang, [step, _STEP_LIMIT]),
            threading.Timer(_STEP_SLOW, self._is_slow, [step]),
        )
        for timer in self._timers:
            timer.daemon = True
            timer.start()
        self._clients.tell_all("note", step)
        self._clients.tell_all("status", {"pilot": step})

    def _stop_timer(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = ()

    def _look_first(self) -> None:
        """See to what RP hangs without, and does not notice.

        :raises BackendError: it is not there.
        """
        if problem := surroundings.no_loopback():
            raise BackendError(problem, remedy="bring it up: ip link set lo up")
        if problem := surroundings.no_room(self._settings.folder, needed=_ROOM):
            raise BackendError(
                problem, remedy="make room there, or set XDG_STATE_HOME to another folder"
            )

    def _is_slow(self, step: str) -> None:
        if surroundings.no_room(self._settings.folder) or surroundings.no_loopback():
            self._hang(step, _STEP_SLOW)
        slow = f"{step}: RADICAL-Pilot takes its time, and gets {_STEP_LIMIT:.0f} s"
        self._clients.tell_all("note", slow)

    def _hang(self, step: str, seconds: float) -> None:
        # The main thread is somewhere in RP, and does not come back.
        self._fail(self._lost(f"RADICAL-Pilot did not finish {step} in {seconds:.0f} s."))
        processes.sweep(self._settings.run, self._settings.folder)
        os._exit(1)

    def _fail(self, error: ScalemsError) -> None:
        log.error("the run failed: %s", error)
        self._tell_end("failed", error)

    def _tell_end(self, kind: str, error: ScalemsError) -> None:
        for client in list(self._users):
            begun = self._plane.begun(client) + self._own.begun(client)
            self._clients.tell(client, kind, error, begun)

    # --- the loop -------------------------------------------------------------------------

    def _step(self) -> None:
        try:
            event = self._events.get(timeout=_TICK)
        except queue.Empty:
            event = None
        if isinstance(event, PilotEvent):
            self._on_pilot(event)
        elif isinstance(event, TaskEvent):
            self._on_task(event)
        elif isinstance(event, Hello):
            self._on_hello(unpack(event.text))
        elif isinstance(event, JobEvent):
            self._on_job(event.job)
        elif isinstance(event, WorkerEvent):
            self._plane.on_worker(event)
        elif isinstance(event, ClientEvent):
            self._on_message(*event)
        if self._closing.is_set():
            raise _Closed
        self._check()
        if self._up and not isinstance(event, WorkerEvent):  # which has seen to it
            self._plane.send()

    def _on_pilot(self, event: PilotEvent) -> None:
        if event.state == self._state:
            return
        self._state, self._changed = event.state, time.monotonic()
        self._clients.tell_all("note", f"pilot: {patience.WORDS.get(event.state, event.state)}")
        self._clients.tell_all("status", self._status())
        if event.state in FINAL:
            session = self._session
            self._end(
                self._verdict.on_pilot(event.state, session.runtime, in_queue=session.in_queue)
            )

    def _on_job(self, job: Job) -> None:
        """Hear of the pilot's job before RP does, and why it ended."""
        self._end(self._verdict.on_job(job))
        if job.state == "RUNNING":
            self._runs_since = time.monotonic()
        if self._state != "PMGR_ACTIVE":
            self._clients.tell_all("note", job.text())
            self._clients.tell_all("status", {**self._status(), "pilot": job.text()})

    def _on_task(self, event: TaskEvent) -> None:
        if event.uid in self._session.staff:
            # What comes in the next moments tells whether the whole pilot has ended.
            self._session.look()
            self._gone.append((time.monotonic() + _HEAR_OUT, event))
            return
        done = event.state == "DONE" and event.value is not None
        if event.uid.startswith(OWN):
            self._own.on_task(event)
        else:
            why = "has no outcome"
            if not done:
                why = f"came back {event.state} from RADICAL-Pilot: {event.error}"
            self._plane.on_batch(event.uid, event.value if done else None, why)

    def _on_hello(self, description: dict[str, Any]) -> None:
        """Let a Worker have calls; it says that it is there until it is told that it was heard."""
        worker = description["worker"]
        if self._staffing.is_new(worker):
            self._admit(description)
        self._session.broadcast(HEARD, worker=worker)

    def _replace_gone(self, now: float) -> None:
        """See to members of the staff that have ended while the pilot goes on."""
        for due, event in [one for one in self._gone if one[0] <= now]:
            self._gone.remove((due, event))
            what = self._session.staff[event.uid]
            lost = self._lost(f"The {what} has ended ({event.state}).", uid=event.uid)
            if not self._up:
                raise lost
            try:
                told = self._staffing.replace(event.uid, lost)
            except BackendError as error:
                raise _Ended(error) from None
            log.error("%s", lost)
            self._clients.tell_all("note", told)
            self._clients.tell_all("status", self._status())

    def _end(self, end: End | None) -> None:
        """Stop if the pilot has ended."""
        if end is not None:
            lost = self._lost(end.what)
            if end.remedy:
                lost = BackendError(end.what, remedy=end.remedy)
            raise lost if end.cancelled or not self._up else _Ended(lost)

    def _admit(self, description: dict[str, Any]) -> None:
        settings = self._settings
        admission.check(settings.label, settings.build, description, policies=settings.policies)
        flaws = admission.check_node(
            settings.build,
            description["canary"],
            gpus=int(settings.options.get("gpus") or 0),
            policies=settings.policies,
        )
        for flaw in flaws:
            self._clients.tell_all("note", flaw)
        way = self._plane.admit(description["worker"], description)
        self._clients.tell_all("way", f"calls get to {description['worker']} by {way}")
        if not self._up:
            self._up, self._reached = True, time.monotonic()
            self._own.begin()
            self._keep()
            self._clients.tell_all("ready", self._session.slots)
        self._clients.tell_all("status", self._status())

    def _keep(self) -> None:
        """Let others use the pilot too, if it is a warm one."""
        settings, keep = self._settings, self._settings.keep
        if keep is None:
            return
        self._clients.listen(keep.address, bytes.fromhex(keep.key))
        self._idle_since = time.monotonic()
        self._record = WarmPilot(
            name=keep.name,
            label=settings.label,
            env=settings.build.name,
            input_digest=settings.build.input_digest,
            content_digest=settings.build.content_digest,
            slots=self._session.slots,
            host=hostname(),
            pid=os.getpid(),
            run=settings.run,
            folder=str(settings.folder),
            address=str(keep.address),
            key=keep.key,
            started=time.time(),
            until=time.time() + self._session.runtime * 60,
            idle=keep.idle,
            lines=settings.build.lines.to_dict(),
        )
        warm.write(self._record)

    # --- limits ---------------------------------------------------------------------------

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._alive_sent > ALIVE_EVERY:
            self._alive_sent = now
            self._session.broadcast(ALIVE)
        self._end(self._verdict.overdue())
        if self._verdict.pending:
            self._session.look()
            return
        self._replace_gone(now)
        self._own.look()
        if self._up:
            self._plane.balance()
            self._check_workers(now)
            self._check_used(now)
            return
        if self._session.stuck() > _SCHEDULING_LIMIT:
            what = f"The agent's scheduler did nothing for {_SCHEDULING_LIMIT:.0f} s."
            raise _Hung(self._lost(what))
        waited = now - self._changed
        active = self._state == "PMGR_ACTIVE"
        if active:
            limit, what = _WORKER_LIMIT, "The Worker did not answer"
            self._patience.waits("the first Worker to answer", waited, limit)
        elif self._runs_since is not None:
            waited = now - self._runs_since
            limit, what = _RUNNING_JOB_LIMIT, "Its job runs, but the pilot's agent did not answer"
        else:
            limit = _LOCAL_PILOT_LIMIT if self._session.local else _QUEUED_PILOT_LIMIT
            if self._session.local and self._session.makes_venv:
                limit = _MAKING_LIMIT
            what = f"The pilot stayed {self._state}"
            self._patience.waits(patience.AWAITED.get(self._state, "the pilot"), waited, limit)
        if waited > _SUSPICIOUS and self._suspicious:
            self._suspicious = False
            self._look_around(f"{what} for {waited:.0f} s.")
        if waited > limit:
            lost = self._lost(f"{what} for {limit:.0f} s.")
            # Another start costs nothing but time here; a batch job may have waited for hours.
            raise _Hung(lost) if self._session.local else lost
        if not active and diagnosis.crashed(self._session.sandbox()):
            raise self._lost("The pilot's agent failed while it started.")

    def _check_workers(self, now: float) -> None:
        """Give up if no Worker has answered for long; sooner if none can."""
        self._reached = now if self._plane.reachable() else self._reached
        waited = now - self._reached
        self._patience.waits("a Worker to answer", waited, _WORKER_LIMIT)
        gone = waited > GONE / 2 and surroundings.cut_off(self._session.place())
        if gone or waited > _WORKER_LIMIT:
            raise self._lost(f"No Worker has answered for {waited:.0f} s.")

    def _look_around(self, what: str) -> None:
        """End a start that cannot succeed: RP does not notice that its venv is another one."""
        tolerated = self._settings.policies.get(About.PARITY, Policy.ERROR) is not Policy.ERROR
        if not tolerated and surroundings.pilot_fault(self._session.place()):
            raise self._lost(what)

    def _check_used(self, now: float) -> None:
        keep = self._settings.keep
        if keep is None or self._users:
            return
        if now - self._idle_since > keep.idle:
            log.info("nobody has used the pilot for %.0f s", keep.idle)
            raise _Closed

    def _lost(self, what: str, *, uid: str | None = None) -> BackendError:
        return diagnosis.failure(what, self._session.place(), task=uid)
