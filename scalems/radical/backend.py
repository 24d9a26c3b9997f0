"""Calls on RADICAL-Pilot: the client's side, which talks to the session server."""

from __future__ import annotations

import contextlib
import logging
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from scalems.errors import BackendError, ScalemsError
from scalems.radical import repeats, wire
from scalems.radical.outbox import Outbox
from scalems.radical.parts import Parts
from scalems.radical.repeats import Repeats
from scalems.workflow.block import singles
from scalems.workflow.call import CANCELLED, Failure, failed, failure_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scalems.radical.launch import Server
    from scalems.radical.preflight import Preflight
    from scalems.radical.wire import Row
    from scalems.workflow.backend import Done, Notify, Told
    from scalems.workflow.call import Call

    Entry = tuple[Call, Done, bool]
    """A call that a pilot had, and whether it may have begun there."""

log = logging.getLogger(__name__)

_CHECK = 1.0  # seconds between two looks at the server
_CLOSE_LIMIT = 60.0  # seconds for RP to give everything back
_ABORT_LIMIT = 20.0  # the same, after Ctrl-C


class Heir(Protocol):
    """Whoever has given the calls, and takes those back that this pilot does not run."""

    def ready(self, slots: int) -> None:
        """A Worker has proved what it is; so many calls run at a time."""

    def returned(self, entries: Sequence[Entry]) -> None:
        """Take calls that were to be given back, and have not begun."""
        ...

    def abandoned(self, entries: Sequence[Entry], how: str) -> None:
        """Take calls that were lost with their Worker, while the pilot goes on."""

    def lost(self, error: ScalemsError, entries: Sequence[Entry], *, final: bool) -> None:
        """Take all calls of a pilot that has ended; if that is not final, another one starts."""


class RadicalBackend:
    """Runs calls through a raptor master and Workers of RADICAL-Pilot, in a Task venv.

    :param server: what holds the session of RADICAL-Pilot.
    :param environment: content fingerprint of the Task venv.
    :param environments: the versions in it, by its fingerprint.
    :param notify: told what happens, in lines for people.
    :param preflight: what looks at calls while the server starts.
    :param pilots: how many pilots there may be, one after the other: the next one goes on with
        what is left to do when one has ended.
    """

    name = "radical"
    heir: Heir | None = None
    """Set before it starts; without one, calls of a pilot that is lost fail."""

    def __init__(
        self,
        server: Server,
        *,
        notify: Notify,
        label: str,
        environment: str = "",
        environments: Mapping[str, Mapping[str, str]] | None = None,
        preflight: Preflight | None = None,
        pilots: int = 1,
    ) -> None:
        self.label = label
        self.environment = environment
        self.environments = environments or {}
        self._server = server
        self._notify = notify
        self._lock = threading.Lock()
        self._parts = Parts(self._submit)
        self._pending: dict[int, tuple[Call, Done]] = {}
        self._services: dict[int, tuple[Mapping[str, Any], Told]] = {}
        self._outbox = Outbox()
        self._staging = server.staging
        self._link: Connection[Any, Any] | None = None
        self._send_lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._writer: threading.Thread | None = None
        self._status: dict[str, str] = {}
        self._ready = threading.Event()
        self._proved = False  # a Worker is what was verified
        self._error: ScalemsError | None = None
        self._hung: ScalemsError | None = None
        self._pilots_left = pilots - 1
        self._over: ScalemsError | None = None  # how the pilot has ended that has a successor
        self._repeats = Repeats()
        self._closing = False
        self._closed = threading.Lock()
        self._preflight = preflight
        if preflight is not None:
            preflight.refuse = self._lose

    def start(self) -> None:
        """Start the session, pilot and Workers, and wait until a Worker has proved what it is.

        :raises BackendError: if RP, the pilot or a Worker cannot start.
        :raises EnvironmentNotReady: if the Worker is not what was verified.
        """
        self._begin()
        if self._error is not None:
            raise self._error
        if self._closing and not self._proved:  # a short run may be over when this thread wakes
            raise BackendError("The run was closed while it started.")

    def _begin(self) -> None:
        self._open()
        if self._hung is not None and not self._closing:
            self._notify(f"{self._hung.cause.splitlines()[0]} Starting again")
            self._end_server()
            self._open()
            if self._hung is not None:
                self._lose(self._hung)

    def _go_on(self, over: ScalemsError) -> None:
        """Have another pilot do what is left."""
        with self._lock:
            left = len(self._pending)
        self._notify(
            f"{over.cause.splitlines()[0]} Going on in another pilot, {left} calls are left"
        )
        try:
            self._end_server()
            self._begin()
        except ScalemsError as error:
            self._lose(error)

    def _open(self) -> None:
        """Start a session server, give it the calls, and wait until it is ready or has failed."""
        with self._lock:
            if self._closing:
                raise BackendError("The run was closed before it had started.")
            self._hung = None
            self._ready.clear()
            try:
                link = self._server.connect()
            except BackendError as error:
                self._error = error
                raise
            self._outbox.restart(
                call for call, _ in self._pending.values() if not self._is_staged(call.id)
            )
            self._link = link
            services = list(self._services.items())
        for ident, (wanted, _) in services:
            self._send_to(link, "serve", ident, dict(wanted))
        self._writer = threading.Thread(
            target=self._write, args=(link,), name="scalems-write", daemon=True
        )
        self._writer.start()
        self._reader = threading.Thread(target=self._read, name="scalems-radical", daemon=True)
        self._reader.start()
        self._ready.wait()  # the server has limits for all that it waits for

    def _end_server(self) -> None:
        """End a session server, so that another may have its calls."""
        assert self._reader is not None
        assert self._writer is not None
        self._reader.join()
        self._outbox.close()
        self._writer.join()
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
        self._server = self._server.renewed()

    def submit(self, call: Call, done: Done) -> None:
        """Take a call, also before there is a pilot."""
        if call.items is not None:
            if self._preflight is not None:
                self._preflight.offer(next(singles(call)))
            self._parts.submit(call, done)
            return
        self._submit(call, done)
        if self._preflight is not None:
            self._preflight.offer(call)

    def _submit(self, call: Call, done: Done) -> None:
        if not self.put(call, done):
            self._refuse(call, done, self._error)

    def put(self, call: Call, done: Done) -> bool:
        """Take a call that is no block; tell if it was taken."""
        with self._lock:
            if self._error is not None or self._closing:
                return False
            self._pending[call.id] = (call, done)
            if self._staging is None or not self._staging.needs(call, self._on_staged):
                self._outbox.add(call)
            return True

    def _on_staged(self, call_id: int, error: ScalemsError | None) -> None:
        """Let a call go whose files are there now, or fail it."""
        with self._lock:
            if not self._unstage(call_id) or call_id not in self._pending:
                return
            call, done = self._pending[call_id]
            if error is None:
                self._outbox.add(call)
                return
            del self._pending[call_id]
        self._refuse(call, done, error)

    def _is_staged(self, call_id: int) -> bool:
        """Whether a call waits for its files."""
        return self._staging is not None and self._staging.waits(call_id)

    def _unstage(self, call_id: int) -> bool:
        return self._staging is not None and self._staging.forget(call_id)

    def _unsent(self, call_id: int) -> bool:
        """Take a call back that was not sent; tell if it was not."""
        return self._unstage(call_id) or self._outbox.remove(call_id)

    def take_back(self, most: int) -> None:
        """Have the server give calls back to the heir that no Worker has, at most so many."""
        if (link := self._link) is not None:
            self._send_to(link, "give back", most)

    def serve(self, ident: int, wanted: Mapping[str, Any], told: Told) -> None:
        """Start a service beside the Workers, as soon as there is a pilot."""
        with self._lock:
            link = self._link
            refused = self._error is not None or self._closing
            if not refused:
                self._services[ident] = (wanted, told)
        if refused:
            told({"state": "ended", "how": "was not started: the run has ended", "stderr": ""})
        elif link is not None:
            self._send_to(link, "serve", ident, dict(wanted))

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """Withdraw a call, or stop a service; if it runs, its processes are ended."""
        if item is not None:
            call_id, several, unsent = self._parts.cancel(call_id, item)
            if unsent is not None:
                self._refuse(*unsent, None)
                return True
            if several:
                return self.cancel_item(call_id, item)
        with self._lock:
            if call_id not in self._pending and call_id not in self._services:
                return False
            link = self._link
            entry = self._pending.pop(call_id) if self._unsent(call_id) else None
        if entry is not None:
            call, done = entry
            done(failed(call, Failure(type=CANCELLED, message="cancelled before it ran")))
        elif link is not None:
            self._send_to(link, "cancel", [call_id])
        return True

    def cancel_item(self, call_id: int, item: int) -> bool:
        """End one of several calls that travel as one; the others go on."""
        with self._lock:
            there, link = call_id in self._pending, self._link
        if there and link is not None:
            self._send_to(link, "cancel item", call_id, item)
        return there

    def close(self, *, abort: bool = False) -> None:
        """Cancel the pilot and close the session; no process of the run is left.

        A warm pilot stays, without the calls of this workflow.

        :param abort: wait a shorter time for RP to do so.
        """
        with self._lock:
            self._closing = True
        if self._staging is not None:
            self._staging.finish(abort=abort)
        self._outbox.close()
        if self._preflight is not None:
            self._preflight.end()
        limit = _ABORT_LIMIT if abort else _CLOSE_LIMIT
        with self._closed:
            link = self._link
            if link is not None:
                stays = self._server.stays(ready=self._ready.is_set() and self._error is None)
                self._send_to(link, "leave" if stays else "close")
                if not stays and not self._server.end(limit):
                    self._notify("RADICAL-Pilot did not close: its processes were ended")
                if self._reader is not None and self._reader is not threading.current_thread():
                    self._reader.join(limit)
                link.close()
                self._link = None
            self._finish(None)

    def status(self) -> Mapping[str, str]:
        """Return the pilot's state and the number of Workers."""
        return dict(self._status)

    # --- the server -----------------------------------------------------------------------

    def _send_to(self, link: Connection[Any, Any], *message: object) -> None:
        with self._send_lock, contextlib.suppress(OSError):  # if it is gone: the reader tells
            wire.send(link, *message)

    def _write(self, link: Connection[Any, Any]) -> None:
        """Send calls to a server, as many at a time as there are."""
        while self._outbox.wait():
            # Taken under the lock: a call that is cancelled was either not taken, or is there.
            with self._send_lock, contextlib.suppress(OSError):
                if rows := self._outbox.take():
                    wire.send(link, "calls", wire.light(rows))

    def _read(self) -> None:
        link = self._link
        assert link is not None
        try:
            while True:
                self._wait_for(link)
                kind, *values = wire.receive(link)
                if kind == "closed":
                    break
                self._on_message(kind, *values)
        except (OSError, EOFError):
            if not self._closing and self._hung is None and self._over is None:
                error = self._server.failure("The RADICAL-Pilot session ended unexpectedly.")
                if self._ready.is_set() and self._error is None:
                    self._on_ended(error, None)
                else:
                    self._lose(error)
        over, self._over = self._over, None
        if over is not None and not self._closing:
            threading.Thread(
                target=self._go_on, args=(over,), name="scalems-go-on", daemon=True
            ).start()
        self._ready.set()

    def _wait_for(self, link: Connection[Any, Any]) -> None:
        # The socket alone does not tell that the server is gone: RP's processes may hold it.
        while not link.poll(_CHECK):
            if self._server.ended() and not link.poll(0):
                raise EOFError

    def _on_message(self, kind: str, value: Any = None, more: Any = None) -> None:
        if kind == "outcomes":
            self._on_outcomes(value)
        elif kind == "status":
            self._status.update(value)
        elif kind == "note":
            self._notify(value)
        elif kind == "way":
            log.info("%s", value)
        elif kind == "failed":
            self._lose(value, more)
        elif kind == "serving":
            self._on_service(value, more)
        elif kind == "returned":
            self._on_returned(value)
        elif kind == "abandoned":
            self._on_abandoned(value, more)
        elif kind == "ended":
            self._on_ended(value, more)
        elif kind == "hung":
            self._hung = value
        elif kind == "ready":
            if self._preflight is not None:
                self._preflight.end()
            self._proved = True
            self._ready.set()
            if self.heir is not None:
                self.heir.ready(value)

    def _on_service(self, ident: int, state: Mapping[str, Any]) -> None:
        with self._lock:
            entry = self._services.get(ident)
            if state["state"] == "ended":
                self._services.pop(ident, None)
        if entry is not None:
            entry[1](state)

    def _on_returned(self, idents: Sequence[int]) -> None:
        with self._lock:
            entries = [self._pending.pop(ident) for ident in idents if ident in self._pending]
        self._outbox.answered(call for call, _ in entries)
        if self.heir is not None:
            self.heir.returned([(call, done, False) for call, done in entries])

    def _on_outcomes(self, rows: Sequence[Row]) -> None:
        with self._lock:
            entries = [
                self._pending.get(row[0]) if wire.is_some(row) else self._pending.pop(row[0], None)
                for row in rows
            ]
        if self._staging is not None:
            self._staging.made(name for row in rows for name in wire.files_of(row))
        both = list(zip(rows, entries, strict=True))
        self._outbox.answered(one[0] for row, one in both if one and not wire.is_some(row))
        for row, entry in both:
            if entry is not None:
                entry[1](wire.outcome_of(row))

    def _on_abandoned(self, idents: Sequence[int], how: str) -> None:
        """Send calls again that were lost with their Worker, if they may be begun twice."""
        with self._lock:
            entries = [
                (*self._pending.pop(ident), True) for ident in idents if ident in self._pending
            ]
            self._outbox.answered(call for call, _, _ in entries)
            if self.heir is None:
                again, refused = self._repeats.sort(entries, self._parts, how)
                for call, done in again:
                    self._pending[call.id] = (call, done)
                    self._outbox.add(call)
        if self.heir is not None:
            self.heir.abandoned(entries, how)
            return
        repeats.tell(refused)

    def _on_ended(self, error: ScalemsError, begun: Sequence[int] | None) -> None:
        """Let another pilot go on when one has ended, if there may be one more."""
        left = self._pilots_left - self._server.counts
        if self._closing or left < 0:
            remedy = f"{self._server.afterwards}; {error.remedy}"
            self._lose(BackendError(error.cause, remedy=remedy), begun)
            return
        self._pilots_left = left
        self._over = error
        self._end_services(error.cause)
        if self.heir is not None:
            self._hand_over(error, begun, final=False)
        else:
            sent = self._sent() if begun is None else begun
            self._on_abandoned(sent, error.cause.splitlines()[0])

    def _sent(self) -> list[int]:
        """Return the calls that a server has had; the others are sent when there is another one."""
        with self._lock:
            waiting = [i for i in self._pending if not self._is_staged(i)]
            return [ident for ident in waiting if not self._outbox.remove(ident)]

    def _lose(self, error: ScalemsError, begun: Sequence[int] | None = None) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._hand_over(error, begun, final=True)
        self._finish(self._error)
        self._ready.set()

    def _hand_over(self, error: ScalemsError, begun: Sequence[int] | None, *, final: bool) -> None:
        """Give all calls to the heir.

        :param begun: those that Workers have; if that is not known, all that were sent may have.
        """
        if self.heir is None or self._closing:
            return
        with self._lock:
            pending, self._pending = self._pending, {}
            entries = []
            for call, done in pending.values():
                sent = not self._unsent(call.id)
                entries.append((call, done, sent if begun is None else call.id in begun))
        self.heir.lost(error, entries, final=final)

    def _finish(self, error: ScalemsError | None) -> None:
        """Give every call that has no outcome yet one."""
        self._outbox.close()
        with self._lock:
            pending, self._pending = self._pending, {}
        self._end_services("the run has ended" if error is None else error.cause)
        for call, done in [*pending.values(), *self._parts.take_held()]:
            self._refuse(call, done, error)

    def _end_services(self, how: str) -> None:
        with self._lock:
            services, self._services = self._services, {}
        for _, told in services.values():
            told({"state": "ended", "how": f"has ended with its pilot: {how}", "stderr": ""})

    @staticmethod
    def _refuse(call: Call, done: Done, error: ScalemsError | None) -> None:
        if error is None:
            failure = Failure(type=CANCELLED, message="the run has ended")
        else:
            failure = failure_of(error)
        done(failed(call, failure))
