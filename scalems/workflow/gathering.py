"""Waiting for many futures: :func:`gather`, :func:`as_completed` and :func:`wait`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import time
from concurrent.futures import ALL_COMPLETED
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scalems.errors import UsageError
from scalems.workflow import current, ensemble
from scalems.workflow.future import computed_by
from scalems.workflow.items import Futures
from scalems.workflow.lightfuture import Awaited, LightFuture, error_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def gather(
    futures: Iterable[concurrent.futures.Future[T]],
    *,
    errors: Literal["raise", "skip", "return"] = "raise",
    mixed: ensemble.Mixed = "warn",
) -> list[T]:
    """Wait for futures and return their values in the given order.

    In an ``async`` app use :func:`asyncio.gather`, which does not hold up the event loop.

    :param errors: ``raise``: the first failure, in time, ends the waiting, and the other tasks
        go on; ``skip``: leave out the values of those that failed; ``return``: the exception
        in place of the value.
    :param mixed: what to do if members were computed by different versions of software, as
        after an update between two runs: ``refuse`` them, ``warn``, or ``allow`` it.
    :raises MixedEnsemble: if they were, and that is refused; it says which by what.
    :raises UsageError: if something else than futures is given.
    :raises Exception: what the first failed task raised.
    """
    if errors not in ("raise", "skip", "return"):
        raise UsageError(
            f"gather() has no errors={errors!r}", remedy="write errors='raise', 'skip' or 'return'"
        )
    if isinstance(futures, Futures):
        return _gathered(futures, errors, mixed)
    ordered = _futures(futures, "gather")
    Awaited(set(ordered), first_error=errors == "raise").wait()
    ensemble.check([computed_by(one) for one in ordered], mixed, current.environments)
    if errors == "raise":
        for future in ordered:
            if future.done() and (future.cancelled() or error_of(future) is not None):
                future.result()
        return [future.result() for future in ordered]
    ended = [_value_or_error(future) for future in ordered]
    return [value for value, failed in ended if not (failed and errors == "skip")]


def _gathered(futures: Futures[T], errors: str, mixed: ensemble.Mixed) -> list[T]:
    """Do what :func:`gather` does, without a future for each call of a map."""
    Awaited(futures.waited(first_error=errors == "raise"), first_error=errors == "raise").wait()
    ensemble.check(() if futures.alike() else futures.computed(), mixed, current.environments)
    failed = futures.failed()
    if errors == "raise":
        for future in failed:
            future.result()
        return futures.values()
    if not failed:
        with contextlib.suppress(Exception):  # one cannot be rebuilt here: see which
            return futures.values()
    ended = [_value_or_error(future) for future in futures]
    return [value for value, bad in ended if not (bad and errors == "skip")]


def as_completed(
    futures: Iterable[concurrent.futures.Future[T]], timeout: float | None = None
) -> Iterator[concurrent.futures.Future[T]]:
    """Yield futures as they end, those first that have ended; see :mod:`concurrent.futures`.

    :param timeout: seconds for all of them.
    :raises concurrent.futures.TimeoutError: if not all have ended by then.
    """
    waiting = set(_futures(futures, "as_completed"))
    return _ended(waiting, None if timeout is None else time.monotonic() + timeout)


def _ended(
    waiting: set[concurrent.futures.Future[T]], limit: float | None
) -> Iterator[concurrent.futures.Future[T]]:
    ended: queue.SimpleQueue[concurrent.futures.Future[T]] = queue.SimpleQueue()
    for future in waiting:
        if isinstance(future, LightFuture):
            future.demand()
        future.add_done_callback(ended.put)
    for left in range(len(waiting), 0, -1):
        pause = None if limit is None else limit - time.monotonic()
        try:
            yield ended.get(timeout=None if pause is None else max(0.0, pause))
        except queue.Empty:
            raise concurrent.futures.TimeoutError(
                f"{left} of {len(waiting)} futures have not ended"
            ) from None


def wait(
    futures: Iterable[concurrent.futures.Future[T]],
    timeout: float | None = None,
    return_when: str = ALL_COMPLETED,
) -> concurrent.futures._base.DoneAndNotDoneFutures[T]:
    """Wait for futures; return those that have ended and those that have not (``done`` and
    ``not_done``, as :func:`concurrent.futures.wait` does).

    :param timeout: seconds to wait at most.
    :param return_when: a constant of :mod:`concurrent.futures`, such as ``FIRST_COMPLETED``.
    """
    all_of_them = _futures(futures, "wait")
    for future in all_of_them:
        if isinstance(future, LightFuture):
            future.demand()
    return concurrent.futures.wait(all_of_them, timeout, return_when)


def _futures(futures: Iterable[Any], what: str) -> list[concurrent.futures.Future[Any]]:
    ordered = list(futures)
    for position, item in enumerate(ordered):
        if not isinstance(item, concurrent.futures.Future):
            raise UsageError(
                f"{what}() takes futures, and item {position} is a {type(item).__name__}.",
                remedy=f"pass what calls of tasks return: scalems.{what}([task(1), task(2)])",
            )
    return ordered


def _value_or_error(future: concurrent.futures.Future[Any]) -> tuple[Any, bool]:
    try:
        return future.result(), False
    except concurrent.futures.CancelledError as error:
        return error, True
    except Exception as error:
        return error, True
