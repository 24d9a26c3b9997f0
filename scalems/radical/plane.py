"""The way of calls through a session server: from clients to Workers, and back.

It goes over the data channel to Workers that can reach the server, and through RADICAL-Pilot's
call-mode tasks to those that cannot.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from scalems.errors import BackendError
from scalems.radical.dispatch import Dispatcher, Place
from scalems.radical.hub import GONE, Hub, WorkerEvent
from scalems.radical.wire import (
    CANCEL,
    call_of,
    light,
    numbered,
    outcome_row,
    pack,
    unpack,
)
from scalems.workflow.call import CANCELLED, Failure, failed, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from scalems.radical.clients import Clients
    from scalems.radical.session import PilotSession
    from scalems.radical.wire import Row

RP = "RADICAL-Pilot"
"""Name of the place of all Workers that are reached through RP's tasks only."""

_CLIENT = 48  # bits of a call's id that it has at its client; above them is the client's number
_BALANCE_EVERY = 0.2  # seconds
_OWN = (1 << _CLIENT) - 1
_RP_AHEAD = 2.0  # seconds of work that is sent ahead: RP needs some 0.1 s to bring a task
_RP_BATCH = 0.5  # seconds of work that one of RP's tasks may take, as far as calls have shown
_RP_MOST = 1000  # calls in one of RP's tasks

log = logging.getLogger(__name__)


class Plane:
    """Passes calls and outcomes on; belongs to one thread, but for what it emits.

    :param emit: told :class:`~scalems.radical.hub.WorkerEvent`, from a thread.
    """

    def __init__(
        self,
        session: PilotSession,
        clients: Clients,
        emit: Callable[[WorkerEvent], None],
        *,
        folder: Path,
    ) -> None:
        self._session = session
        self._clients = clients
        self._emit = emit
        self._folder = folder
        self._dispatcher = Dispatcher()
        self._hub: Hub | None = None
        self._waiting: dict[str, tuple[int, str]] = {}  # Workers let in: their slots and host
        self._batches: dict[str, list[int]] = {}
        self._unwanted: dict[int, set[int]] = {}  # items of parts that no Worker has yet
        self._count = 0
        self._balanced = 0.0

    def __len__(self) -> int:
        """Number of calls that have no outcome."""
        return len(self._dispatcher)

    # --- Workers --------------------------------------------------------------------------

    def invitation(self) -> dict[str, Any]:
        """Open the channel; return what a Worker needs to know to connect."""
        hosts = self._session.hosts()
        if self._hub is None and hosts:
            try:
                self._hub = Hub(self._emit, hosts)
            except OSError as error:
                log.warning("no data channel: %s", error)
        if self._hub is None:
            return {"addresses": [], "key": ""}
        return {"addresses": self._hub.addresses, "key": self._hub.key}

    def admit(self, worker: str, answer: dict[str, Any]) -> str:
        """Let a Worker have calls that was found to be what it must be.

        :return: the way to it, for people.
        """
        slots = int(answer["slots"])
        if answer["address"] and self._hub is not None:
            self._waiting[worker] = (slots, str(answer["host"]))
            self._hub.admit(worker, answer["channel"])
            return f"a data channel to {answer['address']}"
        log.warning("%s is reached through RADICAL-Pilot: %s", worker, answer["reason"])
        place = self._dispatcher.places.get(RP)
        if place is None:
            self._dispatcher.open(Place(RP, slots, ahead=_RP_AHEAD, most=_RP_MOST))
        else:
            place.slots += slots
        return f"{RP}'s tasks: {answer['reason'] or 'there is no data channel'}"

    def route(self) -> str:
        """Return how calls get to Workers, for people."""
        names = {"tasks of RP" if name == RP else "channel" for name in self._dispatcher.places}
        return " and ".join(sorted(names))

    def on_worker(self, event: WorkerEvent) -> None:
        """Take what a Worker says."""
        worker, kind, value = event
        place = self._dispatcher.places.get(worker)
        if kind == "outcomes":
            self._deliver(self._dispatcher.ended(worker, value))
            self.send(worker)  # the others have what they had
            return
        if kind == "open":
            slots, host = self._waiting.pop(worker)
            self._dispatcher.open(Place(worker, slots, host=host))
        elif kind == "returned":
            self._dispatcher.returned(worker, value)
        elif kind in ("silent", "back") and place is not None:
            log.warning("%s is %s", worker, kind)
            place.paused = kind == "silent"
            said = f"does not answer, and is given up after {GONE:.0f} s"
            said = said if place.paused else "answers again"
            self._clients.tell_all("note", f"{worker} {said}")
        elif kind == "gone":
            self.lose(worker, f"{worker} has not been heard of")
        self.send()

    def lose(self, worker: str, how: str) -> None:
        """Have done with a Worker. Its calls may have begun: what becomes of them is their client's
        to say, who knows whether they may be begun again.
        """
        self._waiting.pop(worker, None)
        shares: dict[int, list[int]] = {}
        for row in self._dispatcher.close(worker):
            shares.setdefault(row[0] >> _CLIENT, []).append(row[0] & _OWN)
        for client, share in shares.items():
            self._clients.tell(client, "abandoned", share, how)
        if self._hub is not None:
            self._hub.dismiss(worker)

    def begun(self, client: int) -> list[int]:
        """Return the calls of a client that Workers have, and so may have begun."""
        return [
            ident & _OWN
            for place in self._dispatcher.places.values()
            for ident in place.away
            if ident >> _CLIENT == client
        ]

    def give_back(self, client: int, most: int) -> list[int]:
        """Forget calls of a client that no Worker has, and whose turn comes last; return them."""
        own = [ident for ident in self._dispatcher.queue if ident >> _CLIENT == client]
        unsent, _ = self._dispatcher.withdraw(own[-most:] if most > 0 else [])
        return [row[0] & _OWN for row in unsent]

    def reachable(self) -> bool:
        """Tell if there is a Worker, and it is not silent."""
        return any(not place.paused for place in self._dispatcher.places.values())

    def lively(self) -> bool:
        """Tell if there is a Worker that is reached without RP's master."""
        return any(name != RP for name in self._dispatcher.places)

    # --- calls ----------------------------------------------------------------------------

    def add(self, client: int, rows: Iterable[Row]) -> None:
        """Queue calls of a client."""
        base = client << _CLIENT
        for row in rows:
            self._dispatcher.queue.add(numbered(row, base | row[0]))

    def cancel(self, client: int, idents: Iterable[int]) -> None:
        """Withdraw calls of a client, or end them."""
        self._withdraw([(client << _CLIENT) | ident for ident in idents])

    def cancel_item(self, client: int, ident: int, item: int) -> None:
        """End one of several calls that travel as one, as soon as a Worker has it."""
        number = (client << _CLIENT) | ident
        for place in self._dispatcher.places.values():
            if number in place.away:
                self._end(place.name, [(number, item)])
                return
        self._unwanted.setdefault(number, set()).add(item)

    def drop(self, client: int) -> None:
        """Withdraw all calls of a client."""
        self._withdraw([ident for ident in self._dispatcher if ident >> _CLIENT == client])

    def send(self, worker: str | None = None) -> None:
        """Send what can be sent now.

        :param worker: the only one that has room.
        """
        self._dispatcher.gangs.expected = self._session.slots
        for place, rows in self._dispatcher.batches(worker):
            if place.name == RP:
                self._send_by_rp(place, rows)
            elif self._hub is not None:
                self._hub.send(place.name, "calls", light(rows))
            if self._unwanted:
                ends = [(row[0], i) for row in rows for i in self._unwanted.pop(row[0], ())]
                self._end(place.name, ends)

    def balance(self) -> None:
        """Have calls given back that others could begin at once, now and then."""
        now = time.monotonic()
        if now - self._balanced < _BALANCE_EVERY:
            return
        self._balanced = now
        for place in self._dispatcher.overloaded():
            if place.name != RP and self._hub is not None:
                self._hub.send(place.name, "give back", place.load - place.slots)

    def on_batch(self, name: str, value: str | None, why: str) -> None:
        """Take the end of one of RP's tasks.

        :param value: what it returned, if it did.
        :param why: what became of its calls, if it did not.
        """
        place = self._dispatcher.places.get(RP)
        idents = self._batches.pop(name, ())
        self._deliver(self._dispatcher.ended(RP, [] if value is None else unpack(value)))
        rows = [row for i in idents if place is not None and (row := place.lost(i)) is not None]
        self._fail(
            rows, lambda row: failure_of(BackendError(f"The call {call_of(row).name} {why}"))
        )
        self.send()

    def close(self) -> None:
        """Close the channel."""
        if self._hub is not None:
            self._hub.close()

    def _send_by_rp(self, place: Place, rows: list[Row]) -> None:
        folder = self._folder if self._session.local else None
        size = place.batch(_RP_BATCH)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            self._count += 1
            name = f"scalems.batch.{self._count}"
            self._batches[name] = [row[0] for row in batch]
            self._session.submit(name, "run_calls", pack(batch, folder=folder), str(folder or ""))

    def _withdraw(self, idents: Sequence[int]) -> None:
        unsent, sent = self._dispatcher.withdraw(idents)
        self._fail(
            unsent,
            lambda row: Failure(type=CANCELLED, message=f"{call_of(row).name} was cancelled"),
        )
        for place, its in sent.items():
            self._end(place, its)

    def _end(self, place: str, its: Sequence[int | tuple[int, int]]) -> None:
        """Have a Worker end calls, or items of parts."""
        if place == RP:
            self._session.broadcast(CANCEL, calls=its)
        elif self._hub is not None and its:
            self._hub.send(place, "cancel", its)

    def _fail(self, rows: Iterable[Row], failure: Callable[[Row], Failure]) -> None:
        self._deliver([outcome_row(failed(call_of(row), failure(row))) for row in rows])

    def _deliver(self, outcomes: Iterable[Row]) -> None:
        """Give outcomes to those whose calls they are of."""
        shares: dict[int, list[Row]] = {}
        for row in outcomes:
            client = row[0] >> _CLIENT
            shares.setdefault(client, []).append(numbered(row, row[0] & _OWN))
        for client, share in shares.items():
            self._clients.tell(client, "outcomes", light(share))
