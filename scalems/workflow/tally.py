"""How many tasks of a run are in each state."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Literal, get_args

State = Literal["waiting", "submitted", "done", "failed", "cancelled"]
How = Literal["done", "reused", "failed", "not_run", "cancelled"]


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


@dataclass(slots=True)
class OfName:
    """How the tasks of one name have ended."""

    done: int = 0
    reused: int = 0
    """Of those that are done: the result was taken from a former run."""
    failed: int = 0
    """Failed by themselves."""
    not_run: int = 0
    """Did not run, since a task that they depend on failed, or the run was stopped."""
    cancelled: int = 0
    seconds: float = 0.0
    """That they took in this run, all together."""
    longest: float = 0.0
    """Seconds that the longest one took."""

    @property
    def tasks(self) -> int:
        """All that have ended."""
        return self.done + self.failed + self.not_run + self.cancelled


class Tally:
    """Counts tasks, from any thread."""

    def __init__(self) -> None:
        self._count: dict[State, int] = dict.fromkeys(get_args(State), 0)
        self._reused = 0
        self._names: dict[str, OfName] = {}
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

    def ended(
        self,
        name: str,
        how: How,
        count: int = 1,
        seconds: float = 0.0,
        longest: float = 0.0,
    ) -> None:
        """Note how tasks of a name have ended.

        :param seconds: that those took which have run.
        :param longest: of these.
        """
        with self._changed:
            one = self._names.get(name)
            if one is None:
                one = self._names[name] = OfName()
            if how == "reused":
                one.done += count
            setattr(one, how, getattr(one, how) + count)
            one.seconds += seconds
            one.longest = max(one.longest, longest)

    def names(self) -> dict[str, OfName]:
        """Return how the tasks of each name have ended, in the order of their first end."""
        with self._changed:
            return {name: replace(one) for name, one in self._names.items()}

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
