"""A task of a run, as the graph keeps it until it has ended."""

from __future__ import annotations

import threading
from concurrent.futures import Future as AnyFuture
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.call import Outcome
    from scalems.workflow.future import Future
    from scalems.workflow.large import Payload
    from scalems.workflow.options import TaskOptions
    from scalems.workflow.pickling import Encoded
    from scalems.workflow.tally import State

    Finish = Callable[[Any], object]
    """Turns the value from the far side into the value of the future, in the client."""


class Promise(NamedTuple):
    """A task that the client itself sees to."""

    future: Future[Any]
    settle: Callable[[Outcome], None]
    """Ends it."""


guard = threading.Lock()
"""Guards what changes of a node in several threads. One for all: each costs memory."""


class Node:
    """A task that has not ended. A backend tells it the outcome of its call by calling it.

    There may be very many of them, so whatever only few tasks need is not made for each.
    """

    __slots__ = (
        *("_key", "attempt", "children", "dependencies", "encoded", "finish", "future"),
        *("identity", "missing", "options", "printed", "state", "take", "template"),
    )

    def __init__(self, future: Future[Any], finish: Finish | None, options: TaskOptions) -> None:
        self.future = future
        self.options = options
        self.attempt = 1
        self.encoded: Encoded | None = None  # kept for another attempt, if there may be one
        self.finish = finish
        self.identity: Any = None  # what the call is, for the store of results
        self._key = b""
        self.state: State = "waiting"
        self.template: Payload = b""
        self.dependencies: Sequence[AnyFuture[Any]] = ()
        self.missing = 0
        self.children: Sequence[Future[Any]] = ()  # that its value waits for
        self.printed = ("", "")  # before it waited for them
        self.take: Callable[[Node, Outcome], None] | None = None

    @property
    def key(self) -> str:
        """Of its call in the store of results, in hexadecimal digits; kept in half the memory."""
        return self._key.hex()

    @key.setter
    def key(self, key: str) -> None:
        self._key = bytes.fromhex(key)

    def __call__(self, outcome: Outcome | Answers) -> None:
        """Take the outcome of its call."""
        assert self.take is not None
        self.take(self, cast("Outcome", outcome))
