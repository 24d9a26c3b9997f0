"""A future that costs little as long as nobody waits for it.

That of the standard library makes a lock, a condition and two lists for each future. Here one
lock serves all futures until somebody needs the condition of one: from then on that is what
guards it, so that :func:`concurrent.futures.wait` and its like find what they look for.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
)
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    AnyFuture = concurrent.futures.Future[Any]

T = TypeVar("T")

_ENDED = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})
guard = threading.Lock()
"""Guards all futures without a condition."""
_log = logging.getLogger(__name__)


class LightFuture(concurrent.futures.Future[T]):
    """A :class:`concurrent.futures.Future` that makes its condition when it is asked for."""

    __slots__ = ("_callbacks", "_exception", "_own", "_result", "_state", "_waiting")

    def __init__(self) -> None:
        # Not that of the base: this is done once for each task.
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._own: threading.Condition | None = None
        self._callbacks: list[Callable[[AnyFuture], object]] | None = None
        self._waiting: list[Any] | None = None

    def demand(self) -> None:
        """Do what is needed before it can be waited for."""

    # --- what the base, and functions of its module, look at ------------------------------

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        if self._own is None:
            with guard:
                if self._own is None:
                    self._own = threading.Condition()
        return self._own

    @property
    def _done_callbacks(self) -> list[Callable[[AnyFuture], object]]:
        if self._callbacks is None:
            self._callbacks = []
        return self._callbacks

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        if self._waiting is None:
            self._waiting = []
        return self._waiting

    # --- the same as in the base, without the condition -----------------------------------

    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._state in _ENDED

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def add_done_callback(self, fn: Callable[[AnyFuture], object]) -> None:
        """Call a function with this future when it ends, or now if it has ended."""
        with guard:
            light = self._own is None
            if light and self._state not in _ENDED:
                if self._callbacks is None:
                    self._callbacks = [fn]
                else:
                    self._callbacks.append(fn)
                return
        if light:
            self._call(fn)
        else:
            super().add_done_callback(fn)

    def set_result(self, result: Any) -> None:
        """End it by a value.

        :raises concurrent.futures.InvalidStateError: it has ended.
        """
        with guard:
            light = self._own is None and self._state not in _ENDED
            if light:
                self._result, self._state = result, FINISHED
        if not light:
            super().set_result(result)
        elif self._callbacks:
            self._invoke_callbacks()

    def cancel(self) -> bool:
        """Cancel it, if it has not ended; return whether it is cancelled now."""
        with guard:
            light = self._own is None
            before = self._state
            if light and before == PENDING:
                self._state = CANCELLED
        if not light:
            return super().cancel()
        if before == PENDING and self._callbacks:
            self._invoke_callbacks()
        return before not in (RUNNING, FINISHED)

    def set_running_or_notify_cancel(self) -> bool:
        """Let it run; return whether it was not cancelled, as those who wait are told then."""
        with guard:
            light = self._own is None and self._state in (PENDING, CANCELLED)
            if light:
                runs = self._state == PENDING
                self._state = RUNNING if runs else CANCELLED_AND_NOTIFIED
        return runs if light else super().set_running_or_notify_cancel()

    def _invoke_callbacks(self) -> None:
        # They hold whatever waited: not to be held by every future that has ended.
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            self._call(callback)

    def _call(self, callback: Callable[[AnyFuture], object]) -> None:
        try:
            callback(self)
        except Exception:
            _log.exception("a callback of %r failed", self)


def set_results(futures: Iterable[LightFuture[Any]], result: object) -> int:
    """End all futures that have not ended by the same value; return how many."""
    count = 0
    later: list[LightFuture[Any]] = []
    called: list[LightFuture[Any]] = []
    with guard:
        for future in futures:
            if future._own is not None:
                later.append(future)
            elif future._state not in _ENDED:
                future._result = result
                future._state = FINISHED
                count += 1
                if future._callbacks:
                    called.append(future)
    for future in called:
        future._invoke_callbacks()
    for future in later:
        try:
            future.set_result(result)
            count += 1
        except concurrent.futures.InvalidStateError:
            pass  # cancelled
    return count


class Awaited:
    """Futures that somebody waits for, without a condition for each.

    :param futures: different ones.
    :param first_error: stop waiting when one has failed.
    """

    def __init__(self, futures: Iterable[AnyFuture], *, first_error: bool = False) -> None:
        self._first_error = first_error
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._left = 1  # this constructor
        for future in futures:
            if isinstance(future, LightFuture):
                future.demand()
            if not future.done():
                with self._lock:
                    self._left += 1
                future.add_done_callback(self._arrived)
            elif first_error and has_failed(future):
                self._over.set()
                break
        self._arrived(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; tell if it is."""
        return self._over.wait(timeout)

    def _arrived(self, future: AnyFuture | None) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last or (self._first_error and future is not None and has_failed(future)):
            self._over.set()


def error_of(future: AnyFuture) -> BaseException | None:
    """Return what an ended future failed by, without asking for its value.

    :raises concurrent.futures.CancelledError: it was cancelled.
    """
    if isinstance(future, LightFuture) and future._state == FINISHED:
        return future._exception  # that of the base would make a condition
    return concurrent.futures.Future.exception(future)


def has_failed(future: AnyFuture) -> bool:
    """Return whether an ended future has no value: it failed, or was cancelled."""
    return future.cancelled() or error_of(future) is not None
