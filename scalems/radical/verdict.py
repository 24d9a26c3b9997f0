"""Why a pilot has ended: RADICAL-Pilot tells that it has, the batch system knows why, and later.

The processes of a job are ended before its record says how it has ended. So what RP says is told
only when the batch system has had its time to say more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from scalems.radical.batch import Job

LIMIT = 45.0
"""Seconds for Slurm to say how a job has ended: its KillWait is 30, and its epilogs come then."""
IN_VAIN = 20.0
"""Seconds that a job may wait for what will not come; the reason may be of a moment."""
NO_JOB = 5.0
"""Seconds for it to say that there is a job."""
_MORE = "ask for more --runtime"


class End(NamedTuple):
    """The end of a pilot."""

    what: str
    """A sentence that says what has happened."""
    cancelled: bool
    """Whether another pilot would not help: somebody wanted it, or it asks for too much."""
    remedy: str = ""
    """What mends it, where that is known."""


class Verdict:
    """Hears both, and says when it is known what has happened.

    :param notify: told that it waits, in a line for people.
    :param clock: of seconds.
    """

    def __init__(
        self, notify: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._job: Job | None = None
        self._end: End | None = None
        self._due = 0.0
        self._in_vain: float | None = None  # since when the job waits for what will not come

    @property
    def pending(self) -> bool:
        """Whether the pilot is ending, and it is not known why."""
        return self._end is not None

    def on_pilot(self, state: str, runtime: int, *, in_queue: bool) -> End | None:
        """Hear of the end of the pilot from RP; return it if there is nobody to ask.

        :param runtime: minutes that it had.
        :param in_queue: whether it is a job of a batch system that can be asked.
        """
        end = End(_told(state, runtime), state == "CANCELED", _MORE if state == "DONE" else "")
        if not in_queue:
            return end
        self._wait(end)
        return None

    def on_job(self, job: Job) -> End | None:
        """Hear of its job; return the end of the pilot when that is known."""
        self._job = job
        if not job.never:
            self._in_vain = None
        elif self._in_vain is None:
            self._in_vain = self._clock()
        if job.ended:
            more = _MORE if job.timed_out else ""
            own = End(f"{job.text()}.", job.state == "CANCELLED", more)
            return self._end if self._end is not None and job.ended_itself else own
        if job.ending:
            self._wait(End(f"{job.text()}.", False))
        return None

    def overdue(self) -> End | None:
        """Return what is told when the batch system has not said more in time, or never will."""
        job, since = self._job, self._in_vain
        if job is not None and since is not None and self._clock() > since + IN_VAIN:
            text = job.text().replace("is pending", "cannot begin")
            return End(f"{text[:1].upper()}{text[1:]}.", cancelled=True, remedy=job.never)
        return self._end if self._end is not None and self._clock() > self._due else None

    def _wait(self, end: End) -> None:
        if self._end is None:
            limit = NO_JOB if self._job is None else LIMIT
            self._due = self._clock() + limit
            self._notify(f"asking the batch system why the pilot ends, for at most {limit:.0f} s")
            self._end = end
        elif not end.what.startswith("Slurm"):
            self._end = end


def _told(state: str, runtime: int) -> str:
    if state == "DONE":
        span = f"{runtime} minute{'s' * (runtime != 1)}"
        return f"The pilot has ended: its run time of {span} is over."
    if state == "CANCELED":
        return "The pilot was cancelled by somebody else."
    return "The pilot has failed."
