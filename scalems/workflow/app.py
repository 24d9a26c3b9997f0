"""The entry point of a workflow."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import shlex
import sys
from typing import TYPE_CHECKING, TypeVar, overload

from scalems.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F = TypeVar("F", bound="Callable[[], object]")

_made: contextvars.ContextVar[list[App] | None] = contextvars.ContextVar("_made", default=None)


class App:
    """The function that a backend runs; made by :func:`app`."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        """The function itself."""
        functools.update_wrapper(self, function)
        made = _made.get()
        if made is not None:
            made.append(self)

    def __call__(self) -> object:
        """Refuse: it is a backend that runs the app.

        :raises UsageError: always, with the command that runs it.
        """
        raise UsageError(
            f"The app {self.function.__qualname__!r} was called as a function.",
            remedy=f"remove the call, and run the script by: {command()}",
        )

    def run(self) -> object:
        """Run the function to its end, on an event loop if it is ``async``."""
        if inspect.iscoroutinefunction(self.function):
            import asyncio  # only now: its import takes as long as all of ours

            return asyncio.run(self.function())
        return self.function()

    @property
    def line(self) -> int:
        """Line of the script that it begins at."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return getattr(code, "co_firstlineno", 0)

    def __repr__(self) -> str:
        return f"<App {self.function.__module__}.{self.function.__qualname__}>"


@overload
def app(function: Callable[[], object]) -> App: ...


@overload
def app() -> Callable[[Callable[[], object]], App]: ...


def app(
    function: Callable[[], object] | None = None,
) -> App | Callable[[Callable[[], object]], App]:
    """Mark the function that a backend runs: the entry point of the script.

    It takes no arguments (options are in ``sys.argv``) and may be ``async``.

    .. code-block:: python

        @scalems.app
        def main() -> None: ...

    :raises UsageError: if it is not a function, or needs arguments.
    """
    if function is None:
        return app
    name = getattr(function, "__qualname__", repr(function))
    if not (inspect.isfunction(function) or inspect.isbuiltin(function)):
        raise UsageError(
            f"@scalems.app marks a function, and {name} is of type {type(function).__name__}.",
            remedy="give @scalems.app and @scalems.task each a function of its own",
        )
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise UsageError(
            f"The app {name!r} needs arguments, and it is called with none.",
            remedy=f"define it as `def {name}():` and take options from sys.argv, "
            "e.g. with argparse",
        ) from None
    return App(function)


def command() -> str:
    """Return a command that runs the script of this process."""
    script = sys.argv[0] if sys.argv and sys.argv[0].endswith(".py") else "SCRIPT.py"
    return f"python -m scalems.local {shlex.quote(script)}"


@contextlib.contextmanager
def collected() -> Iterator[list[App]]:
    """Collect the apps that are made inside of this context, shadowed ones too."""
    made: list[App] = []
    token = _made.set(made)
    try:
        yield made
    finally:
        _made.reset(token)
