"""Calls in the caller's own process, one after the other: for debugging."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from scalems.workflow.block import singles
from scalems.workflow.mpi import execute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scalems.workflow.backend import Done
    from scalems.workflow.call import Call


class InlineBackend:
    """Runs each call when it is submitted, where it is submitted.

    ``breakpoint()`` and debuggers work in tasks then, and what they print is on the terminal at
    once. Calls still travel as bytes, so what cannot be sent elsewhere is found here too.
    """

    name = "local"
    label = "local, inline"
    environment = ""  # what was debugged is not kept
    environments: Mapping[str, Mapping[str, str]] = MappingProxyType({})

    def start(self) -> None:
        """Do nothing: there is nothing to start."""

    def submit(self, call: Call, done: Done) -> None:
        """Run a call."""
        for one in [call] if call.items is None else singles(call):
            done(execute(one))

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """Do nothing: a call that can be cancelled has ended."""
        return False

    def close(self, *, abort: bool = False) -> None:
        """Do nothing: there is nothing to end."""

    def status(self) -> Mapping[str, str]:
        """Return nothing that is worth knowing."""
        return {}
