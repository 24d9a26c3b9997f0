"""Work that callbacks bring, done in a loop: a chain of any length needs no deep stack."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Work:
    """Things to do, done one after the other by the thread that brings the first of them."""

    def __init__(self) -> None:
        self._local = threading.local()

    def do(self, thing: Callable[[], None]) -> None:
        """Do `thing` now, or, if this thread is amid another one, right after it."""
        things: deque[Callable[[], None]] | None = getattr(self._local, "things", None)
        if things is not None:
            things.append(thing)
            return
        things = self._local.things = deque([thing])
        try:
            while things:
                things.popleft()()
        finally:
            del self._local.things
