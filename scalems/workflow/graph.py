"""The tasks of a run: which wait for which, which are at work, and how they ended.

There is no lock around the graph. A task waits for its arguments by callbacks on their
futures; what a callback has to do is queued in its thread and done in a loop, so a chain
of any length needs no deeper stack than one task.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures import Future as AnyFuture
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from scalems.errors import BackendError, ScalemsError, TaskError, UsageError
from scalems.workflow import argument, call, current
from scalems.workflow.call import Call, Outcome
from scalems.workflow.future import Future
from scalems.workflow.options import DEFAULT, TaskOptions
from scalems.workflow.tally import Counts, State, Tally
from scalems.workflow.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scalems.workflow.backend import Backend
    from scalems.workflow.results import Results

    Finish = Callable[[Any], object]
    """Turns the value from the far side into the value of the future, in the client."""

    Withdraw = Callable[[Future[Any]], None]

log = logging.getLogger(__name__)

_START_LIMIT = 30.0  # seconds that a closed backend gets to break off its start


class DependencyError(TaskError):
    """A task was not run, since a task that it depends on failed.

    The exception of that task is the ``__cause__``.
    """


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A task that failed by itself, not for another one's failure."""

    future: Future[Any]
    error: BaseException
    outcome: Outcome | None = None


class Promise(NamedTuple):
    """A task that the client itself sees to."""

    future: Future[Any]
    settle: Callable[[Outcome], None]
    """Ends it."""


class _Node:
    """A task that has not ended."""

    __slots__ = (
        *("attempt", "dependencies", "finish", "future", "identity", "key", "lock", "missing"),
        *("options", "payload", "state", "template"),
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
        self.lock = threading.Lock()


class Graph:
    """All tasks of one run and the backend that they run on.

    :param backend: it is started, in a thread of its own, by the first task.
    :param on_outcome: told the outcome of each call that has run, from any thread.
    :param results: of former runs, and where those of this run are kept.
    :param area: where files are kept, see ``scalems.workflow.file.area``.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        on_outcome: Callable[[str, Outcome], None] | None = None,
        results: Results | None = None,
        area: str = "",
    ) -> None:
        self.backend = backend
        self._area = area
        self.error: BaseException | None = None
        """What the backend failed to start by."""
        self._on_outcome = on_outcome
        self._results = results
        self._ids = itertools.count(1)
        self._nodes: dict[int, _Node] = {}
        self._failed: list[Failed] = []
        self._roots: dict[int, tuple[Future[Any], Future[Any]]] = {}
        self._tally = Tally()
        self._start_lock = threading.Lock()
        self._work = Work()
        self._starter: threading.Thread | None = None
        self._closed = False

    # --- what tasks and futures call ------------------------------------------------------

    def submit(
        self,
        function: Callable[..., Any],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        name: str,
        finish: Finish | None = None,
        options: TaskOptions = DEFAULT,
    ) -> Future[Any]:
        """Add a task; it goes to the backend when the futures in its arguments have values.


        :raises SerializationError: if the function or an argument cannot be sent.
        :raises UsageError: if the run has ended.
        """
        if self._closed:
            raise UsageError(f"The task {name!r} was called after the workflow had ended.")
        given = (args, kwargs)
        futures = argument.futures_in(*args, *kwargs.values())
        if futures:
            args, kwargs = argument.with_slots((tuple(args), dict(kwargs)), futures)
        payload = call.encode(function, args, kwargs)
        future: Future[Any] = Future(task_id=next(self._ids), name=name, withdraw=self._withdraw)
        current.child(future)
        node = _Node(future, finish, options)
        self._nodes[future.task_id] = node
        self._tally.moved("waiting")
        if self._results is None:
            self._start()
        else:
            if options.cache:
                node.identity = self._results.identify(function, args, kwargs, options.matters)
            self._results.submitted(future.task_id, name, node.identity, *given)
        if not futures:
            if not self._reuse(node):
                self._hand_over(node, payload)
            return future
        node.template, node.dependencies, node.missing = payload, futures, len(futures)
        for dependency in futures:
            dependency.add_done_callback(partial(self._arrived, node))
        return future

    def promise(self, name: str, args: Sequence[object], withdraw: Withdraw) -> Promise:
        """Add a task that the client itself sees to.

        :param withdraw: called when its future is cancelled.
        :raises UsageError: if the run has ended.
        """
        if self._closed:
            raise UsageError(f"{name!r} was called after the workflow had ended.")

        def cancelled(future: Future[Any]) -> None:
            withdraw(future)
            self._withdraw(future)

        future: Future[Any] = Future(task_id=next(self._ids), name=name, withdraw=cancelled)
        node = self._nodes[future.task_id] = _Node(future, None, DEFAULT)
        self._tally.moved("waiting")
        if self._results is not None:
            self._results.submitted(future.task_id, name, None, args, {})
        self._move(node, "submitted")
        future._started = True
        return Promise(future, lambda outcome: self._work.do(partial(self._settle, node, outcome)))

    def _withdraw(self, future: Future[Any]) -> None:
        """Forget a task whose future was cancelled just now."""
        node = self._nodes.pop(future.task_id, None)
        if node is None:
            return  # cancelled before
        future.set_running_or_notify_cancel()  # tells concurrent.futures.wait and its like
        before = self._move(node, "cancelled")
        if self._results is not None:
            self._results.ended(future.task_id, "cancelled", "")
        if before == "submitted" and not self._closed and self._starter is not None:
            self.backend.cancel(future.task_id)

    # --- what the run calls ---------------------------------------------------------------

    def counts(self) -> Counts:
        """Return how many tasks are in each state now."""
        return self._tally.counts()

    def wait(self) -> None:
        """Wait until all tasks have ended."""
        self._tally.wait()

    def failures(self) -> list[Failed]:
        """Return the failed tasks as they failed, without those that failed for another one."""
        return list(self._failed)

    def unheard(self) -> list[Failed]:
        """Return the failed tasks of which nobody asked for the result, in the order of calls.

        Asking for the result of a task that depends on one counts too.
        """
        heard = {root.task_id for future, root in self._roots.values() if future._asked}
        unheard = [
            failed
            for failed in self._failed
            if not failed.future._asked and failed.future.task_id not in heard
        ]
        return sorted(unheard, key=lambda failed: failed.future.task_id)

    def close(self, *, abort: bool = False) -> None:
        """Close the backend; tasks that have not ended are cancelled.

        :param abort: end running tasks at once rather than orderly.
        """
        self._closed = True
        # The newest first: a task is cancelled before those that it depends on.
        for node in reversed(list(self._nodes.values())):
            node.future.cancel()
        self.backend.close(abort=abort)
        if self._starter is not None:
            self._starter.join(_START_LIMIT)

    def end(self, error: BaseException) -> None:
        """End all tasks that have not ended, and all later ones, by an error."""
        self.error = error
        for node in list(self._nodes.values()):
            self._work.do(partial(self._fail, node, error))

    # --- a task's way ---------------------------------------------------------------------

    def _arrived(self, node: _Node, dependency: AnyFuture[Any]) -> None:
        with node.lock:
            node.missing -= 1
            last = node.missing == 0
        if _error_of(dependency) is not None:
            self._work.do(partial(self._stop, node, dependency))
        elif last:
            self._work.do(partial(self._complete, node))

    def _complete(self, node: _Node) -> None:
        """Hand over a task whose dependencies all have values."""
        if node.future.done():
            return
        values = [_sendable(dependency) for dependency in node.dependencies]
        template, node.template, node.dependencies = node.template, b"", []
        if self._reuse(node, values):
            return
        try:
            payload = call.encode(argument.apply, (template, values), {})
        except ScalemsError as error:
            self._fail(node, error)
            return
        self._hand_over(node, payload)

    def _reuse(self, node: _Node, values: Sequence[object] = ()) -> bool:
        """Give a task the result that its call had in a former run, if it had one."""
        if self._results is None or node.identity is None:
            return False
        contents = [argument.content(value) for value in values]
        node.key, outcome = self._results.find(node.future.task_id, node.identity, contents)
        node.identity = None
        if outcome is None or self.error is not None:
            return False
        if self._move(node, "submitted") is not None:
            self._results.reused(node.key, outcome)
            self._work.do(partial(self._settle, node, outcome, reused=True))
        return True

    def _hand_over(self, node: _Node, payload: bytes) -> None:
        future = node.future
        self._start()
        if self.error is not None:
            self._fail(node, self.error)
            return
        if self._move(node, "submitted") is None:
            return  # cancelled
        future._started = True
        if node.options.retries:
            node.payload = payload
        self._send(node, payload)

    def _send(self, node: _Node, payload: bytes) -> None:
        future = node.future
        sent = Call(
            id=future.task_id,
            name=future.name,
            payload=payload,
            timeout=node.options.timeout,
            area=self._area,
            needs=node.options.needs,
        )
        try:
            self.backend.submit(
                sent,
                lambda outcome: self._work.do(partial(self._receive, node, outcome)),
            )
        except Exception as error:
            self._fail(node, error)
        if future.cancelled():
            self.backend.cancel(future.task_id)  # cancelled before the backend knew of it

    def _receive(self, node: _Node, outcome: Outcome) -> None:
        """Take the outcome of a call that has run."""
        if self._on_outcome is not None:
            self._on_outcome(node.future.name, outcome)
        self._settle(node, outcome)

    def _settle(self, node: _Node, outcome: Outcome, *, reused: bool = False) -> None:
        """End a task by an outcome, once that is kept."""
        error: BaseException | None = None
        value = outcome
        node.future._ran = outcome
        try:
            if node.finish is not None:
                finished = node.finish(call.result(outcome))
                value = replace(outcome, payload=call.encode_value(node.future.name, finished))
            elif not outcome.ok:
                call.result(outcome)
        except CancelledError:
            node.future.cancel()
            return
        except StopIteration as stopped:
            # As in coroutines: it would end a loop somewhere instead of being reported.
            error = RuntimeError(f"{node.future.name} raised StopIteration")
            error.__cause__ = stopped
        except Exception as raised:
            error = raised
        settle = partial(self._succeed, node, value, reused)
        if error is not None:
            if self._retry(node, error):
                return
            settle = partial(self._fail, node, error, outcome, recorded=True)
        if self._results is None or reused:
            settle()
            return
        self._results.finished(
            node.future.name,
            node.key if error is None else "",
            outcome,
            "" if error is None else call.summary(error),
            lambda: self._work.do(settle),
        )

    def _retry(self, node: _Node, error: BaseException) -> bool:
        """Try a failed task again, after a while, if it may be tried again."""
        if node.attempt > node.options.retries or self._closed or node.future.done():
            return False
        pause = node.options.pause(node.attempt)
        log.warning(
            "%s#%d failed (%s): attempt %d of %d in %.1f s", node.future.name,
            node.future.task_id, call.summary(error).partition("\n")[0], node.attempt + 1,
            node.options.retries + 1, pause,
        )  # fmt: skip
        node.attempt += 1

        def again() -> None:
            if not node.future.done():
                self._send(node, node.payload)

        timer = threading.Timer(pause, again)
        timer.daemon = True
        timer.start()
        return True

    def _succeed(self, node: _Node, value: Outcome, reused: bool) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled
            node.future.set_result(value)
            self._tally.reused(reused)
            self._ended(node, "done")

    def _stop(self, node: _Node, dependency: AnyFuture[Any]) -> None:
        """Fail a task since a dependency of it failed."""
        cause = _error_of(dependency)
        _, root = self._roots.get(getattr(dependency, "task_id", 0), (None, dependency))
        name = f"{root.name}#{root.task_id}" if isinstance(root, Future) else repr(root)
        if isinstance(cause, DependencyError):
            cause = cause.__cause__
        cancelled = isinstance(cause, CancelledError)
        how = "was cancelled" if cancelled else f"failed: {_summary(cause)}"
        error = DependencyError(
            f"{node.future.name}#{node.future.task_id} was not run: "
            f"it depends on {name}, which {how}"
        )
        error.__cause__ = cause
        if isinstance(root, Future):
            self._roots[node.future.task_id] = (node.future, root)
        self._fail(node, error, by_itself=not isinstance(root, Future))

    def _fail(
        self,
        node: _Node,
        error: BaseException,
        outcome: Outcome | None = None,
        *,
        by_itself: bool = True,
        recorded: bool = False,
    ) -> None:
        if self._results is not None and not recorded:
            self._results.ended(node.future.task_id, "failed", call.summary(error))
        with contextlib.suppress(InvalidStateError):  # cancelled, or failed before
            node.future.set_exception(error)
            if by_itself and error is not self.error:
                self._failed.append(Failed(future=node.future, error=error, outcome=outcome))
            self._ended(node, "failed")

    # --- counting, starting ---------------------------------------------------------------

    def _ended(self, node: _Node, how: State) -> None:
        self._nodes.pop(node.future.task_id, None)
        self._move(node, how)

    def _move(self, node: _Node, to: State) -> State | None:
        """Change a task's state.

        :return: the former state; ``None``, and nothing was changed, if it had ended.
        """
        with node.lock:
            before = node.state
            if before not in ("waiting", "submitted"):
                return None
            node.state = to
        self._tally.moved(to, before)
        return before

    def _start(self) -> None:
        with self._start_lock:
            if self._starter is None:
                self._starter = threading.Thread(
                    target=self._run_start, name="scalems-start", daemon=True
                )
                self._starter.start()

    def _run_start(self) -> None:
        try:
            self.backend.start()
        except ScalemsError as error:
            log.debug("the backend did not start", exc_info=True)
            self.end(error)
        except BaseException as error:
            failure = BackendError(
                f"The backend {self.backend.label} did not start: {_summary(error)}"
            )
            failure.__cause__ = error
            self.end(failure)


def _error_of(future: AnyFuture[Any]) -> BaseException | None:
    """Return why an ended future has no value, without counting as being asked by the user."""
    if future.cancelled():
        return CancelledError()
    return AnyFuture.exception(future) if isinstance(future, Future) else future.exception()


def _sendable(future: AnyFuture[Any]) -> object:
    if isinstance(future, Future):
        outcome: Outcome = AnyFuture.result(future)
        return argument.Packed(outcome.payload, future._path)
    return future.result()


def _summary(error: BaseException | None) -> str:
    return call.summary(error) if error is not None else "no reason is known"
