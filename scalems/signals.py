"""Signals that end a run: the first one in good order, the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_KILL_LIMIT = 3.0  # seconds that a second Ctrl-C gives the backend to end its processes


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end.

    :param number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that a shell expects."""
        return 128 + self.number


class Signals:
    """Makes the first signal an :class:`Interrupted`, and the second one the end."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._first: int | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals as long as the context is open."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # e.g. nohup
                before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = number
            raise Interrupted(number)
        # In a thread: what holds the main thread up may hold a lock that is needed too.
        killer = threading.Thread(target=self._kill, daemon=True)
        killer.start()
        killer.join(_KILL_LIMIT)
        os.write(2, b"scalems: ended at once\n")  # print() may be what was interrupted
        os._exit(128 + number)
