"""How many tasks of a run are in each state."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, get_args

State = Literal["waiting", "submitted", "done", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many tasks of a run are in each state."""

    waiting: int = 0
    """Wait for the values of other tasks."""
    submitted: int = 0
    """Are with the backend: queued or running."""
    done: int = 0
    failed: int = 0
    """Failed, or not run since a task that they depend on failed."""
    cancelled: int = 0
    reused: int = 0
    """Of those that are done: the result was taken from a former run."""

    @property
    def total(self) -> int:
        """All tasks."""
        return self.waiting + self.submitted + self.ended

    @property
    def ended(self) -> int:
        """All tasks that have ended in whatever way."""
        return self.done + self.failed + self.cancelled


class Tally:
    """Counts tasks, from any thread."""

    def __init__(self) -> None:
        self._count: dict[State, int] = dict.fromkeys(get_args(State), 0)
        self._reused = 0
        self._changed = threading.Condition()

    def moved(self, to: State, before: State | None = None, count: int = 1) -> None:
        """Count tasks that are new, or were in another state before."""
        with self._changed:
            self._count[to] += count
            if before is not None:
                self._count[before] -= count
            if self._is_idle():
                self._changed.notify_all()

    def reused(self, count: int) -> None:
        """Count results that were taken from a former run."""
        with self._changed:
            self._reused += count

    def counts(self) -> Counts:
        """Return how many tasks are in each state now."""
        with self._changed:
            count = {str(state): number for state, number in self._count.items()}
            return Counts(**count, reused=self._reused)

    def wait(self, limit: float | None = None) -> bool:
        """Wait until all tasks have ended; return whether they have.

        :param limit: seconds to wait at most.
        """
        with self._changed:
            return self._changed.wait_for(self._is_idle, limit)

    def _is_idle(self) -> bool:
        return not self._count["waiting"] + self._count["submitted"]
