"""Replaces Workers and the raptor master when they are lost while their pilot goes on."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from scalems.errors import BackendError

if TYPE_CHECKING:
    from scalems.radical.plane import Plane
    from scalems.radical.session import PilotSession

_SPAN = 600.0  # seconds
_OFTEN = 3  # replacements in that time, and one more for each Worker


class Staffing:
    """Sees to it that there are as many Workers as there were at the start.

    Calls get to Workers without the master, where there is a data channel: it is needed for new
    ones only, and its loss is nobody else's.
    """

    def __init__(self, session: PilotSession, plane: Plane) -> None:
        self._session = session
        self._plane = plane
        self._recent: deque[float] = deque()
        self._heard: set[str] = set()  # Workers

    def is_new(self, worker: str) -> bool:
        """Tell if a Worker is one of the staff that has not said before that it is there."""
        if worker in self._heard or worker not in self._session.staff:
            return False
        self._heard.add(worker)
        return True

    def replace(self, uid: str, lost: BackendError) -> str:
        """Put another one in the place of a member of the staff that has ended.

        :param lost: how it has ended.
        :return: what was done, for people.
        :raises BackendError: the run cannot go on without it.
        """
        what = self._session.staff[uid]
        how = lost.cause.splitlines()[0]
        allowed = self._allowed()
        if not what.startswith("Worker"):
            if not allowed or not self._plane.lively():
                raise lost if allowed else self._too_many(lost)
            self._session.renew_master(uid)
            return f"{how} Another one was started; calls go on"
        self._plane.lose(uid, how)
        if allowed:
            name = self._session.replace_worker(uid)
            return f"{how} {name} takes its place"
        self._session.dismiss(uid)
        if not self._session.workers:
            raise self._too_many(lost)
        return f"{how} {self._why()}"

    def _too_many(self, lost: BackendError) -> BackendError:
        how, *why = lost.cause.splitlines()
        remedy = f"find what ends them, such as a call that takes all memory; {lost.remedy}"
        return BackendError("\n".join([f"{how} {self._why()}", *why]), remedy=remedy)

    def _why(self) -> str:
        """Return why one is not replaced."""
        return (
            f"It is not replaced: {len(self._recent)} were, in {_SPAN / 60:.0f} minutes, "
            "and were lost as well."
        )

    def _allowed(self) -> bool:
        now = time.monotonic()
        while self._recent and now - self._recent[0] > _SPAN:
            self._recent.popleft()
        if len(self._recent) >= _OFTEN + self._session.workers:
            return False
        self._recent.append(now)
        return True
