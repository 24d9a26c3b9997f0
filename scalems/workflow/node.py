"""A task of a run, as the graph keeps it until it has ended."""

from __future__ import annotations

import threading
from concurrent.futures import Future as AnyFuture
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from scalems.workflow.call import Outcome
    from scalems.workflow.future import Future
    from scalems.workflow.options import TaskOptions
    from scalems.workflow.tally import State

    Finish = Callable[[Any], object]
    """Turns the value from the far side into the value of the future, in the client."""


class Promise(NamedTuple):
    """A task that the client itself sees to."""

    future: Future[Any]
    settle: Callable[[Outcome], None]
    """Ends it."""


class Node:
    """A task that has not ended."""

    __slots__ = (
        *("attempt", "children", "dependencies", "finish", "future", "identity", "key", "lock"),
        *("missing", "options", "payload", "printed", "state", "template"),
    )

    def __init__(self, future: Future[Any], finish: Finish | None, options: TaskOptions) -> None:
        self.future = future
        self.options = options
        self.attempt = 1
        self.payload = b""  # kept for another attempt, if there may be one
        self.finish = finish
        self.identity: Any = None  # what the call is, for the store of results
        self.key = ""
        self.state: State = "waiting"
        self.template = b""
        self.dependencies: list[AnyFuture[Any]] = []
        self.missing = 0
        self.children: list[Future[Any]] = []  # that its value waits for
        self.printed = ("", "")  # before it waited for them
        self.lock = threading.Lock()
