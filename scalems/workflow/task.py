"""Functions whose calls are run by a backend."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import cloudpickle

from scalems.errors import UsageError
from scalems.workflow import call, current
from scalems.workflow.app import App
from scalems.workflow.options import DEFAULT, TaskOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scalems.workflow.future import Future

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function whose calls give futures; made by :func:`task`."""

    def __init__(self, function: Callable[P, R], *, options: TaskOptions = DEFAULT) -> None:
        self.function = function
        """The function itself: call it to run it here and now, e.g. in a unit test."""
        self.options = options
        """How its calls are run."""
        functools.update_wrapper(self, function)

    def __call__(self, *args: object, **kwargs: object) -> Future[R]:
        """Submit a call of the function and return at once.

        Futures among the arguments, at any depth of lists, tuples, dicts, sets and
        dataclasses, are replaced by their values when those are there. Everything else is
        taken as it is now. Inside of another task this is a plain call, whose value is
        returned; :func:`scalems.submit` makes tasks there.

        :raises TypeError: if the function does not take these arguments.
        :raises SerializationError: if the function or an argument cannot be sent.
        :raises UsageError: if no workflow is running.
        """
        if call.running() is not None:
            plain: Callable[..., Any] = self.function
            return plain(*args, **kwargs)  # type: ignore[no-any-return]
        self.check(args, kwargs)
        graph = current.graph(f"the task {self.function.__qualname__!r} was called")
        return graph.submit(self.sent, args, kwargs, name=self.name, options=self.options)

    @property
    def name(self) -> str:
        """Name of its calls."""
        return self.options.label or self.function.__qualname__

    @property
    def sent(self) -> Callable[..., Any]:
        """What travels: what the far side finds by its name goes as a name, the rest by value."""
        return self if _is_importable(self) else self.function

    def with_options(self, **changes: Any) -> Task[P, R]:
        """Return the same task with other options, see :func:`task`.

        .. code-block:: python

            simulate.with_options(timeout=600, retries=2)(seed)

        :raises UsageError: there is no such option, or a value cannot be what was meant.
        """
        return Task(self.function, options=self.options.replaced(**changes))

    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<Task {self.function.__module__}.{self.function.__qualname__}>"

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        if _is_importable(self):
            return self.function.__qualname__
        # Made empty and filled afterwards, since a function's globals may hold its own task.
        return object.__new__, (Task,), self.__dict__

    def check(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Check arguments.

        :raises TypeError: the function does not take them.
        """
        try:
            signature = _signature(self.function)
        except (TypeError, ValueError):
            return  # a function of C that tells no signature
        try:
            signature.bind(*args, **kwargs)
            return
        except TypeError as error:
            mistake = error
        _call_stub(self.function.__qualname__, signature, args, kwargs)
        raise mistake


@functools.lru_cache(maxsize=1000)
def _signature(function: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(function)


@overload
def task(function: Callable[P, R]) -> Task[P, R]: ...


@overload
def task(
    *,
    cache: bool = True,
    retries: int | None = None,
    timeout: float | None = None,
    resources: Mapping[str, int] | None = None,
    **options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(
    function: Callable[P, R] | None = None,
    *,
    cache: bool = True,
    retries: int | None = None,
    timeout: float | None = None,
    resources: Mapping[str, int] | None = None,
    **options: Any,
) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
    """Make calls of a function run on the backend of the workflow and return futures.

    .. code-block:: python

        @scalems.task
        def simulate(seed: int, temperature: float = 300.0) -> float: ...

        @scalems.task(resources={"ranks": 4, "cores_per_rank": 2}, timeout=3600)
        def parallel() -> float: ...

    :param cache: whether a call that has finished in a former run is not run again. Without
        it, each run runs it: for what depends on the time, or is there for what it does
        rather than for what it returns.
    :param retries: how often a call that failed is run again, after a pause that doubles; by
        default what the run says (``--retries``), which is 0.
    :param timeout: seconds that a call may run; then its processes are ended, and it fails by
        :class:`~scalems.errors.TaskTimeout`.
    :param resources: ``ranks``, ``cores_per_rank`` and ``gpus_per_rank``. They may be given by
        themselves too, as ``task(ranks=4)``.
    :param options: the others of :class:`~scalems.workflow.options.TaskOptions`: ``env``,
        ``cwd``, ``memory``, ``cpu_time``, ``seed``, ``priority``, ``tags``, ``label``,
        ``on_error``, ``backoff``.
    :raises UsageError: if it is not a plain function, or an option cannot be what was meant.
    """
    if function is None:
        chosen = DEFAULT.replaced(
            cache=cache, retries=retries, timeout=timeout, resources=resources, **options
        )
        return lambda function: _task(function, chosen)
    return _task(function, DEFAULT)


def _task(function: Callable[P, R], options: TaskOptions) -> Task[P, R]:
    if isinstance(function, Task):
        return function
    name = getattr(function, "__qualname__", None)
    other = isinstance(function, (type, App, staticmethod, classmethod))
    if other or name is None or not callable(function):
        raise UsageError(
            f"@scalems.task marks functions, and {name or repr(function)} is of type "
            f"{type(function).__name__}.",
            remedy="put the decorator on a plain function (below @staticmethod, not above it)",
        )
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        kind = "an async" if inspect.iscoroutinefunction(function) else "a generator"
        raise UsageError(
            f"{name} is {kind} function, and a task must be a plain one.",
            remedy="return the value, or a list of all the values"
            + ("; call asyncio.run() inside of the task" if kind == "an async" else ""),
        )
    return Task(function, options=options)


def _is_importable(target: Task[P, R]) -> bool:
    """Return whether the far side finds this very object by its module and name."""
    name = getattr(target, "__module__", None) or "__main__"
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return False
    by_value = cloudpickle.list_registry_pickle_by_value()
    if any(name == other or name.startswith(f"{other}.") for other in by_value):
        return False
    found: object = module
    for part in target.function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is target


def _call_stub(
    name: str, signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Call an empty function of that signature, so that Python words the mistake itself."""
    empty = inspect.Parameter.empty
    parameters = [
        parameter.replace(annotation=empty, default=empty if parameter.default is empty else None)
        for parameter in signature.parameters.values()
    ]
    plain = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    namespace: dict[str, Any] = {}
    exec(f"def stub{plain}: pass", namespace)
    namespace["stub"].__qualname__ = name
    namespace["stub"](*args, **kwargs)
