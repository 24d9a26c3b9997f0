"""The tasks of a run that failed, each by itself or for another one's failure."""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures import Future as AnyFuture
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalems.errors import TaskError
from scalems.workflow.future import Future
from scalems.workflow.pickling import summary

if TYPE_CHECKING:
    from scalems.workflow.call import Outcome


class DependencyError(TaskError):
    """A task was not run, since a task that it depends on failed.

    The exception of that task is the ``__cause__``.
    """


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A task that failed by itself, not for another one's failure."""

    future: Future[Any]
    error: BaseException
    outcome: Outcome | None = None


class Failures:
    """Failed tasks, and what those that did not run have failed for."""

    def __init__(self) -> None:
        self._failed: list[Failed] = []
        self._roots: dict[int, tuple[Future[Any], Future[Any]]] = {}

    def add(self, failed: Failed) -> None:
        """Note a task that failed by itself."""
        self._failed.append(failed)

    def all(self) -> list[Failed]:
        """Return the failed tasks as they failed, without those that failed for another one."""
        return list(self._failed)

    def unheard(self) -> list[Failed]:
        """Return the failed tasks of which nobody asked for the result, in the order of calls.

        Asking for the result of a task that depends on one counts too.
        """
        heard = {root.task_id for future, root in self._roots.values() if future._asked}
        unheard = [
            failed
            for failed in self._failed
            if not failed.future._asked and failed.future.task_id not in heard
        ]
        return sorted(unheard, key=lambda failed: failed.future.task_id)

    def stopped(self) -> dict[int, list[Future[Any]]]:
        """Return the tasks that did not run, by the number of the one that they depend on."""
        found: dict[int, list[Future[Any]]] = {}
        for future, root in list(self._roots.values()):
            found.setdefault(root.task_id, []).append(future)
        return found

    def inherited(self, future: Future[Any], dependency: AnyFuture[Any]) -> tuple[Exception, bool]:
        """Return why a task cannot run whose dependency failed.

        :return: the error, and whether the failed task is one of the run.
        """
        cause = error_of(dependency)
        _, root = self._roots.get(getattr(dependency, "task_id", 0), (None, dependency))
        name = f"{root.name}#{root.task_id}" if isinstance(root, Future) else repr(root)
        if isinstance(cause, DependencyError):
            cause = cause.__cause__
        if isinstance(cause, CancelledError):
            how = "was cancelled"
        else:
            how = f"failed: {summary(cause) if cause is not None else 'no reason is known'}"
        error = DependencyError(
            f"{future.name}#{future.task_id} was not run: it depends on {name}, which {how}"
        )
        error.__cause__ = cause
        return error, isinstance(root, Future)

    def heir(self, future: Future[Any], dependency: AnyFuture[Any]) -> None:
        """Note that a task has failed for the failure of another one."""
        _, root = self._roots.get(getattr(dependency, "task_id", 0), (None, dependency))
        if isinstance(root, Future):
            self._roots[future.task_id] = (future, root)


def error_of(future: AnyFuture[Any]) -> BaseException | None:
    """Return why an ended future has no value, without counting as being asked by the user."""
    if future.cancelled():
        return CancelledError()
    return AnyFuture.exception(future) if isinstance(future, Future) else future.exception()
