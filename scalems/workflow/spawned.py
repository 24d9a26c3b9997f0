"""What is done when a task has ended, and its value waits for calls that it has made.

See :mod:`scalems.workflow.children` for the other side.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future as AnyFuture
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from scalems.workflow import argument, pickling
from scalems.workflow.call import Outcome
from scalems.workflow.failures import error_of
from scalems.workflow.future import Future

if TYPE_CHECKING:
    from scalems.workflow.children import Unasked
    from scalems.workflow.large import Payload
    from scalems.workflow.node import Node
    from scalems.workflow.options import TaskOptions
    from scalems.workflow.pickling import Encoded
    from scalems.workflow.work import Work


class Owner(Protocol):
    """What the graph is to this."""

    work: Work

    def submit_encoded(
        self, payload: Payload, futures: list[AnyFuture[Any]], *, name: str, options: TaskOptions
    ) -> Future[Any]:
        """Add a task that another task has called."""
        ...

    def send(self, node: Node, encoded: Encoded) -> None:
        """Give a call to the backend."""
        ...

    def settle(self, node: Node, outcome: Outcome) -> None:
        """End a task by an outcome."""
        ...

    def fail(self, node: Node, error: BaseException, *, of: AnyFuture[Any]) -> None:
        """End a task by an error, for which another one has failed."""
        ...


def start(graph: Owner, node: Node, outcome: Outcome, unasked: Unasked) -> None:
    """Run the calls that a task has made, and end the task by its value with theirs in it."""
    futures = _submitted(graph, unasked)
    used = [futures[place] for place in unasked.uses]
    node.children = list(futures.values())
    out, err = node.printed
    node.printed = (out + outcome.stdout, err + outcome.stderr)
    left = len(used)
    lock = threading.Lock()

    def arrived(future: AnyFuture[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            graph.work.do(partial(_finish, graph, node, outcome, unasked, used))

    for future in used:
        future.add_done_callback(arrived)


def sendable(future: AnyFuture[Any]) -> Any:
    """Return the value of a future as it travels to a task that takes it."""
    if isinstance(future, Future):
        outcome: Outcome = future._sent()
        return argument.Packed(outcome.payload, future._path)
    return future.result()


def _submitted(graph: Owner, unasked: Unasked) -> dict[int, Future[Any]]:
    """Make tasks of all calls, those first that others take the value of."""
    futures: dict[int, Future[Any]] = {}
    todo = list(reversed(range(len(unasked.calls))))
    while todo:
        place = todo.pop()
        if place in futures:
            continue
        one = unasked.calls[place]
        missing = [use for use in one.uses if use not in futures]
        if missing:
            todo += [place, *missing]
            continue
        futures[place] = graph.submit_encoded(
            one.payload, [futures[use] for use in one.uses], name=one.name, options=one.options
        )
    return futures


def _finish(
    graph: Owner, node: Node, outcome: Outcome, unasked: Unasked, used: list[Future[Any]]
) -> None:
    if node.future.done():
        return  # cancelled
    for future in used:
        error = error_of(future)
        if error is not None:
            graph.fail(node, error, of=future)
            return
    if unasked.whole:
        value: Outcome = used[0]._sent()
        graph.settle(node, replace(value, id=node.future.task_id, item=None, stdout="", stderr=""))
        return
    values = [sendable(future) for future in used]
    graph.send(node, pickling.encode_apart(argument.filled, (outcome.payload, values), {}))
