"""Several pilots at a time, as one backend: one per resource, per partition, or several of a kind.

Each has a session server of its own, and knows nothing of the others. Calls wait here; a pilot
that has become active is given what it can run, and of short calls as many more as it does in a
moment. What a pilot has that is lost, or has more than it can begin while another is idle, comes
back and goes to the others.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from scalems.errors import BackendError, ScalemsError
from scalems.radical import repeats
from scalems.radical.dispatch import Dispatcher, Place
from scalems.radical.parts import SOME, Parts
from scalems.radical.repeats import Repeats
from scalems.radical.wire import call_row, outcome_row
from scalems.workflow.block import singles
from scalems.workflow.call import CANCELLED, Failure, Outcome, failed, failure_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scalems.radical.backend import Entry, RadicalBackend
    from scalems.radical.preflight import Preflight
    from scalems.workflow.answers import Answers
    from scalems.workflow.backend import Done, Notify, Told
    from scalems.workflow.call import Call

_AHEAD = 1.0  # seconds of work that a pilot gets beyond what it runs
_BALANCE_EVERY = 1.0  # seconds


class Member:
    """One of the pilots.

    :param title: what it is, for people; no two have the same.
    """

    def __init__(self, title: str, backend: RadicalBackend) -> None:
        self.title = title
        self.backend = backend
        self.state = "starting"
        self.done = 0
        """Calls that it has run."""
        self.moved = 0
        """Calls that were taken from it, and run elsewhere."""

    @property
    def over(self) -> bool:
        """Whether it gets no calls any more."""
        return self.state.startswith("ended")

    def text(self) -> str:
        """Return how it stands with it."""
        return f"{self.state}, {self.done} calls" + f", {self.moved} moved" * bool(self.moved)


class Fleet:
    """A backend of several pilots; see :class:`~scalems.workflow.backend.Backend`.

    :param members: the pilots by their titles; none has been started.
    :param environment: content fingerprint of their Task venvs; empty if they differ.
    :param environments: the versions in these, by their fingerprints.
    :param preflight: what looks at calls until a pilot is ready.
    """

    name = "radical"

    def __init__(
        self,
        members: Mapping[str, RadicalBackend],
        *,
        notify: Notify,
        label: str,
        environment: str = "",
        environments: Mapping[str, Mapping[str, str]] | None = None,
        preflight: Preflight | None = None,
    ) -> None:
        self.label = label
        self.environment = environment
        self.environments = environments or {}
        self._notify = notify
        self._changed = threading.Condition()  # its lock is held while anything below is used
        self._members = {title: Member(title, backend) for title, backend in members.items()}
        self._dispatcher = Dispatcher()
        self._pending: dict[int, tuple[Call, Done]] = {}
        self._large: dict[int, Call] = {}  # that wait for a larger pilot than there is yet
        self._services: dict[int, tuple[Mapping[str, Any], Told]] = {}  # that wait for a pilot
        self._serving: dict[int, str] = {}  # with which pilot each is
        self._parts = Parts(self._submit)
        self._repeats = Repeats()
        self._error: ScalemsError | None = None
        self._closing = False
        self._closed = threading.Lock()
        self._preflight = preflight
        if preflight is not None:
            preflight.refuse = self._lose
        for member in self._members.values():
            member.backend.heir = _Heir(self, member)

    def start(self) -> None:
        """Start all pilots, and wait until one of them has a Worker that has proved what it is.

        :raises BackendError: no pilot can start.
        :raises EnvironmentNotReady: the Workers are not what was verified.
        """
        for member in self._members.values():
            threading.Thread(
                target=self._start, args=(member,), name=f"scalems-{member.title}", daemon=True
            ).start()
        threading.Thread(target=self._balance, name="scalems-balance", daemon=True).start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._error is not None or self._closing or self._dispatcher.places
            )
            if self._error is not None:
                raise self._error
            if self._closing and not self._dispatcher.places:
                raise BackendError("The run was closed while it started.")

    def submit(self, call: Call, done: Done) -> None:
        """Take a call, also before there is a pilot."""
        if self._preflight is not None:
            self._preflight.offer(call if call.items is None else next(singles(call)))
        if call.items is not None:
            self._parts.submit(call, done)
        else:
            self._submit(call, done)

    def serve(self, ident: int, wanted: Mapping[str, Any], told: Told) -> None:
        """Start a service beside the pilot that is active, or will be first."""
        with self._changed:
            first = next(iter(self._dispatcher.places), None)
            if first is None and self._error is None and not self._closing:
                self._services[ident] = (wanted, told)
                return
        if first is None:
            told({"state": "ended", "how": "was not started: the run has ended", "stderr": ""})
        else:
            self._serving[ident] = first
            self._members[first].backend.serve(ident, wanted, told)

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """Withdraw a call; if it runs, its processes are ended."""
        if item is not None:
            call_id, several, waits = self._parts.cancel(call_id, item)
            if waits is not None:
                _refuse([waits], None)
                return True
            if several:
                return self._cancel_item(call_id, item)
        with self._changed:
            if (title := self._serving.get(call_id)) is not None:
                return self._members[title].backend.cancel(call_id)
            if call_id not in self._pending:
                return self._services.pop(call_id, None) is not None
            unsent = None
            if self._large.pop(call_id, None) or self._dispatcher.queue.remove(call_id):
                unsent = self._pending.pop(call_id)
        if unsent is not None:
            call, done = unsent
            done(failed(call, Failure(type=CANCELLED, message="cancelled before it ran")))
        for member in self._holders(call_id):
            member.backend.cancel(call_id)
        return True

    def _cancel_item(self, number: int, item: int) -> bool:
        """End one of the items of a part, which waits here or is with a pilot."""
        with self._changed:
            refused = []
            if self._large.pop(number, None) or self._dispatcher.queue.remove(number):
                refused = self._again([(*self._pending[number], False)], "")[1]
        if refused:
            repeats.tell(refused)
            return True
        return any(one.backend.cancel_item(number, item) for one in self._holders(number))

    def _holders(self, call_id: int) -> list[Member]:
        """Return the pilots that have a call."""
        with self._changed:
            places = self._dispatcher.places.items()
            return [self._members[name] for name, place in places if call_id in place.away]

    def close(self, *, abort: bool = False) -> None:
        """End all pilots; warm ones stay."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._preflight is not None:
            self._preflight.end()
        closers = [
            threading.Thread(target=member.backend.close, kwargs={"abort": abort})
            for member in self._members.values()
        ]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        if self._closed.acquire(blocking=False):  # said once
            for member in self._members.values():
                self._notify(f"pilot {member.title}: {member.text()}")
        self._finish(None)

    def status(self) -> Mapping[str, str]:
        """Return how many pilots are active, the number of Workers, and of each what it did."""
        with self._changed:
            active = len(self._dispatcher.places)
            workers = sum(
                int(self._members[name].backend.status().get("workers") or 0)
                for name in self._dispatcher.places
            )
            told = {title: member.text() for title, member in self._members.items()}
        return {"pilot": f"{active} of {len(told)} active", "workers": str(workers), **told}

    # --- calls ----------------------------------------------------------------------------

    def _submit(self, call: Call, done: Done) -> None:
        with self._changed:
            error = self._error
            refused = error is not None or self._closing
            if not refused:
                self._pending[call.id] = (call, done)
                self._queue(call)
        if refused:
            _refuse([(call, done)], error)
        else:
            self._send()

    def _queue(self, call: Call, *, first: bool = False) -> None:
        """Let a call wait for its turn, or for the start of a pilot that is large enough."""
        largest = max((place.slots for place in self._dispatcher.places.values()), default=0)
        if call.needs.cores > largest and self._awaited():
            self._large[call.id] = call
        else:
            self._dispatcher.queue.add(call_row(call), first=first)

    def _awaited(self) -> bool:
        return any(
            not member.over and member.title not in self._dispatcher.places
            for member in self._members.values()
        )

    def _send(self, name: str | None = None) -> None:
        """Give pilots what they can take; only to that of a name, if one is named."""
        with self._changed:
            sends = [
                (place.name, self._pending[row[0]])
                for place, rows in self._dispatcher.batches(name)
                for row in rows
            ]
        for title, (call, done) in sends:
            member = self._members[title]
            if not member.backend.put(call, partial(self._on_outcome, member)):
                self._on_returned(member, [(call, done, False)], ended=True)

    def _on_outcome(self, member: Member, outcome: Outcome | Answers) -> None:
        assert isinstance(outcome, Outcome)  # blocks are cut to parts before, which have one
        with self._changed:
            self._dispatcher.ended(member.title, [outcome_row(outcome)])
            if outcome.item == SOME:
                entry = self._pending.get(outcome.id)
            else:
                entry = self._pending.pop(outcome.id, None)
                member.done += 1
        if entry is not None:
            entry[1](outcome)
        self._send(member.title)

    def _on_returned(
        self, member: Member, entries: Sequence[Entry], how: str = "", *, ended: bool = False
    ) -> None:
        """Queue calls again that a pilot gives back, or has lost while it goes on.

        :param how: they were lost.
        :param ended: it takes none any more, and will tell so.
        """
        with self._changed:
            place = self._dispatcher.places.get(member.title)
            if place is not None:
                for call, _, _ in entries:
                    place.lost(call.id)
                place.recalled, place.stalled, place.paused = False, True, place.paused or ended
            _, refused = self._again(entries, how)
        repeats.tell(refused)
        self._send()

    def _again(self, entries: Iterable[Entry], how: str) -> tuple[int, list[repeats.Refused]]:
        """Queue calls that come back, before all others.

        :return: how many; and those that do not run again.
        """
        # A call is told by what was noted here: a pilot knows it with one that counts for it.
        known = [
            (*self._pending.pop(call.id), begun)
            for call, _, begun in entries
            if call.id in self._pending
        ]
        again, refused = self._repeats.sort(known, self._parts, how)
        for call, done in reversed(again):
            self._pending[call.id] = (call, done)
            self._queue(call, first=True)
        return len(again), refused

    def _balance(self) -> None:
        """Have calls given back, now and then, that another pilot could begin at once."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._closing, _BALANCE_EVERY):
                for place in self._dispatcher.overloaded():
                    self._members[place.name].backend.take_back(place.load - place.slots)

    # --- pilots ---------------------------------------------------------------------------

    def _start(self, member: Member) -> None:
        try:
            member.backend.start()
        except ScalemsError as error:
            self._on_lost(member, error, (), final=True)

    def _on_ready(self, member: Member, slots: int) -> None:
        with self._changed:
            member.state = "active"
            self._dispatcher.open(Place(member.title, max(1, slots), ahead=_AHEAD))
            self._reconsider()
            self._changed.notify_all()
            alone = not self._awaited()
            services, self._services = self._services, {}
        for ident, (wanted, told) in services.items():
            self.serve(ident, wanted, told)
        if self._preflight is not None and alone:
            self._preflight.end()
        self._notify(f"pilot {member.title} is active, and runs {slots} calls at a time")
        self._send()

    def _reconsider(self) -> None:
        large, self._large = self._large, {}
        for call in large.values():
            self._queue(call)

    def _on_lost(
        self, member: Member, error: ScalemsError, entries: Iterable[Entry], *, final: bool
    ) -> None:
        """Let the others do what a pilot has not.

        :param final: it has no successor.
        """
        how = error.cause.splitlines()[0]
        with self._changed:
            if self._closing or member.over:
                return
            member.state = f"ended ({how})" if final else "starting again"
            self._dispatcher.close(member.title)
            moved, refused = self._again(entries, how)
            member.moved += moved
            self._reconsider()
            over = all(one.over for one in self._members.values())
        told = f"pilot {member.title}: {error.cause if final else how}"
        if over:
            self._lose(error)
        else:
            self._notify(f"{told} {moved} calls go to other pilots")
        repeats.tell(refused)
        self._send()

    def _lose(self, error: ScalemsError) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()
        self._finish(self._error)

    def _finish(self, error: ScalemsError | None) -> None:
        """Give every call that has no outcome yet one."""
        with self._changed:
            pending, self._pending = self._pending, {}
            services, self._services = self._services, {}
        for _, told in services.values():
            told({"state": "ended", "how": "was not started: the run has ended", "stderr": ""})
        _refuse([*pending.values(), *self._parts.take_held()], error)


class _Heir:
    """What one of the pilots tells its fleet."""

    def __init__(self, fleet: Fleet, member: Member) -> None:
        self._fleet = fleet
        self._member = member

    def ready(self, slots: int) -> None:
        self._fleet._on_ready(self._member, slots)

    def returned(self, entries: Sequence[Entry]) -> None:
        self._fleet._on_returned(self._member, entries)

    def abandoned(self, entries: Sequence[Entry], how: str) -> None:
        self._fleet._on_returned(self._member, entries, how)

    def lost(self, error: ScalemsError, entries: Sequence[Entry], *, final: bool) -> None:
        self._fleet._on_lost(self._member, error, entries, final=final)


def _refuse(entries: Iterable[tuple[Call, Done]], error: ScalemsError | None) -> None:
    for call, done in entries:
        if error is None:
            failure = Failure(type=CANCELLED, message="the run has ended")
        else:
            failure = failure_of(error)
        done(failed(call, failure))
