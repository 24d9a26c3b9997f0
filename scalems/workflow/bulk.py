"""Calls of one function that are made together, as the graph sees them.

What most items do costs next to nothing here: they give a value, and print nothing. Any other
becomes a task of the usual kind as soon as that shows.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from scalems.errors import UsageError
from scalems.workflow import argument, block, current, pickling
from scalems.workflow.answers import Answers
from scalems.workflow.call import Call
from scalems.workflow.items import Items
from scalems.workflow.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scalems.workflow.backend import Backend
    from scalems.workflow.call import Outcome
    from scalems.workflow.future import Future
    from scalems.workflow.options import TaskOptions
    from scalems.workflow.pickling import Encoded
    from scalems.workflow.results import Results
    from scalems.workflow.tally import Tally
    from scalems.workflow.work import Work


class Owner(Protocol):
    """What the graph is to them."""

    backend: Backend
    area: str
    closed: bool
    error: BaseException | None
    ids: Iterator[int]
    results: Results | None
    tally: Tally
    work: Work

    def start(self) -> None:
        """Start the backend, if that was not done before."""
        ...

    def adopt(
        self,
        future: Future[Any],
        outcome: Outcome | BaseException,
        key: str,
        options: TaskOptions,
        encoded: Encoded | None,
    ) -> None:
        """See to an item that has not given just a value."""
        ...


class Bulks:
    """All that have not ended.

    :param graph: that they belong to.
    """

    def __init__(self, graph: Owner) -> None:
        self.graph = graph
        self.all: dict[int, Bulk] = {}

    def submit(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[object, ...]],
        name: str,
        options: TaskOptions,
    ) -> Items:
        """Add tasks, see ``Graph.submit_many``; there are no futures in their arguments."""
        graph = self.graph
        if graph.closed:
            raise UsageError(f"The task {name!r} was called after the workflow had ended.")
        ids = list(itertools.islice(graph.ids, len(items)))
        keys = [""] * len(items)
        reused: dict[int, Outcome] = {}
        if graph.results is not None:
            keys, reused = graph.results.begin_many(function, name, ids, items, options)
            if graph.error is not None:
                reused = {}
        whole = ids[-1] - ids[0] + 1 == len(ids)  # no other thread has taken numbers meanwhile
        made = Items(name, range(ids[0], ids[-1] + 1) if whole else ids, reused)
        current.children(lambda: map(made.future, range(len(made))))
        if reused:
            graph.tally.ended(name, "reused", len(reused))
            graph.tally.moved("done", None, len(reused))
            graph.tally.reused(len(reused))
            keys, items = [keys[i] for i in made.fresh], [items[i] for i in made.fresh]
        start = 0
        for count, payload in block.encoded(function, items) if items else ():
            stop = start + count
            sent = Call(
                id=ids[made.fresh[start]],
                name=name,
                payload=payload,
                timeout=options.timeout,
                area=graph.area,
                needs=options.needs,
                items=range(count),
            )
            bulk = Bulk(self, sent, made, start, keys[start:stop], options)
            if options.retries:
                bulk.again = (function, items[start:stop])
            bulk.send()
            start = stop
        return made

    def cancel(self) -> None:
        """Cancel all."""
        for bulk in reversed(list(self.all.values())):
            bulk.items.cancel()

    def fail(self, error: BaseException) -> None:
        """End all by an error."""
        for bulk in list(self.all.values()):
            bulk.fail(error)


_SMALL = pickling.LEAVES - {bytes}


def grouped(
    items: Sequence[tuple[object, ...]],
) -> Iterator[tuple[bool, Sequence[tuple[object, ...]]]]:
    """Yield calls that can travel together, not too many, and those that go alone; in order."""
    for start in range(0, len(items), block.MOST):
        some = items[start : start + block.MOST]
        rows = Rows.of(some)
        if rows is not None and _SMALL.issuperset(rows.kinds):
            yield False, rows
        else:
            for alone, group in itertools.groupby(some, _goes_alone):
                yield alone, list(group)


def _goes_alone(args: tuple[object, ...]) -> bool:
    """Return whether a call is none of a block: it waits for others, or holds something large."""
    if _SMALL.issuperset(map(type, args)):
        return False
    return bool(argument.futures_in(*args)) or pickling.is_large(args)


class Bulk:
    """One block, and the calls of a map that go in it.

    :param call: the block.
    :param items: some of which are in it.
    :param start: where those begin among the fresh ones.
    :param keys: of the calls in the store of results; empty ones are not kept.
    """

    __slots__ = ("_bulks", "_left", "_start", "again", "call", "items", "keys", "options")

    def __init__(
        self,
        bulks: Bulks,
        call: Call,
        items: Items,
        start: int,
        keys: list[str],
        options: TaskOptions,
    ) -> None:
        self._bulks = bulks
        self._left = len(keys)
        self._start = start
        self.call = call
        self.items = items
        self.keys = keys
        self.options = options
        self.again: tuple[Callable[..., Any], Sequence[tuple[object, ...]]] | None = None
        """The function and the arguments, if they may be tried again."""
        items.add(self, start)

    def send(self) -> None:
        """Hand it to the backend."""
        graph = self._bulks.graph
        self._bulks.all[self.call.id] = self
        graph.tally.moved("submitted", None, len(self.keys))
        graph.start()
        if graph.error is not None:
            self.fail(graph.error)
            return
        try:
            graph.backend.submit(self.call, self._receive)
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End all of its items by an error."""
        mine = self._places(range(len(self.keys)))
        for place in set(self.items.pending()).intersection(mine):
            self._adopt(self._position(place), error)
        self._bulks.all.pop(self.call.id, None)

    def withdraw(self, future: Future[Any]) -> None:
        """Forget an item whose future was cancelled just now."""
        graph = self._bulks.graph
        future.set_running_or_notify_cancel()  # tells concurrent.futures.wait and its like
        graph.tally.ended(future.name, "cancelled")
        graph.tally.moved("cancelled", "submitted")
        if graph.results is not None:
            graph.results.ended(future.task_id, "cancelled", "")
        self.items.ended_apart(future)
        if not graph.closed:
            graph.backend.cancel(self.call.id, future._place)

    def _places(self, positions: Sequence[int]) -> Sequence[int]:
        """Return where items of the block are among the calls of the map."""
        fresh, start = self.items.fresh, self._start
        if isinstance(positions, range) and positions.step == 1:
            return fresh[start + positions.start : start + positions.stop]
        return [fresh[start + position] for position in positions]

    def _position(self, place: int) -> int:
        fresh = self.items.fresh
        at = place if isinstance(fresh, range) else bisect_left(fresh, place)
        return at - self._start

    def _receive(self, told: Outcome | Answers) -> None:
        """Take what the backend tells of some items, in whatever thread."""
        self._bulks.graph.work.do(partial(self._settle, told))

    def _settle(self, told: Outcome | Answers) -> None:
        if not isinstance(told, Answers):
            self._adopt(told.item or 0, told)
            self._ended(1)
            return
        for position, outcome in told.others.items():
            self._adopt(position, outcome)
        positions: Sequence[int] = range(told.first, told.first + len(told))
        if told.others:
            positions = [position for position in positions if position not in told.others]
        graph = self._bulks.graph
        if graph.results is None or not positions:
            self._succeed(told, positions)
            return
        graph.results.finished_many(
            self.call.name,
            [self.items.ids[place] for place in self._places(positions)],
            [self.keys[position] for position in positions],
            told,
            positions,
            lambda: graph.work.do(partial(self._succeed, told, positions)),
        )

    def _succeed(self, told: Answers, positions: Sequence[int]) -> None:
        ended = self.items.succeed(self._places(positions), told) if positions else 0
        if ended:
            tally = self._bulks.graph.tally
            tally.ended(self.call.name, "done", ended, *told.took())
            tally.moved("done", "submitted", ended)
        self._ended(len(told))

    def _adopt(self, position: int, outcome: Outcome | BaseException) -> None:
        encoded = None
        if self.again is not None:
            encoded = pickling.encode_apart(self.again[0], self.again[1][position], {})
        future = self.items.apart(self._places([position])[0])
        graph = self._bulks.graph
        graph.adopt(future, outcome, self.keys[position], self.options, encoded)

    def _ended(self, count: int) -> None:
        self._left -= count
        if self._left == 0:
            self._bulks.all.pop(self.call.id, None)
