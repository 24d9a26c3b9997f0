"""Parts of a workflow whose shape depends on results: subgraphs, loops, polling.

They run in the client, which only waits in them; the work is done by the tasks that they
call. So they take no worker, and cannot block each other, even with one worker.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
from concurrent.futures import Future as AnyFuture
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from scalems.errors import TaskTimeout, UsageError
from scalems.workflow import argument, call, calls, current
from scalems.workflow.call import Outcome
from scalems.workflow.future import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from scalems.workflow.large import Payload
    from scalems.workflow.node import Promise

P = ParamSpec("P")
R = TypeVar("R")


class Subgraph(Generic[P, R]):
    """A function that calls tasks, as its results ask for it; made by :func:`subgraph`."""

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        """The function itself."""
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start the function in the client, and return the future of what it returns.

        :raises TypeError: if the function does not take these arguments.
        :raises UsageError: if no workflow is running, or this is inside of a task.
        """
        function: Callable[..., Any] = self.function
        name = function.__qualname__
        if call.running() is not None:
            raise UsageError(
                f"The subgraph {name!r} was called inside of a task.",
                remedy="call it from the app or from another subgraph",
            )
        inspect.signature(function).bind(*args, **kwargs)
        if inspect.iscoroutinefunction(function):
            return _coroutine(name, args, functools.partial(function, *args, **kwargs))
        return _thread(name, args, functools.partial(function, *args, **kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<Subgraph {self.function.__module__}.{self.function.__qualname__}>"


def subgraph(function: Callable[P, R]) -> Subgraph[P, R]:
    """Make a function a part of the workflow that calls tasks as their results ask for it.

    .. code-block:: python

        @scalems.subgraph
        def converge(seed):
            state = simulate(seed)
            while error_of(state).result() > 0.1:
                state = extend(state)
            return state

        states = [converge(seed) for seed in range(100)]

    A call returns a future at once. The function runs in the client, in a thread of its own;
    an ``async`` one runs on one event loop with all others, which is better for thousands.
    Futures among its arguments are passed as they are, and those in what it returns are
    replaced by their values. To cancel its future cancels the tasks that it has called.

    :raises UsageError: if it is not a function.
    """
    if not inspect.isfunction(function):
        raise UsageError(
            f"@scalems.subgraph marks functions, and {function!r} is of type "
            f"{type(function).__name__}.",
            remedy="put the decorator on a plain function; it needs no @scalems.task",
        )
    return Subgraph(function)


def while_loop(
    condition: Callable[[Any], object],
    body: Callable[[Any], object],
    state: object,
    *,
    limit: int | None = None,
) -> Future[Any]:
    """Run a task on its own result as long as a condition holds; return the last one's future.

    .. code-block:: python

        relaxed = scalems.while_loop(is_strained, relax, start, limit=50)

    :param condition: a task, or a function that becomes one: takes the state, returns whether
        to go on. It is asked before the first time too.
    :param body: a task, or a function that becomes one: takes the state, returns the next one.
        The state goes from task to task, and is not rebuilt in the client.
    :param state: the first one; it may be a future.
    :param limit: times that the body may run.
    :raises UsageError: if no workflow is running.
    :return: a future; it raises :class:`~scalems.errors.TaskTimeout` if the condition still
        holds after so many times.
    """

    async def loop() -> object:
        now, count = state, 0
        while await calls.submit(condition, now):
            if count == limit:
                raise TaskTimeout(f"the condition still holds after {limit} times of the loop")
            now, count = calls.submit(body, now), count + 1
        return now

    return _coroutine("while_loop", (state,), loop)


def poll(
    function: Callable[..., R],
    /,
    *args: object,
    interval: float = 1.0,
    timeout: float | None = None,
    **kwargs: object,
) -> Future[R]:
    """Call a task again and again until it returns something true; return the future of that.

    :param function: a task, or a function that becomes one. What it returned is not taken from
        a former run, nor kept.
    :param interval: seconds from one call's end to the next one.
    :param timeout: seconds after which no further call is made.
    :raises UsageError: if no workflow is running.
    :return: a future; it raises :class:`~scalems.errors.TaskTimeout` after `timeout`.
    """
    name = getattr(function, "__qualname__", "poll")

    async def loop() -> object:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            answer = calls.uncached(function, args, kwargs)
            if await answer:
                return answer
            if end is not None and time.monotonic() + interval > end:
                raise TaskTimeout(f"{name} has returned nothing true within {timeout:g} s")
            await asyncio.sleep(interval)

    return _coroutine(f"poll {name}", args, loop)


# --- running them -------------------------------------------------------------------------


def _thread(name: str, args: tuple[object, ...], function: Callable[[], object]) -> Future[Any]:
    promise = _promise(name, args, lambda: None)

    def run() -> None:
        started = time.time()
        with current.within(promise.future):
            try:
                value = function()
            except BaseException as error:
                _fail(promise, error, started)
                return
        _settle(promise, value, started)

    threading.Thread(target=run, name=f"scalems-{name}", daemon=True).start()
    return promise.future


def _coroutine(
    name: str, args: tuple[object, ...], make: Callable[[], Coroutine[Any, Any, object]]
) -> Future[Any]:
    running: list[AnyFuture[Any]] = []

    def withdraw() -> None:
        for one in running:
            one.cancel()

    promise = _promise(name, args, withdraw)

    async def run() -> None:
        started = time.time()
        with current.within(promise.future):
            try:
                value = await make()
            except BaseException as error:
                _fail(promise, error, started)
                return
        _settle(promise, value, started)

    running.append(asyncio.run_coroutine_threadsafe(run(), _loop()))
    return promise.future


def _promise(name: str, args: tuple[object, ...], withdraw: Callable[[], None]) -> Promise:
    graph = current.graph(f"the subgraph {name!r} was called")

    def cancelled(future: Future[Any]) -> None:
        withdraw()
        current.cancel_children(future)

    promise = graph.promise(name, args, cancelled)
    current.child(promise.future)
    return promise


def _settle(promise: Promise, value: object, started: float) -> None:
    """End a subgraph when all futures in what it returned have ended."""
    futures = argument.futures_in(value)
    if not futures:
        _succeed(promise, value, started)
        return
    left = len(futures)
    lock = threading.Lock()

    def arrived(future: AnyFuture[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            _succeed(promise, value, started)

    for future in futures:
        future.add_done_callback(arrived)


def _succeed(promise: Promise, value: object, started: float) -> None:
    outcome = _whole(value)
    if outcome is not None:
        promise.settle(_outcome(promise, outcome.payload, started, outcome.files))
        return
    try:
        payload = call.encode_value(promise.future.name, argument.resolved(value))
    except BaseException as error:
        _fail(promise, error, started)
        return
    promise.settle(_outcome(promise, payload, started))


def _whole(value: object) -> Outcome | None:
    """Return how the value of a future came: the client may not have what rebuilds it."""
    if not isinstance(value, Future) or value._path or value.cancelled():
        return None
    if AnyFuture.exception(value) is not None:
        return None
    found = value._sent()
    return found if isinstance(found, Outcome) else None


def _fail(promise: Promise, error: BaseException, started: float) -> None:
    failure = call.failure_of(error)
    one = call.Call(id=promise.future.task_id, name=promise.future.name, payload=b"")
    promise.settle(call.failed(one, failure, pid=os.getpid(), started=started))


def _outcome(
    promise: Promise, payload: Payload, started: float, files: tuple[str, ...] = ()
) -> Outcome:
    return Outcome(
        id=promise.future.task_id,
        ok=True,
        payload=payload,
        host=call.hostname(),
        pid=os.getpid(),
        started=started,
        ended=time.time(),
        files=files,
    )


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all ``async`` subgraphs, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="scalems-subgraphs", daemon=True).start()
    return loop
