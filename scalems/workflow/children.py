"""Calls that a task makes: tasks that submit tasks.

A call that is asked for its value inside of the task runs there and then, in the task's own
process. Those that the task returns instead, at whatever depth of its value, are run by the
client's graph as tasks of their own, when the task has ended and its worker is free. So nothing
waits for a worker while it holds one, and one worker is enough for any depth.

Both sides import this module.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from scalems.workflow import argument, pickling
from scalems.workflow.argument import Slot
from scalems.workflow.lightfuture import LightFuture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scalems.workflow.large import Payload
    from scalems.workflow.options import TaskOptions

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ChildCall:
    """A call that a task has made and not asked for."""

    name: str
    payload: Payload
    """The function and its arguments; other calls in these are slots."""
    options: TaskOptions
    uses: tuple[int, ...]
    """What the slots stand for: places in :attr:`Unasked.calls`, further behind."""


@dataclass(frozen=True, kw_only=True)
class Unasked:
    """What the value of a task still waits for."""

    calls: tuple[ChildCall, ...]
    uses: tuple[int, ...]
    """What the slots in the value stand for."""
    whole: bool
    """Whether the value is that of one call, and nothing around it."""


@dataclass
class _Collected:
    children: list[Child[Any]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)


_collected: _Collected | None = None  # while a value is pickled


class Child(LightFuture[T]):
    """The future of a call that was made inside of a task."""

    def __init__(
        self,
        function: Callable[..., T],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        name: str,
        options: TaskOptions,
    ) -> None:
        super().__init__()
        self.name = name
        self.options = options
        self.call = (function, tuple(args), dict(kwargs))
        self._running = threading.RLock()

    def demand(self) -> None:
        """Run it here and now, if it has not run."""
        with self._running:
            if self.done():
                return
            function, args, kwargs = self.call
            try:
                for one in argument.futures_in(*args, *kwargs.values()):
                    one.exception()
                args, kwargs = argument.resolved((args, kwargs))
                self.set_result(function(*args, **kwargs))
            except Exception as error:
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> T:
        """Return the value; the call runs here and now, if it has not run."""
        self.demand()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what it has raised; the call runs here and now, if it has not run."""
        self.demand()
        return super().exception(timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.done():
            return argument.part_of, (self.result(), ())  # the value itself
        if _collected is None:
            raise TypeError(f"the future of {self.name!r} cannot be sent: return it from the task")
        if self not in _collected.children:
            _collected.children.append(self)
        place = _collected.children.index(self)
        if place not in _collected.used:
            _collected.used.append(place)
        return Slot, (_collected.used.index(place),)

    def __repr__(self) -> str:
        return f"<Future {self.name} {'done' if self.done() else 'not asked for'}>"


def encoded(value: object, encode: Callable[[], Payload]) -> tuple[Payload, Unasked | None]:
    """Pickle the value of a task; return what it still waits for, if it does.

    :param encode: pickles it.
    """
    global _collected
    _collected = collected = _Collected()
    try:
        data = encode()
        if not collected.children:
            return data, None
        uses = tuple(collected.used)
        calls = []
        for child in collected.children:  # grows while it is read
            collected.used = []
            function, args, kwargs = child.call
            payload = pickling.encode(function, args, kwargs)
            calls.append(
                ChildCall(
                    name=child.name,
                    payload=payload,
                    options=child.options,
                    uses=tuple(collected.used),
                )
            )
        whole = isinstance(value, Child)
        return data, Unasked(calls=tuple(calls), uses=uses, whole=whole)
    finally:
        _collected = None
