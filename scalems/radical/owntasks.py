"""Tasks of RADICAL-Pilot's own beside the Workers: services, and calls with ``route="rp"``.

Each is an executable task in the Task venv that is told by a folder in the pilot's sandbox what to
do, and leaves there what it has to tell. RP has a mode for services too. It is not used: while one
starts the agent takes no other task, one that does not get ready ends the agent's intake for
good, and its words are not quoted.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import TaskError
from scalems.radical.wire import call_of, needs_of, outcome_row
from scalems.workflow import mpi, serving
from scalems.workflow.call import CANCELLED, LOST, TIMEOUT, Failure, failed, failure_of
from scalems.workflow.child import cut
from scalems.workflow.needs import variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scalems.radical.clients import Clients
    from scalems.radical.session import PilotSession, TaskEvent
    from scalems.radical.wire import Row
    from scalems.workflow.call import Call

OWN = "scalems.own."
"""How the names of these tasks begin."""

_SHOWN = 2000  # characters of output in an error


@dataclass
class _Task:
    client: int
    ident: int
    folder: Path
    cores: int
    call: Call | None = None
    """``None``: it is a service."""
    due: float | None = None
    """When its time is over."""
    told: Mapping[str, Any] | None = None
    """How it stands with a service, as far as its client knows."""
    restarts: bool = False
    """Whether it may be started again."""
    how: str = ""
    """Why it was ended by us."""


class OwnTasks:
    """Starts them, and tells their clients what comes of them; belongs to the main thread."""

    def __init__(self, session: PilotSession, clients: Clients) -> None:
        self._session = session
        self._clients = clients
        self._tasks: dict[str, _Task] = {}
        self._early: list[tuple[int, Any]] = []  # that wait for the pilot, or for free cores
        self._begun = False
        self._count = 0

    def __len__(self) -> int:
        return len(self._tasks) + len(self._early)

    def call(self, client: int, row: Row) -> None:
        """Run a call as a task."""
        self._take(client, call_of(row))

    def serve(self, client: int, ident: int, wanted: Mapping[str, Any]) -> None:
        """Start a service."""
        self._take(client, (ident, dict(wanted)))

    def begin(self) -> None:
        """Start what has waited for the pilot to be there."""
        self._begun = True
        self._go_on()

    def _go_on(self) -> None:
        """Start what there are cores for, in order, and refuse what there never will be."""
        while self._begun and self._early:
            client, what = self._early[0]
            cores = _cores(what)
            if 0 < self._session.per_node < (together := _together(what)):
                del self._early[0]
                how = f"needs {together} cores on one node, which has {self._session.per_node}"
                remedy = "ask for fewer; without route= a program's ranks run over several nodes"
                self._refuse(client, what, how=how, remedy=remedy)
                continue
            spare = self._session.spare
            used = sum(one.cores for one in self._tasks.values())
            held = sum(one.cores for one in self._tasks.values() if one.call is None)
            if used + cores > spare >= held + cores:
                return  # calls will end; RP would wait too, but also for what never ends
            del self._early[0]
            if held + cores > spare:
                remedy = f"start it with --spare-cores {cores + held}"
                there = f"there are {spare}" + f", and services have {held}" * (held > 0)
                how = f"needs {cores} cores that no Worker has, and {there}"
                self._refuse(client, what, how=how, remedy=remedy)
            else:
                self._start(client, what, cores)

    def begun(self, client: int) -> list[int]:
        """Return the calls of a client that may have begun."""
        return [one.ident for one in self._tasks.values() if one.client == client and one.call]

    def cancel(self, client: int, idents: Iterable[int]) -> list[int]:
        """End those that are here; return the others."""
        own = {(one.client, one.ident): name for name, one in self._tasks.items()}
        gone = set()
        for entry in [one for one in self._early if one[0] == client]:
            what = entry[1]
            ident = what[0] if isinstance(what, tuple) else what.id
            if ident in idents:
                gone.add(ident)
                self._early.remove(entry)
                self._refuse(*entry, how="was stopped", kind=CANCELLED)
        others = []
        for ident in idents:
            if (name := own.get((client, ident))) is not None:
                self._end(name, CANCELLED)
            elif ident not in gone:
                others.append(ident)
        return others

    def drop(self, client: int) -> None:
        """End all of a client that is gone."""
        self._early = [one for one in self._early if one[0] != client]
        for name, one in self._tasks.items():
            if one.client == client:
                self._end(name, CANCELLED)

    def look(self) -> None:
        """See which services have got ready, and whose time is over."""
        now = time.monotonic()
        for name, one in self._tasks.items():
            if one.due is not None and now > one.due and not one.how:
                self._end(name, TIMEOUT)
            if one.call is None and (one.told is None or one.restarts):
                state = serving.state(one.folder)
                if state.get("state") in ("ready", "restarting") and state != one.told:
                    one.told = state
                    self._clients.tell(one.client, "serving", one.ident, state)

    def on_task(self, event: TaskEvent) -> None:
        """Take the end of one."""
        one = self._tasks.pop(event.uid, None)
        if one is not None:
            self._ended(event, one)
            self._go_on()

    def _ended(self, event: TaskEvent, one: _Task) -> None:
        if one.call is None:
            state = serving.state(one.folder)
            if state.get("state") != "ended":
                state = {"state": "ended", "how": self._how(event, one), "stderr": ""}
            self._clients.tell(one.client, "serving", one.ident, state)
            return
        out, err = self._output(event.uid)
        outcome = None
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            outcome = mpi.collected(one.folder, one.call)
        if outcome is None or one.how:
            kind = one.how or LOST
            end = f"; the end of its stderr:\n{err[-_SHOWN:]}" if err else ""
            message = f"{one.call.name} {self._how(event, one)}{end}"
            outcome = failed(one.call, Failure(type=kind, message=message))
        row = outcome_row(replace(outcome, id=one.ident, stdout=out, stderr=err))
        self._clients.tell(one.client, "outcomes", [row])

    # --------------------------------------------------------------------------------------

    def _take(self, client: int, what: Any) -> None:
        self._early.append((client, what))
        self._go_on()

    def _start(self, client: int, what: Any, cores: int) -> None:
        service = isinstance(what, tuple)
        sandbox = self._session.sandbox()
        if sandbox is None:
            self._refuse(client, what, how="cannot be told its work: the sandbox is not seen here")
            return
        self._count += 1
        name = f"{OWN}{self._count}"
        folder = sandbox / "scalems-own" / str(self._count)
        if service:
            ident, wanted = what
            host = "127.0.0.1" if self._session.local else ""
            words = serving.laid(folder, {**wanted, "host": host, "reach": self._session.hosts()})
            again = wanted["restarts"] > 0
            self._tasks[name] = _Task(client, ident, folder, cores, restarts=again)
            self._session.launch(name, words, {}, ranks=1, cores_per_rank=cores)
            return
        needs = what.needs
        due = None if what.timeout is None else time.monotonic() + what.timeout
        self._tasks[name] = _Task(client, what.id, folder, cores, call=what, due=due)
        self._session.launch(
            name,
            mpi.laid(folder, what),
            variables(needs, ()),
            ranks=needs.ranks,
            cores_per_rank=needs.cores_per_rank,
            gpus_per_rank=needs.gpus_per_rank,
        )

    def _refuse(
        self, client: int, what: Any, *, how: str, remedy: str = "", kind: str = ""
    ) -> None:
        if isinstance(what, tuple):
            state = {"state": "ended", "how": how, "stderr": "", "remedy": remedy or None}
            self._clients.tell(client, "serving", what[0], state)
        else:
            failure = failure_of(TaskError(f"{what.name} {how}", remedy=remedy or None))
            if kind:
                failure = Failure(type=kind, message=f"{what.name} {how}")
            self._clients.tell(client, "outcomes", [outcome_row(failed(what, failure))])

    def _end(self, name: str, how: str) -> None:
        one = self._tasks[name]
        one.how = how
        if one.call is None:
            with contextlib.suppress(OSError):
                (one.folder / serving.STOP).touch()
        else:
            self._session.cancel(name)

    def _how(self, event: TaskEvent, one: _Task) -> str:
        if one.how == TIMEOUT and one.call is not None:
            return f"has run for longer than {one.call.timeout:g} s"
        if one.how:
            return "was cancelled"
        return f"ended without an outcome ({event.state}): {event.error.strip()[-_SHOWN:]}"

    def _output(self, name: str) -> tuple[str, str]:
        sandbox = self._session.sandbox()
        texts = []
        for suffix in ("out", "err"):
            data = b""
            with contextlib.suppress(OSError):
                assert sandbox is not None
                data = (sandbox / name / f"{name}.{suffix}").read_bytes()
            texts.append(cut(data))
        return texts[0], texts[1]


def _cores(what: Any) -> int:
    return int(what[1]["cores"] if isinstance(what, tuple) else what.needs.cores)


def _together(what: Any) -> int:
    """Return the cores that must be on one node: those of a rank; a program starts its own."""
    return int(what[1]["cores"] if isinstance(what, tuple) else what.needs.cores_per_rank)


def apart(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the calls that go to Workers, and those that are tasks of RP's own."""
    workers: list[Row] = []
    own: list[Row] = []
    for row in rows:
        (own if needs_of(row).route == "rp" else workers).append(row)
    return workers, own
