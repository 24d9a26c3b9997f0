"""Workflows from plain Python: a :class:`concurrent.futures.Executor` on a backend.

.. code-block:: python

    with scalems.local.Executor(max_workers=4) as executor:
        future = executor.submit(pow, 2, 5)
        print(future.result(), list(executor.map(abs, [-1, -2])))

Calls of tasks (``@scalems.task``) inside the ``with`` go to it too. It takes the options of
the backend's command, verifies the environments as the command does, and needs no script:
a notebook or an interactive Python will do.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import difflib
import os
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from scalems.account import Account
from scalems.errors import UsageError
from scalems.liveview import say
from scalems.workflow import calls, file
from scalems.workflow.current import activated
from scalems.workflow.graph import Graph
from scalems.workflow.options import DEFAULT, TaskOptions
from scalems.workflow.policy import GO_ON, FailurePolicy
from scalems.workflow.rows import Rows
from scalems.workflow.task import Task

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from scalems import invocation
    from scalems.store.store import Store
    from scalems.workflow.future import Future
    from scalems.workflow.items import Futures

R = TypeVar("R")

# What only a command does, or what an executor has an argument of its own for.
_OF_COMMANDS = frozenset(
    {"help", "version", "verbose", "quiet", "log_level", "json", "report", "store", "no_store"}
    | {"rerun", "on_error", "retries", "debug_bundle", "dry_run"}
)
_open_ones: weakref.WeakSet[Executor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leave nothing behind of executors that were not shut down, as in a notebook."""
    for one in list(_open_ones):
        with contextlib.suppress(Exception):
            one.shutdown(cancel_futures=True)


class Executor(concurrent.futures.Executor):
    """Runs calls on a backend; made as ``scalems.local.Executor`` or ``scalems.radical.Executor``.

    Nothing is started before the first call.

    :param parser: of the backend's command.
    :param make_backend: of the backend's command.
    :param options: of the backend's command, by the names of Python.
    :param store: folder where results are kept; ``None``: they are not.
    :param rerun: take no results of former runs, only keep new ones.
    :param policy: what becomes of the others when a call fails.
    :raises UsageError: an option cannot be what was meant.
    :raises EnvironmentNotReady: the environments are not what was built.
    """

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        make_backend: invocation.MakeBackend,
        options: Mapping[str, object],
        store: str | os.PathLike[str] | None,
        *,
        rerun: bool = False,
        policy: FailurePolicy = GO_ON,
    ) -> None:
        backend = make_backend(_parsed(parser, options), lambda line: None)
        self._store = _open(Path(store), backend, rerun) if store is not None else None
        self._within = contextlib.ExitStack()
        folder = self._store.folder if self._store is not None and self._store.writes else None
        area = self._within.enter_context(file.area(folder))
        self._graph = Graph(backend, results=self._store, area=area, policy=policy)
        self._ended = False
        self._began = time.monotonic()
        _open_ones.add(self)

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Submit a call and return its future.

        Futures among the arguments are replaced by their values, as in a workflow.

        :raises RuntimeError: if the executor was shut down.
        :raises SerializationError: if the function or an argument cannot be sent.
        """
        return self._submit(DEFAULT, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """Call a function for the items of iterables, side by side; yield the values in order.

        The calls travel together, in groups that are sized by how long they take.

        :param timeout: seconds until the last value must be there.
        :param chunksize: taken, and not needed.
        :raises concurrent.futures.TimeoutError: a value is not there in time.
        """
        return self._map(DEFAULT, fn, iterables, timeout)

    def _map(
        self,
        options: TaskOptions,
        function: Callable[..., R],
        iterables: Sequence[Iterable[object]],
        timeout: float | None,
    ) -> Iterator[R]:
        if self._ended:
            raise RuntimeError("cannot schedule new futures after shutdown")
        with activated(self._graph):
            items = Rows.zipped(iterables) if iterables else []
            futures = calls.mapped(function, items, options)
        return _values(futures, None if timeout is None else time.monotonic() + timeout)

    def with_options(self, **options: Any) -> View:
        """Return a view of this executor, whose calls are run with options.

        .. code-block:: python

            wide = executor.with_options(ranks=4, timeout=600)
            wide.submit(simulate, 7)

        :param options: those of :class:`~scalems.workflow.options.TaskOptions`.
        :raises UsageError: there is no such option, or a value cannot be what was meant.
        """
        return View(self, options)

    def _submit(
        self,
        options: TaskOptions,
        function: Callable[..., R],
        args: Sequence[object],
        kwargs: Mapping[str, object],
    ) -> Future[R]:
        if self._ended:
            raise RuntimeError("cannot schedule new futures after shutdown")
        with activated(self._graph):
            return calls.submitted(function, args, kwargs, options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and give back what the backend holds.

        :param wait: wait for the calls that have not ended. Without it they are cancelled too,
            as nothing is left behind.
        :param cancel_futures: cancel the calls that have not ended.
        """
        if self._ended:
            return
        self._ended = True
        _open_ones.discard(self)
        orderly = wait and not cancel_futures
        try:
            if orderly:
                self._graph.wait()
        except BaseException:
            orderly = False
            raise
        finally:
            # What ended the run has failed all calls; those that still run are ended.
            self._graph.close(abort=not orderly or self._graph.error is not None)
            if self._store is not None:
                self._store.end(0 if orderly else 1)
            self._within.close()

    def summary(self) -> dict[str, object]:
        """Return how it goes so far, as ``--json`` of the command tells it: numbers by the names
        of tasks, failures with what they stopped."""
        elapsed = time.monotonic() - self._began
        account = Account(graph=self._graph, store=self._store, elapsed=elapsed)
        return account.summary(1 if self._graph.failures() else 0)

    def open(self) -> Self:
        """Let calls of tasks go to it from now on, until :meth:`close`: as ``with`` does, for
        the cells of a notebook."""
        return self.__enter__()

    def close(self) -> None:
        """Wait for all calls, and give back what the backend holds; at the end of ``with``."""
        self.shutdown()

    def __enter__(self) -> Self:
        self._within.enter_context(activated(self._graph))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown(cancel_futures=isinstance(error, KeyboardInterrupt))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, trace)


class View(concurrent.futures.Executor):
    """An executor whose calls have other options; made by :meth:`Executor.with_options`.

    They hold for calls of tasks too, over what these say themselves. It holds nothing of its
    own: to shut it down does nothing.
    """

    def __init__(self, executor: Executor, changes: Mapping[str, Any]) -> None:
        self._executor = executor
        self._changes = changes
        self._options = DEFAULT.replaced(**changes)

    def _viewed(self, function: Callable[..., R]) -> Callable[..., R]:
        if isinstance(function, Task):
            viewed: Any = function.with_options(**self._changes)
            return viewed  # type: ignore[no-any-return]
        return function

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Submit a call and return its future, see :meth:`Executor.submit`."""
        return self._executor._submit(self._options, self._viewed(fn), args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """Call a function for the items of iterables, see :meth:`Executor.map`."""
        return self._executor._map(self._options, self._viewed(fn), iterables, timeout)

    def with_options(self, **options: Any) -> View:
        """Return a view with more options, see :meth:`Executor.with_options`."""
        return View(self._executor, {**self._changes, **options})


def _values(futures: Futures[R], limit: float | None) -> Iterator[R]:
    """Yield values in order; cancel what is left if that is ended early."""
    try:
        yield from futures.stream(
            lambda: None if limit is None else max(0.0, limit - time.monotonic())
        )
    finally:
        futures.cancel()


def _parsed(parser: argparse.ArgumentParser, options: Mapping[str, object]) -> argparse.Namespace:
    """Parse options of a command that are given by their names in Python.

    :raises UsageError: there is no such option, or a value cannot be what was meant.
    """
    known = {
        action.dest
        for action in parser._actions
        if action.option_strings and action.dest not in _OF_COMMANDS
    }
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(
                f"{parser.prog.rpartition(' ')[2]} has no option {name!r}{hint}",
                remedy=f"the options are {', '.join(sorted(known))}",
            )

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"wrong option of an executor: {message}")

    parser.error = refuse  # type: ignore[method-assign]  # else it ends the process
    return parser.parse_args(_words(options))


def given(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that are not ``None``."""
    return {name: value for name, value in options.items() if value is not None}


def _words(options: Mapping[str, object]) -> list[str]:
    """Return options as words of a command line; those that are ``None`` are left out."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, dict):
            words += [f"{option}={key}={item}" for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            words += [f"{option}={item}" for item in value]
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words


def _open(folder: Path, backend: Any, rerun: bool) -> Store:
    from scalems.store.opening import opened

    script = sys.argv[0] if sys.argv else ""
    return opened(folder, backend, script=script, argv=sys.argv[1:], rerun=rerun, warn=say)
