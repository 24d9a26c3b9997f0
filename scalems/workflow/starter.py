"""Starts a backend, once, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from scalems.errors import BackendError, ScalemsError
from scalems.workflow.pickling import summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from scalems.workflow.backend import Backend

log = logging.getLogger(__name__)


class Starter:
    """Starts a backend when it is asked to first.

    :param failed: told why it did not start.
    """

    def __init__(self, backend: Backend, failed: Callable[[ScalemsError], None]) -> None:
        self._backend = backend
        self._failed = failed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def begun(self) -> bool:
        """Whether it was asked to."""
        return self._thread is not None

    def start(self) -> None:
        """Start the backend, if that was not done before."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scalems-start", daemon=True)
                self._thread.start()

    def join(self, limit: float) -> None:
        """Wait until the start has ended, for some seconds at most."""
        if self._thread is not None:
            self._thread.join(limit)

    def _run(self) -> None:
        try:
            self._backend.start()
        except ScalemsError as error:
            log.debug("the backend did not start", exc_info=True)
            self._failed(error)
        except BaseException as error:
            failure = BackendError(
                f"The backend {self._backend.label} did not start: {summary(error)}"
            )
            failure.__cause__ = error
            self._failed(failure)
