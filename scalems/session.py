"""One way in from plain Python, asyncio and notebooks, whatever the backend.

.. code-block:: python

    with scalems.Session() as session:
        values = scalems.gather(scalems.map(simulate, range(8)))

    async with scalems.Session("radical", resource="local.localhost", venv="task"):
        print(await simulate(7))

    values = scalems.run(main, backend="radical", resource="local.localhost", venv="task")
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any, Literal, get_args

from scalems import executor
from scalems.errors import UsageError
from scalems.workflow import argument, call, calls, current, gathering
from scalems.workflow.app import App
from scalems.workflow.policy import FailurePolicy, OnError
from scalems.workflow.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BackendName = Literal["local", "inline", "radical"]


class Session(executor.Executor):
    """Runs calls on a backend: those of :meth:`submit` and :meth:`map`, and inside of ``with``
    those of tasks, :func:`scalems.submit`, :func:`scalems.map` and their like.

    Nothing is started before the first call. In a notebook, ``open()`` and ``close()``
    stand for the two ends of ``with``.

    :param backend: ``local``: processes of this machine; ``inline``: this process, one call
        after the other, for debuggers; ``radical``: RADICAL-Pilot.
    :param resource: label of the resource that the Task venv is of, such as ``local.localhost``;
        on ``radical`` several, for a pilot on each.
    :param venv: name of the Task venv to run calls in; ``local`` without it runs them in this
        Python, and ``radical`` needs both.
    :param store: folder where results are kept, and taken from if a call has finished before;
        without it they are not kept.
    :param rerun: take no results of former runs, only keep new ones.
    :param on_error: when a call fails, ``continue`` with the others, or ``stop`` all: then
        those that run are ended, and the results of the others raise
        :class:`~scalems.errors.RunStopped`.
    :param retries: how often a call that failed is run again, if it does not say so itself.
    :param options: all others of the backend's command, by their names in Python:
        ``max_workers=2``, ``nodes=2``, ``queue="short"``, ``parity="warn"``,
        ``pilot_option={"exit_on_error": False}``; see ``python -m scalems.local --help``.
    :raises UsageError: there is no such backend or option, resource or Task venv.
    :raises EnvironmentNotReady: the environments are not what was built.
    """

    def __init__(
        self,
        backend: BackendName = "local",
        *,
        resource: str | Sequence[str] | None = None,
        venv: str | None = None,
        store: str | os.PathLike[str] | None = None,
        rerun: bool = False,
        on_error: OnError = "continue",
        retries: int = 0,
        **options: Any,
    ) -> None:
        policy = FailurePolicy(on_error=on_error, retries=retries)
        if backend not in get_args(BackendName):
            near = difflib.get_close_matches(str(backend), get_args(BackendName), n=1)
            raise UsageError(
                f"there is no backend {backend!r}"
                + (f" (did you mean {near[0]!r}?)" if near else ""),
                remedy=f"the backends are {', '.join(get_args(BackendName))}",
            )
        given = executor.given({"resource": resource, "venv": venv, **options})
        if backend == "inline":
            given["inline"] = True
        # Loaded when it is chosen: RADICAL-Pilot's client takes a while.
        chosen = importlib.import_module(
            "scalems.radical" if backend == "radical" else "scalems.local"
        )
        super().__init__(
            chosen.make_parser(), chosen.make_backend, given, store, rerun=rerun, policy=policy
        )


def run(
    function: Callable[..., Any], /, *args: object, backend: str = "local", **options: Any
) -> Any:
    """Run a function that calls tasks, as :func:`asyncio.run` does, and return its value.

    .. code-block:: python

        if __name__ == "__main__":
            print(scalems.run(main, 8, backend="local", max_workers=2))

    It runs in a :class:`Session` of its own, which has ended when this returns. Futures in the
    value are waited for, and replaced by their values. So ``python script.py`` runs such a
    script; under ``python -m scalems.radical script.py`` and its like the same call runs on the
    backend of the command, whose options hold then in place of those that are given here.

    :param function: an app, a task, or any function, which may be ``async``.
    :param args: of the function; it gets no keywords, for those are for the session.
    :param backend: as of :class:`Session`.
    :param options: as of :class:`Session`: ``resource``, ``venv``, ``store``, ``retries``, …
    :raises UsageError: there is no such option, or this is inside of a task.
    :raises EnvironmentNotReady: the environments are not what was built.
    :raises Exception: what the function raises, or a task whose future it returns.
    """
    if call.running() is not None:
        raise UsageError(
            "scalems.run() was called inside of a task.",
            remedy="call the function itself, or scalems.submit() to make a task of it",
        )
    graph = current.taken()
    if graph is not None:
        with current.activated(graph):
            return _value(function, args)
    chosen: Any = backend
    with Session(chosen, **options):
        return _value(function, args)


def _value(function: Callable[..., Any], args: Sequence[object]) -> Any:
    """Return what a function returns, with the values of futures in it."""
    plain = function.function if isinstance(function, App) else function
    if not callable(plain):
        raise UsageError(
            f"scalems.run() takes a function and its arguments, not a {type(plain).__name__}.",
            remedy="write e.g. scalems.run(main, 8), not scalems.run(main(8))",
        )
    if isinstance(plain, Task):
        value: Any = calls.submit(plain, *args)
    elif inspect.iscoroutinefunction(plain):
        import asyncio  # which others need not wait for

        value = asyncio.run(plain(*args))
    else:
        value = plain(*args)
    gathering.gather(argument.futures_in(value))
    return argument.resolved(value)
