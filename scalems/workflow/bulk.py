"""Calls of one function that are made together, as the graph sees them: a future for each item.

What most items do costs next to nothing here: they give a value, and print nothing. Any other
becomes a task of the usual kind as soon as that shows.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from scalems.errors import UsageError
from scalems.workflow import argument, block, current, lightfuture, pickling
from scalems.workflow.block import Answers
from scalems.workflow.call import Call
from scalems.workflow.future import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scalems.workflow.backend import Backend
    from scalems.workflow.call import Outcome
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
        items: list[tuple[object, ...]],
        name: str,
        options: TaskOptions,
    ) -> list[Future[Any]]:
        """Add tasks, see ``Graph.submit_many``; there are no futures in their arguments."""
        graph = self.graph
        if graph.closed:
            raise UsageError(f"The task {name!r} was called after the workflow had ended.")
        futures: list[Future[Any]] = [
            Future(task_id=ident, name=name) for ident in itertools.islice(graph.ids, len(items))
        ]
        current.children(futures)
        left, keys = futures, [""] * len(futures)
        if graph.results is not None:
            found = graph.results.begin_many(function, futures, items, options)
            left, keys, items = self._reused(futures, found, items)
        start = 0
        for count, payload in block.encoded(function, items) if items else ():
            stop = start + count
            sent = Call(
                id=left[start].task_id,
                name=name,
                payload=payload,
                timeout=options.timeout,
                area=graph.area,
                needs=options.needs,
                items=range(count),
            )
            bulk = Bulk(self, sent, left[start:stop], keys[start:stop], options)
            if options.retries:
                bulk.again = (function, items[start:stop])
            bulk.send()
            start = stop
        return futures

    def cancel(self) -> None:
        """Cancel all."""
        for bulk in reversed(list(self.all.values())):
            for future in reversed(bulk.futures):
                future.cancel()

    def fail(self, error: BaseException) -> None:
        """End all by an error."""
        for bulk in list(self.all.values()):
            bulk.fail(error)

    def _reused(
        self,
        futures: list[Future[Any]],
        found: Sequence[tuple[str, Outcome | None]],
        items: list[tuple[object, ...]],
    ) -> tuple[list[Future[Any]], list[str], list[tuple[object, ...]]]:
        """Give futures what their calls gave in a former run; return what is left of all."""
        left, keys, given = [], [], []
        for future, args, (key, outcome) in zip(futures, items, found, strict=True):
            if outcome is None or self.graph.error is not None:
                left.append(future)
                keys.append(key)
                given.append(args)
            else:
                future._ran = outcome
                future._reused = True
                future.set_result(outcome)
        count = len(futures) - len(left)
        if count:
            self.graph.tally.ended(futures[0].name, "reused", count)
        self.graph.tally.moved("done", None, count)
        self.graph.tally.reused(count)
        return left, keys, given


def goes_alone(args: tuple[object, ...]) -> bool:
    """Return whether a call is none of a block: it waits for others, or holds something large."""
    if pickling.LEAVES.issuperset(map(type, args)) and bytes not in map(type, args):
        return False
    return bool(argument.futures_in(*args)) or pickling.is_large(args)


class Bulk:
    """The items of one block.

    :param call: the block.
    :param futures: of its items, in their order.
    :param keys: of the calls in the store of results; empty ones are not kept.
    """

    __slots__ = ("_bulks", "_left", "again", "call", "futures", "keys", "options")

    def __init__(
        self,
        bulks: Bulks,
        call: Call,
        futures: list[Future[Any]],
        keys: list[str],
        options: TaskOptions,
    ) -> None:
        self._bulks = bulks
        self._left = len(futures)
        self.call = call
        self.futures = futures
        self.keys = keys
        self.options = options
        self.again: tuple[Callable[..., Any], list[tuple[object, ...]]] | None = None
        """The function and the arguments, if they may be tried again."""
        for place, future in enumerate(futures):
            future._withdraw = self._withdraw
            future._place = place
            future._started = True

    def send(self) -> None:
        """Hand it to the backend."""
        graph = self._bulks.graph
        self._bulks.all[self.call.id] = self
        graph.tally.moved("submitted", None, len(self.futures))
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
        for place, future in enumerate(self.futures):
            if not future.done():
                self._adopt(place, error)
        self._bulks.all.pop(self.call.id, None)

    def _receive(self, told: Outcome | Answers) -> None:
        """Take what the backend tells of some items, in whatever thread."""
        self._bulks.graph.work.do(partial(self._settle, told))

    def _settle(self, told: Outcome | Answers) -> None:
        if not isinstance(told, Answers):
            self._adopt(told.item or 0, told)
            self._ended(1)
            return
        for place, outcome in told.others.items():
            self._adopt(place, outcome)
        places: Sequence[int] = range(told.first, told.first + len(told))
        if told.others:
            places = [place for place in places if place not in told.others]
        graph = self._bulks.graph
        if graph.results is None or not places:
            self._succeed(told, places)
            return
        graph.results.finished_many(
            self.call.name,
            [self.futures[place].task_id for place in places],
            [self.keys[place] for place in places],
            told,
            places,
            lambda: graph.work.do(partial(self._succeed, told, places)),
        )

    def _succeed(self, told: Answers, places: Sequence[int]) -> None:
        ended = lightfuture.set_results([self.futures[place] for place in places], told)
        if ended:
            tally = self._bulks.graph.tally
            took = [told.ended[n - told.first] - told.started[n - told.first] for n in places]
            tally.ended(self.call.name, "done", ended, took)
            tally.moved("done", "submitted", ended)
        self._ended(len(told))

    def _adopt(self, place: int, outcome: Outcome | BaseException) -> None:
        encoded = None
        if self.again is not None:
            encoded = pickling.encode_apart(self.again[0], self.again[1][place], {})
        future, key = self.futures[place], self.keys[place]
        self._bulks.graph.adopt(future, outcome, key, self.options, encoded)

    def _ended(self, count: int) -> None:
        self._left -= count
        if self._left == 0:
            self._bulks.all.pop(self.call.id, None)

    def _withdraw(self, future: Future[Any]) -> None:
        """Forget an item whose future was cancelled just now."""
        graph = self._bulks.graph
        future.set_running_or_notify_cancel()  # tells concurrent.futures.wait and its like
        graph.tally.ended(future.name, "cancelled")
        graph.tally.moved("cancelled", "submitted")
        if graph.results is not None:
            graph.results.ended(future.task_id, "cancelled", "")
        if not graph.closed:
            graph.backend.cancel(self.call.id, future._place)
