"""Replaces Workers and the raptor master when they are lost while their pilot goes on."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING

from scalems.radical.wire import pack

if TYPE_CHECKING:
    from scalems.radical.plane import Plane
    from scalems.radical.session import PilotSession

HELLO = "scalems.hello."
"""How the names of the tasks begin that open the work of Workers."""

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
        self._numbers = itertools.count()
        self._recent: deque[float] = deque()

    def greet(self) -> None:
        """Have one more Worker say what it is, and connect."""
        invitation = pack(self._plane.invitation())
        self._session.submit(f"{HELLO}{next(self._numbers)}", "hello", invitation)

    def replace(self, uid: str, how: str) -> str:
        """Put another one in the place of a member of the staff that has ended.

        :param how: it has ended, for people.
        :return: what was done, for people; empty if the run cannot go on.
        """
        what = self._session.staff[uid]
        allowed = self._allowed()
        if not what.startswith("Worker"):
            if not allowed or not self._plane.lively():
                return ""
            self._session.renew_master(uid)
            return f"{how} Another one was started; calls go on"
        self._plane.lose(uid, how)
        if allowed:
            name = self._session.replace_worker(uid)
            self.greet()
            return f"{how} {name} takes its place"
        self._session.dismiss(uid)
        if not self._session.workers:
            return ""
        return f"{how} It is not replaced: too many were lost in {_SPAN / 60:.0f} minutes"

    def _allowed(self) -> bool:
        now = time.monotonic()
        while self._recent and now - self._recent[0] > _SPAN:
            self._recent.popleft()
        if len(self._recent) >= _OFTEN + self._session.workers:
            return False
        self._recent.append(now)
        return True
