"""The calls of a map, as the client holds them: what they gave, and futures for those asked for.

A future for each would cost more than most of the calls. So a call has one when somebody asks for
it, or when it does anything else than give a value; all others are a place in a list.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from scalems.workflow import lightfuture
from scalems.workflow.answers import Answers
from scalems.workflow.argument import Many
from scalems.workflow.call import Outcome
from scalems.workflow.future import Future, computed_by
from scalems.workflow.lightfuture import LightFuture, has_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


class Sent(Protocol):
    """A block that some of them have travelled in."""

    def withdraw(self, future: Future[Any]) -> None:
        """Forget an item whose future was cancelled just now."""


class Items:
    """Calls of one function that were made together.

    :param ids: their numbers in the run.
    :param reused: what those gave in a former run that have run there, by their place.
    """

    def __init__(self, name: str, ids: Sequence[int], reused: dict[int, Outcome]) -> None:
        self.name = name
        self.ids = ids
        self.fresh: Sequence[int] = range(len(ids))
        """Places of those that are to run."""
        self._lock = threading.Lock()
        self._futures: dict[int, Future[Any]] = {}
        self._given: list[Answers | Outcome | None] = [None] * len(ids)
        self._computed: set[tuple[str, str]] = {(one.env, one.stamp) for one in reused.values()}
        self._blocks: list[Sent] = []
        self._starts: list[int] = []  # of the blocks, in `fresh`
        self._left = len(ids)
        self._apart: set[int] = set()  # numbers of those that have ended otherwise than by a value
        self.over: LightFuture[None] = LightFuture()
        """Ends when all of them have."""
        self.trouble: LightFuture[None] = LightFuture()
        """Fails when one has failed, or was cancelled, and ends when all have ended."""
        for place, outcome in reused.items():
            self._given[place] = outcome
        if reused:
            self.fresh = [place for place in self.fresh if place not in reused]
            self._less(len(reused))

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, block: Sent, start: int) -> None:
        """Note the block that those go in which begin at a position in :attr:`fresh`."""
        self._blocks.append(block)
        self._starts.append(start)

    def future(self, place: int) -> Future[Any]:
        """Return the future of one; the same one each time."""
        with self._lock:
            future = self._futures.get(place)
            if future is None:
                future = self._futures[place] = self._made(place)
            return future

    def _made(self, place: int) -> Future[Any]:
        given = self._given[place]
        future: Future[Any] = Future(task_id=self.ids[place], name=self.name)
        future._started = True
        if isinstance(given, Outcome):
            future._ran, future._reused = given, True
        else:
            block, future._place = self._where(place)
            future._withdraw = block.withdraw
        if given is not None:
            future._result, future._state = given, FINISHED
        return future

    def _where(self, place: int) -> tuple[Sent, int]:
        """Return the block that one has gone in, and its position there."""
        at = place if isinstance(self.fresh, range) else bisect_left(self.fresh, place)
        index = bisect_right(self._starts, at) - 1
        return self._blocks[index], at - self._starts[index]

    # --- how they end ---------------------------------------------------------------------

    def pending(self) -> list[int]:
        """Return the places of those that have not ended."""
        with self._lock:
            futures, given = self._futures, self._given
            return [
                place
                for place in self.fresh
                if given[place] is None and (place not in futures or not futures[place].done())
            ]

    def succeed(self, places: Sequence[int], answers: Answers) -> int:
        """End some by what they gave; return how many had not been cancelled."""
        with self._lock:
            self._computed.add((answers.env, answers.stamp))
            if isinstance(places, range):
                self._given[places.start : places.stop] = [answers] * len(places)
            else:
                for place in places:
                    self._given[place] = answers
            known = self._futures
            touched = [known[place] for place in places if place in known] if known else []
        ended = len(places) - len(touched) + lightfuture.set_results(touched, answers)
        self._less(ended)
        return ended

    def apart(self, place: int) -> Future[Any]:
        """Return the future of one that ends otherwise, by whoever sees to that."""
        future = self.future(place)
        future.add_done_callback(self.ended_apart)
        return future

    def ended_apart(self, future: Any) -> None:
        """Note that one has ended that is seen to by others, or that was cancelled."""
        with self._lock:
            if future.task_id in self._apart:
                return  # cancelled while others began to see to it
            self._apart.add(future.task_id)
        if has_failed(future):
            with contextlib.suppress(InvalidStateError):  # not the first one
                self.trouble.set_exception(CancelledError())
        self._less(1)

    def _less(self, count: int) -> None:
        with self._lock:
            self._left -= count
            last = self._left == 0 and count > 0
        if last:
            lightfuture.set_results([self.over, self.trouble], None)

    # --- what they gave -------------------------------------------------------------------

    def failed(self) -> list[Future[Any]]:
        """Return the futures of those that have failed or were cancelled, in their order."""
        with self._lock:
            futures = sorted(self._futures.items())
        return [one for _, one in futures if one.done() and has_failed(one)]

    def stream(self, timeout: Callable[[], float | None]) -> Iterator[Any]:
        """Yield the values in order, waiting for each; see :meth:`Future.result`."""
        place = 0
        while place < len(self):
            some = self._values(place)
            if some:
                yield from some
                place += len(some)
            else:
                yield self.future(place).result(timeout())
                place += 1

    def _values(self, place: int) -> list[Any]:
        """Return values of those from a place on that can be read together; none if that cannot."""
        given, futures = self._given, self._futures
        answers = given[place]
        if not isinstance(answers, Answers) or place in futures:
            return []
        first = self._where(place)[1]
        end = place + 1
        if isinstance(self.fresh, range):  # those of the block lie beside each other
            end = min(len(self), place + answers.first + len(answers) - first)
            if futures:  # as have those that are in `others`, or were cancelled
                end = next((other for other in range(place, end) if other in futures), end)
        try:
            return answers.values(range(first, first + end - place))
        except Exception:  # one cannot be rebuilt here: see which
            return []

    def cancel(self) -> None:
        """Cancel those that have not ended, the last one first."""
        for place in reversed(self.pending()):
            self.future(place).cancel()

    def values(self) -> list[Any]:
        """Return the values of all; they must have ended.

        :raises Exception: what :meth:`Future.result` raises, of the first that has no value.
        """
        found: list[Any] = []
        while (place := len(found)) < len(self):
            found += self._values(place) or [self.future(place).result()]
        return found

    def computed_by(self) -> set[tuple[str, str]]:
        """Return the environments and stamps of what has computed those that have ended."""
        with self._lock:
            return self._computed | _computed_by(self._futures.values())

    def computed(self) -> Iterator[Outcome | Answers | None]:
        """Yield how each was computed, as far as that is known."""
        for place, given in enumerate(self._given):
            yield given if given is not None else computed_by(self._futures.get(place))


def _computed_by(futures: Iterable[Future[Any]]) -> set[tuple[str, str]]:
    return {(one.env, one.stamp) for one in map(computed_by, futures) if one is not None}


class Futures(Many, Sequence[Future[T]]):
    """The futures of a map: a sequence, each of which is made when it is asked for.

    :param pieces: that it consists of.
    """

    def __init__(self, pieces: Iterable[Items | list[Future[T]]]) -> None:
        self.pieces = tuple(pieces)
        self._stops: list[int] = []
        for piece in self.pieces:
            self._stops.append(len(self) + len(piece))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __iter__(self) -> Iterator[Future[T]]:
        for piece in self.pieces:
            if isinstance(piece, Items):
                yield from map(piece.future, range(len(piece)))
            else:
                yield from piece

    @overload
    def __getitem__(self, index: int) -> Future[T]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Future[T]]: ...

    def __getitem__(self, index: int | slice) -> Future[T] | list[Future[T]]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return [self[one] for one in found]
        number = bisect_right(self._stops, found)
        piece = self.pieces[number]
        place = found - (self._stops[number] - len(piece))
        return piece.future(place) if isinstance(piece, Items) else piece[place]

    def __add__(self, other: Iterable[Future[T]]) -> Sequence[Future[T]]:
        if isinstance(other, Futures):
            return Futures((*self.pieces, *other.pieces))
        return [*self, *other]

    def __radd__(self, other: Iterable[Future[T]]) -> list[Future[T]]:
        return [*other, *self]

    def __repr__(self) -> str:
        names: set[str] = set()
        for piece in self.pieces:
            names |= {piece.name} if isinstance(piece, Items) else {one.name for one in piece}
        return f"<{len(self)} futures of {', '.join(sorted(names))}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # each says why it cannot be sent

    def waited(self, *, first_error: bool) -> set[LightFuture[Any]]:
        """Return what has to end until all have, or until one has failed."""
        found: set[LightFuture[Any]] = set()
        for piece in self.pieces:
            if not isinstance(piece, Items):
                found.update(piece)
            else:
                found.add(piece.trouble if first_error else piece.over)
        return found

    def failed(self) -> list[Future[Any]]:
        """Return those that have failed or were cancelled, in their order."""
        found: list[Future[Any]] = []
        for piece in self.pieces:
            if isinstance(piece, Items):
                found += piece.failed()
            else:
                found += [one for one in piece if one.done() and has_failed(one)]
        return found

    def cancel(self) -> None:
        """Cancel those that have not ended, the last one first."""
        for piece in reversed(self.pieces):
            if isinstance(piece, Items):
                piece.cancel()
            else:
                for one in reversed(piece):
                    one.cancel()

    def stream(self, timeout: Callable[[], float | None]) -> Iterator[T]:
        """Yield the values in order, waiting for each.

        :param timeout: asked how long to wait at most.
        """
        for piece in self.pieces:
            if isinstance(piece, Items):
                yield from piece.stream(timeout)
            else:
                for one in piece:
                    yield one.result(timeout())

    def alike(self) -> bool:
        """Return whether all that have ended were computed by the same Worker."""
        found: set[tuple[str, str]] = set()
        for piece in self.pieces:
            if isinstance(piece, Items):
                found |= piece.computed_by()
            else:
                found |= _computed_by(piece)
        return len(found) < 2

    def computed(self) -> list[Outcome | Answers | None]:
        """Return how each was computed, as far as that is known."""
        found: list[Outcome | Answers | None] = []
        for piece in self.pieces:
            found += piece.computed() if isinstance(piece, Items) else map(computed_by, piece)
        return found

    def values(self) -> list[T]:
        """Return the values of all; they must have ended.

        :raises Exception: what :meth:`Future.result` raises, of the first that has no value.
        """
        found: list[T] = []
        for piece in self.pieces:
            found += piece.values() if isinstance(piece, Items) else [one.result() for one in piece]
        return found
