"""Calls in the caller's own process, one after the other: for debugging."""

from __future__ import annotations

import contextlib
import os
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from scalems.local.services import Services
from scalems.workflow.block import singles
from scalems.workflow.mpi import execute
from scalems.workflow.process import Launch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scalems.workflow.backend import Done, Told
    from scalems.workflow.call import Call


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    """Have the same working folder afterwards, as processes for calls do."""
    try:
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    except OSError:  # it is gone
        yield
        return
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)


class InlineBackend:
    """Runs each call when it is submitted, where it is submitted.

    ``breakpoint()`` and debuggers work in tasks then, and what they print is on the terminal at
    once. Calls still travel as bytes, so what cannot be sent elsewhere is found here too.
    """

    name = "local"
    label = "local, inline"
    environment = ""  # what was debugged is not kept
    environments: Mapping[str, Mapping[str, str]] = MappingProxyType({})

    def __init__(self) -> None:
        self._services = Services()

    def prepare(self) -> None:
        """Do nothing, as there is nothing to start."""

    def start(self) -> None:
        """Do nothing: there is nothing to start."""

    def submit(self, call: Call, done: Done) -> None:
        """Run a call."""
        for one in [call] if call.items is None else singles(call):
            with _folder_kept():
                outcome = execute(one)
            done(outcome)

    def serve(self, ident: int, wanted: Mapping[str, Any], told: Told) -> None:
        """Start a service in a process of this Python; wait until it is ready or has failed."""
        known = threading.Event()

        def hear(state: Mapping[str, Any]) -> None:
            told(state)
            known.set()

        self._services.start(ident, wanted, hear, Launch(python=None, env={}, cwd=None))
        known.wait()  # it has a limit of its own

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """End a service; a call that can be cancelled has ended."""
        return self._services.stop(call_id)

    def close(self, *, abort: bool = False) -> None:
        """End services."""
        self._services.close()

    def status(self) -> Mapping[str, str]:
        """Return nothing that is worth knowing."""
        return {}
