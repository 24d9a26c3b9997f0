"""Calls of plain functions, and of many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from scalems.errors import UsageError
from scalems.workflow import call, current
from scalems.workflow.children import Child
from scalems.workflow.items import Futures
from scalems.workflow.options import DEFAULT, TaskOptions
from scalems.workflow.rows import Rows
from scalems.workflow.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from scalems.workflow.future import Future

P = ParamSpec("P")
R = TypeVar("R")


def submit(function: Callable[..., R], /, *args: object, **kwargs: object) -> Future[R]:
    """Call a function as a task: one that is marked, or anything that can be called.

    Inside of another task too: asked for its value there, it runs there and then; returned from
    the task, it is run as a task of its own when that has ended, and its value takes its place.

    :raises SerializationError: if the function or an argument cannot be sent.
    :raises UsageError: if no workflow is running, or this is not a function.
    """
    return submitted(function, args, kwargs, DEFAULT)


def submitted(
    function: Callable[..., R],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: TaskOptions,
) -> Future[R]:
    """Call a function as a task with options, see :func:`submit`; a task keeps its own.

    :raises SerializationError: if the function or an argument cannot be sent.
    :raises UsageError: if no workflow is running, or this is not a function.
    """
    if isinstance(function, Task) and call.running() is None:
        plain: Callable[..., Any] = function
        return plain(*args, **kwargs)  # type: ignore[no-any-return]
    if not callable(function):
        raise UsageError(
            "scalems.submit() takes a function and its arguments, "
            f"not a {type(function).__name__}.",
            remedy="write e.g. scalems.submit(simulate, 7), not scalems.submit(simulate(7))",
        )
    name = options.label or _name(function)
    if call.running() is not None:
        child: Any = _child(function, args, kwargs, name, options)
        return child  # type: ignore[no-any-return]
    return current.graph(f"the function {name!r} was submitted").submit(
        function, args, kwargs, name=name, options=options
    )


def _child(
    function: Callable[..., R],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    name: str,
    options: TaskOptions,
) -> Child[R]:
    if isinstance(function, Task):
        function.check(tuple(args), dict(kwargs))
        return Child(function.sent, args, kwargs, function.name, function.options)
    return Child(function, args, kwargs, name, options)


def uncached(
    function: Callable[..., R], args: Sequence[object], kwargs: Mapping[str, object]
) -> Future[R]:
    """Call a function as a task whose result is neither taken from a former run nor kept."""
    if isinstance(function, Task):
        return function.with_options(cache=False)(*args, **kwargs)
    return submitted(function, args, kwargs, DEFAULT.replaced(cache=False))


def map(function: Callable[..., R], /, *iterables: Iterable[object]) -> Futures[R]:
    """Call a function as a task for the items of iterables, side by side; return the futures.

    It ends with the shortest of the iterables, as the built-in :func:`map` does. The futures are
    a sequence, each of which is made when it is asked for: :func:`gather` needs none of them.

    :raises UsageError: if no workflow is running, or there is nothing to map over.
    """
    if not iterables:
        raise UsageError(
            "scalems.map() was given a function, and nothing to map it over.",
            remedy="write e.g. scalems.map(simulate, range(8))",
        )
    return mapped(function, Rows.zipped(iterables), DEFAULT)


def starmap(function: Callable[..., R], items: Iterable[Iterable[object]], /) -> Futures[R]:
    """Call a function as a task for each tuple of arguments; return the futures.

    :raises UsageError: if no workflow is running.
    """
    return mapped(function, [tuple(arguments) for arguments in items], DEFAULT)


def mapped(
    function: Callable[..., R], items: Sequence[tuple[object, ...]], options: TaskOptions
) -> Futures[R]:
    """Call a function as a task for each tuple of arguments; they travel together.

    :raises SerializationError: if the function or an argument cannot be sent.
    :raises UsageError: if no workflow is running, or this is not a function.
    """
    if not items or not callable(function) or call.running() is not None:
        return Futures([[submitted(function, args, {}, options) for args in items]])
    name = options.label or _name(function)
    if isinstance(function, Task):
        name, options = function.name, function.options
        lengths = items[:1] if isinstance(items, Rows) else items
        for args in {len(args): args for args in lengths}.values():  # one of each
            function.check(args, {})
    graph = current.graph(f"the function {name!r} was mapped")
    sent = function.sent if isinstance(function, Task) else function
    return graph.submit_many(sent, items, name=name, options=options)


def reduce(function: Callable[[Any, Any], R], items: Iterable[object], /) -> Future[R]:
    """Combine items, which may be futures, two at a time by a task; return the last future.

    The order of the items is kept. Neighbours are combined first, so that all that can run at
    the same time does: the function must be associative.

    :raises UsageError: if no workflow is running, or there are less than two items.
    """
    level = list(items)
    if len(level) < 2:
        raise UsageError(
            f"scalems.reduce() combines two items or more, and was given {len(level)}."
        )
    while len(level) > 1:
        pairs = [submit(function, *level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = [*pairs, *level[len(pairs) * 2 :]]
    last: Any = level[0]
    return last  # type: ignore[no-any-return]


def _name(function: Callable[..., object]) -> str:
    """Return what people call a function, also one without a name of its own."""
    while (inner := getattr(function, "func", None)) is not None:  # functools.partial
        function = inner
    return getattr(function, "__qualname__", None) or type(function).__qualname__
