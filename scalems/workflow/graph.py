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
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from scalems.errors import ScalemsError, UsageError
from scalems.workflow import argument, call, current, spawned
from scalems.workflow.bulk import Bulks, grouped
from scalems.workflow.call import Call, Encoded, Outcome
from scalems.workflow.failures import DependencyError as DependencyError
from scalems.workflow.failures import Failed, Failures, error_of
from scalems.workflow.future import Future
from scalems.workflow.items import Futures
from scalems.workflow.node import Node, Promise, guard
from scalems.workflow.options import DEFAULT, TaskOptions
from scalems.workflow.policy import GO_ON, FailurePolicy, stopped
from scalems.workflow.spawned import sendable
from scalems.workflow.starter import Starter
from scalems.workflow.tally import Counts, How, State, Tally
from scalems.workflow.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from scalems.workflow.backend import Backend
    from scalems.workflow.items import Items
    from scalems.workflow.large import Payload
    from scalems.workflow.node import Finish
    from scalems.workflow.results import Results

    Withdraw = Callable[[Future[Any]], None]

log = logging.getLogger(__name__)


class Graph:
    """All tasks of one run and the backend that they run on.

    :param backend: it is started, in a thread of its own, by the first task.
    :param on_outcome: told the outcome of each call that has printed something, from any thread.
    :param results: of former runs, and where those of this run are kept.
    :param policy: what becomes of the run when a task fails.
    :param area: where files are kept, see ``scalems.workflow.file.area``.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        on_outcome: Callable[[str, Outcome], None] | None = None,
        results: Results | None = None,
        area: str = "",
        policy: FailurePolicy = GO_ON,
    ) -> None:
        self.backend = backend
        self.area = area
        self.error: BaseException | None = None
        """What the backend failed to start by."""
        self._on_outcome = on_outcome
        self.results = results
        self.ids: Iterator[int] = itertools.count(1)
        self._nodes: dict[int, Node] = {}
        self._bulks = Bulks(self)
        self._failures = Failures()
        self.policy = policy
        self.tally = Tally()
        self.work = Work()
        self._starter = Starter(backend, self.end)
        self.closed = False
        self._forget, self._take = self._withdraw, self._told  # the same objects for all tasks

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
        if self.closed:
            raise UsageError(f"The task {name!r} was called after the workflow had ended.")
        given, options = (args, kwargs), self.policy.of(options)
        futures = argument.futures_in(*args, *kwargs.values())
        if futures:  # it becomes an argument of another call
            args, kwargs = argument.with_slots((tuple(args), dict(kwargs)), futures)
            encoded = Encoded(call.encode(function, args, kwargs))
        else:
            encoded = call.encode_apart(function, args, kwargs)
        future: Future[Any] = Future(task_id=next(self.ids), name=name, withdraw=self._forget)
        current.child(future)
        node = self._nodes[future.task_id] = Node(future, finish, options)
        self.tally.moved("waiting")
        if self.results is None:
            self.start()
        else:
            if options.cache:
                node.identity = self.results.identify(function, args, kwargs, options.matters)
            self.results.submitted(future.task_id, name, node.identity, *given, options.tags)
        self._feed(node, encoded, futures)
        return future

    def submit_encoded(
        self, payload: Payload, futures: list[AnyFuture[Any]], *, name: str, options: TaskOptions
    ) -> Future[Any]:
        """Add a task that another task has called; its result is not kept by itself.

        :param payload: its call, from the far side.
        :param futures: what the slots in it stand for.
        """
        future: Future[Any] = Future(task_id=next(self.ids), name=name, withdraw=self._forget)
        node = self._nodes[future.task_id] = Node(future, None, self.policy.of(options))
        self.tally.moved("waiting")
        if self.results is not None:
            self.results.submitted(future.task_id, name, None, (), {}, options.tags)
        self._feed(node, Encoded(payload), futures)
        return future

    def _feed(self, node: Node, encoded: Encoded, futures: list[AnyFuture[Any]]) -> None:
        """Hand a task over when the futures in its arguments have values."""
        if not futures:
            if not self._reuse(node):
                self._hand_over(node, encoded)
            return
        node.future.depend(futures)
        node.template, node.dependencies, node.missing = encoded.payload, futures, len(futures)
        for dependency in futures:
            dependency.add_done_callback(partial(self._arrived, node))

    def submit_many(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[object, ...]],
        *,
        name: str,
        options: TaskOptions = DEFAULT,
    ) -> Futures[Any]:
        """Add tasks that call one function with different arguments; return their futures.

        :param items: the arguments of each call.
        :raises SerializationError: if the function or an argument cannot be sent.
        :raises UsageError: if the run has ended.
        """
        options = self.policy.of(options)
        pieces: list[Items | list[Future[Any]]] = []
        for alone, group in grouped(items):
            if alone or options.needs.ranks > 1:
                pieces.append(
                    [self.submit(function, args, {}, name=name, options=options) for args in group]
                )
            else:
                pieces.append(self._bulks.submit(function, group, name, options))
        return Futures(pieces)

    def adopt(
        self,
        future: Future[Any],
        outcome: Outcome | BaseException,
        key: str,
        options: TaskOptions,
        encoded: Encoded | None,
    ) -> None:
        """See to an item of a bulk that has not given just a value, as to any task.

        :param outcome: of it, or why it cannot run.
        :param key: of the call in the store of results.
        :param encoded: the call, if it may be tried again.
        """
        if future.done():
            return  # cancelled
        node = self._nodes[future.task_id] = Node(future, None, options)
        node.key, node.encoded, node.state = key, encoded, "submitted"
        future._withdraw = self._forget
        if isinstance(outcome, BaseException):
            self.work.do(partial(self.fail, node, outcome))
        else:
            self._receive(node, replace(outcome, id=future.task_id, item=None))

    def promise(self, name: str, args: Sequence[object], withdraw: Withdraw) -> Promise:
        """Add a task that the client itself sees to.

        :param withdraw: called when its future is cancelled.
        :raises UsageError: if the run has ended.
        """
        if self.closed:
            raise UsageError(f"{name!r} was called after the workflow had ended.")

        def cancelled(future: Future[Any]) -> None:
            withdraw(future)
            self._withdraw(future)

        future: Future[Any] = Future(task_id=next(self.ids), name=name, withdraw=cancelled)
        node = self._nodes[future.task_id] = Node(future, None, DEFAULT)
        self.tally.moved("waiting")
        if self.results is not None:
            self.results.submitted(future.task_id, name, None, args, {})
        self._move(node, "submitted")
        future._started = True
        return Promise(future, lambda outcome: self.work.do(partial(self.settle, node, outcome)))

    def _withdraw(self, future: Future[Any]) -> None:
        """Forget a task whose future was cancelled just now."""
        node = self._nodes.pop(future.task_id, None)
        if node is None:
            return  # cancelled before
        future.set_running_or_notify_cancel()  # tells concurrent.futures.wait and its like
        self.tally.ended(future.name, "cancelled")
        before = self._move(node, "cancelled")
        for child in node.children:
            child.cancel()
        if self.results is not None:
            self.results.ended(future.task_id, "cancelled", "")
        if before == "submitted" and not self.closed and self._starter.begun:
            self.backend.cancel(future.task_id)

    # --- what the run calls ---------------------------------------------------------------

    def counts(self) -> Counts:
        """Return how many tasks are in each state now."""
        return self.tally.counts()

    def wait(self, limit: float | None = None) -> bool:
        """Wait until all tasks have ended, for some seconds at most; return whether they have."""
        return self.tally.wait(limit)

    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """Return the versions in environments that results are of, by fingerprint."""
        known = self.results.environments() if self.results is not None else {}
        return {**known, **self.backend.environments}

    def failures(self) -> list[Failed]:
        """Return the failed tasks as they failed, without those that failed for another one."""
        return self._failures.all()

    def unheard(self) -> list[Failed]:
        """Return the failed tasks of which nobody asked for the result, in the order of calls.

        Asking for the result of a task that depends on one counts too.
        """
        return self._failures.unheard()

    def stopped(self) -> dict[int, list[Future[Any]]]:
        """Return the tasks that did not run, by the number of the failed one that they need."""
        return self._failures.stopped()

    def close(self, *, abort: bool = False) -> None:
        """Close the backend; tasks that have not ended are cancelled.

        :param abort: end running tasks at once rather than orderly.
        """
        self.closed = True
        # The newest first: a task is cancelled before those that it depends on.
        for node in reversed(list(self._nodes.values())):
            node.future.cancel()
        self._bulks.cancel()
        self.backend.close(abort=abort)
        self._starter.join(30.0)  # seconds to break off its start

    def end(self, error: BaseException) -> None:
        """End all tasks that have not ended, and all later ones, by an error."""
        self.error = error
        for node in list(self._nodes.values()):
            self.work.do(partial(self.fail, node, error))
        self._bulks.fail(error)

    # --- a task's way ---------------------------------------------------------------------

    def _arrived(self, node: Node, dependency: AnyFuture[Any]) -> None:
        with guard:
            node.missing -= 1
            last = node.missing == 0
        if error_of(dependency) is not None:
            self.work.do(partial(self._stop, node, dependency))
        elif last:
            self.work.do(partial(self._complete, node))

    def _complete(self, node: Node) -> None:
        """Hand over a task whose dependencies all have values."""
        if node.future.done():
            return
        values = [sendable(dependency) for dependency in node.dependencies]
        givers = [getattr(dependency, "task_id", 0) for dependency in node.dependencies]
        template, node.template, node.dependencies = node.template, b"", ()
        if self._reuse(node, values, givers):
            return
        try:
            encoded = call.encode_apart(argument.apply, (template, values), {})
        except ScalemsError as error:
            self.fail(node, error)
            return
        self._hand_over(node, encoded)

    def _reuse(self, node: Node, values: Sequence[object] = (), givers: Sequence[int] = ()) -> bool:
        """Give a task the result that its call had in a former run, if it had one."""
        if self.results is None or node.identity is None:
            return False
        contents = [argument.content(value) for value in values]
        node.key, outcome = self.results.find(node.future.task_id, node.identity, contents, givers)
        node.identity = None
        if outcome is None or self.error is not None:
            return False
        if self._move(node, "submitted") is not None:
            self.results.reused(node.key, outcome)
            node.future._reused = True
            self.work.do(partial(self.settle, node, outcome, reused=True))
        return True

    def _hand_over(self, node: Node, encoded: Encoded) -> None:
        future = node.future
        self.start()
        if self.error is not None:
            self.fail(node, self.error)
            return
        if self._move(node, "submitted") is None:
            return  # cancelled
        future._started = True
        if node.options.retries:
            node.encoded = encoded
        self.send(node, encoded)

    def send(self, node: Node, encoded: Encoded) -> None:
        """Give a call to the backend."""
        future = node.future
        sent = Call(
            id=future.task_id,
            name=future.name,
            payload=encoded.payload,
            function=encoded.function,
            timeout=node.options.timeout,
            area=self.area,
            needs=node.options.needs,
        )
        node.take = self._take
        try:
            self.backend.submit(sent, node)
        except Exception as error:
            self.fail(node, error)
        if future.cancelled():
            self.backend.cancel(future.task_id)  # cancelled before the backend knew of it

    def _told(self, node: Node, outcome: Outcome) -> None:
        self.work.do(partial(self._receive, node, outcome))

    def _receive(self, node: Node, outcome: Outcome) -> None:
        """Take the outcome of a call that has run."""
        if self._on_outcome is not None and (outcome.stdout or outcome.stderr):
            self._on_outcome(node.future.name, outcome)
        self.settle(node, outcome)

    def settle(self, node: Node, outcome: Outcome, *, reused: bool = False) -> None:
        """End a task by an outcome, once that is kept."""
        if node.future.done() and (outcome.unasked is not None or not outcome.ok):
            return  # cancelled: only a value is worth to be kept
        if outcome.unasked is not None:
            spawned.start(self, node, outcome, outcome.unasked)
            return
        if any(node.printed):
            out, err = node.printed
            outcome = replace(outcome, stdout=out + outcome.stdout, stderr=err + outcome.stderr)
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
            settle = partial(self.fail, node, error, outcome, recorded=True)
        if self.results is None or reused:
            settle()
            return
        self.results.finished(
            node.future.name,
            node.key if error is None else "",
            outcome,
            "" if error is None else call.summary(error),
            lambda: self.work.do(settle),
        )

    def _retry(self, node: Node, error: BaseException) -> bool:
        """Try a failed task again, after a while, if it may be tried again."""
        if node.attempt > (node.options.retries or 0) or self.closed:
            return False
        pause = node.options.pause(node.attempt)
        log.warning(
            "%s#%d failed (%s): attempt %d of %d in %.1f s", node.future.name,
            node.future.task_id, call.summary(error).partition("\n")[0], node.attempt + 1,
            (node.options.retries or 0) + 1, pause,
        )  # fmt: skip
        node.attempt += 1

        def again() -> None:
            if not node.future.done() and node.encoded is not None:
                self.send(node, node.encoded)

        timer = threading.Timer(pause, again)
        timer.daemon = True
        timer.start()
        return True

    def _succeed(self, node: Node, value: Outcome, reused: bool) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled
            node.future.set_result(value)
            if reused:
                self.tally.reused(1)
            self._ended(node, "done", "reused" if reused else "done")

    def _stop(self, node: Node, dependency: AnyFuture[Any]) -> None:
        """Fail a task since a dependency of it failed."""
        error, known = self._failures.inherited(node.future, dependency)
        self.fail(node, error, of=dependency if known else None)

    def fail(
        self,
        node: Node,
        error: BaseException,
        outcome: Outcome | None = None,
        *,
        of: AnyFuture[Any] | None = None,
        recorded: bool = False,
    ) -> None:
        """End a task by an error.

        :param of: the task for whose failure it has failed; ``None``: it failed by itself.
        :param recorded: the store knows.
        """
        if self.results is not None and not recorded:
            self.results.ended(node.future.task_id, "failed", call.summary(error))
        with contextlib.suppress(InvalidStateError):  # cancelled, or failed before
            if of is not None:
                self._failures.heir(node.future, of)
            node.future.set_exception(error)
            alone = of is None and error is not self.error
            if alone:
                self._failures.add(Failed(future=node.future, error=error, outcome=outcome))
                if self.error is None and self.policy.stops(node.options):
                    self.end(stopped(node.future, error))
            self._ended(node, "failed", "failed" if alone else "not_run")

    # --- counting, starting ---------------------------------------------------------------

    def _ended(self, node: Node, how: State, told: How) -> None:
        self._nodes.pop(node.future.task_id, None)
        ran = node.future._ran if told in ("done", "failed") else None
        took = ran.ended - ran.started if ran else 0.0
        self.tally.ended(node.future.name, told, 1, took, took)
        self._move(node, how)

    def _move(self, node: Node, to: State) -> State | None:
        """Change a task's state.

        :return: the former state; ``None``, and nothing was changed, if it had ended.
        """
        with guard:
            before = node.state
            if before not in ("waiting", "submitted"):
                return None
            node.state = to
        self.tally.moved(to, before)
        return before

    def start(self) -> None:
        """Start the backend, if that was not done before."""
        self._starter.start()
