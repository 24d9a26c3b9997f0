"""The result of a task that may not have run yet."""

from __future__ import annotations

import concurrent.futures
import sys
import weakref
from concurrent.futures._base import FINISHED
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from scalems.workflow import call, current, stamp
from scalems.workflow.answers import Answers
from scalems.workflow.argument import Attribute, Item, part_of
from scalems.workflow.lightfuture import Awaited, LightFuture, guard

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

T = TypeVar("T")

_SHOWN = 5  # tasks that are named

# What values have and futures have not: asking for it is a forgotten .result().
_REFUSED = """
    int float complex index len iter reversed contains setitem delitem call array enter
    neg pos abs invert round trunc floor ceil lt le gt ge
    add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or
    radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror
"""


_PLAIN = (int, float, complex, str, bytes)  # nobody compares a future with these on purpose


class Future(LightFuture[T]):
    """The result of a task call.

    It can be passed to other tasks as it is, alone or inside lists, tuples, dicts, sets
    and dataclasses; :meth:`result` waits for the value, and so does ``await``. It is a
    :class:`concurrent.futures.Future`, so :func:`concurrent.futures.as_completed` and
    :func:`asyncio.gather` take it. Two futures are equal only if they are the same one;
    whoever compares one with a number or a text, or formats it has forgotten ``.result()``,
    and gets a :class:`TypeError` that says so.

    Futures are made by calls of tasks, never directly.
    """

    __slots__ = (
        *("_asked", "_decoded", "_depends", "_place", "_reused", "_ran", "_started", "_withdraw"),
        *("name", "task_id"),
    )

    _path: tuple[Item | Attribute, ...] = ()

    def __init__(
        self,
        *,
        task_id: int,
        name: str,
        withdraw: Callable[[Future[T]], None] | None = None,
        place: int = 0,
    ) -> None:
        super().__init__()
        self.task_id = task_id
        """Number of the task in its run."""
        self.name = name
        """Name of the task's function."""
        self._withdraw = withdraw
        self._place = place  # in the block of calls that it was made with
        self._started = False
        self._asked = False
        self._ran: call.Outcome | None = None  # set when it has run, well or not
        self._decoded: tuple[T] | None = None
        self._depends: tuple[tuple[str, weakref.ref[Any]], ...] = ()
        self._reused = False

    def result(self, timeout: float | None = None) -> T:
        """Return the value, waiting for it.

        An exception of the task is raised as itself; its ``__cause__`` has the traceback
        of the process that it was raised in.

        :param timeout: seconds to wait at most.
        :raises concurrent.futures.TimeoutError: if there is no result by then.
        :raises concurrent.futures.CancelledError: if the task was cancelled.
        :raises TaskError: if the task was lost, or its value cannot be rebuilt here.
        :raises DependencyError: if a task that it depends on failed.
        """
        if self._decoded is None:
            try:
                value = self._result if self._state == FINISHED else None
                if value is None:
                    value = super().result(timeout)
            finally:
                self._asked = self._asked or self.done()
            # A value is decoded when it is asked for: values that only go from task to task
            # are never rebuilt in the client, which may not have their modules.
            if isinstance(value, Answers):
                self._decoded = (value.value(self._place),)
            elif isinstance(value, call.Outcome):
                self._decoded = (call.result(value),)
            else:
                return value
        self._asked = True
        return self._decoded[0]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what :meth:`result` would raise, or ``None``, waiting for the task to end.

        :raises concurrent.futures.TimeoutError: if the task has not ended by then.
        :raises concurrent.futures.CancelledError: if the task was cancelled.
        """
        try:
            error = super().exception(timeout)
        finally:
            self._asked = self._asked or self.done()
        if error is None:
            try:
                self.result()
            except Exception as undecodable:
                return undecodable
        return error

    def cancel(self) -> bool:
        """Cancel the task: it never starts, or its processes are ended if it has.

        :return: whether the task is cancelled now; ``False`` if it had already ended.
        """
        if not super().cancel():
            return False
        with guard:  # once only, whoever cancels it at the same time
            withdraw, self._withdraw = self._withdraw, None
        if withdraw is not None:
            withdraw(self)
        return True

    def running(self) -> bool:
        """Return whether the task was handed to the backend and has not ended."""
        return self._started and not self.done()

    def __await__(self) -> Generator[object, None, T]:
        import asyncio  # by then it is loaded; others need not wait for it

        return asyncio.wrap_future(self).__await__()

    def __bool__(self) -> bool:
        # concurrent.futures.wait(return_when=FIRST_EXCEPTION) asks for the truth of futures
        # (`any(f for f in done …)`) where it means their presence.
        if sys._getframe(1).f_code.co_filename == concurrent.futures._base.__file__:
            return True
        raise self._not_a_value()

    def __repr__(self) -> str:
        return f"<Future {self.name}#{self.task_id} {self._condition_word()}>"

    def __copy__(self) -> Future[T]:
        return self

    def __deepcopy__(self, memo: object) -> Future[T]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the Future of {self.name!r} cannot be sent to another process: pass it to the task "
            "as an argument (alone or in a list, tuple, dict, set or dataclass), "
            "or take its value by .result()"
        )

    def __format__(self, spec: str) -> str:
        # f"out-{future}.txt" is a forgotten .result(); str() and !r are for messages.
        raise self._not_a_value()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _PLAIN):
            raise self._not_a_value()  # `if future == 3` would be false without a word
        return self is other

    __hash__ = LightFuture.__hash__

    def __getitem__(self, key: object) -> Part:
        return Part(self, Item(key))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Part:
            if name.startswith("_"):  # what libraries ask of anything
                raise AttributeError(f"a Future has no attribute {name!r}")
            return Part(self, Attribute(name))

    # --- how it was computed --------------------------------------------------------------

    def stdout(self) -> str:
        """Return the end of what the task has written to its standard output; waits for it."""
        outcome = self._outcome()
        return outcome.stdout if outcome is not None else ""

    def stderr(self) -> str:
        """Return the end of what the task has written to its standard error; waits for it."""
        outcome = self._outcome()
        return outcome.stderr if outcome is not None else ""

    @property
    def host(self) -> str:
        """Name of the host that computed it; empty as long as it is not known."""
        outcome = self._came()
        return outcome.host if outcome is not None else ""

    @property
    def env_digest(self) -> str:
        """Content fingerprint of the environment that computed it; empty if it is not known."""
        outcome = self._came()
        return outcome.env if outcome is not None else ""

    @property
    def worker(self) -> str:
        """Name of the Worker that computed it; empty as long as it is not known."""
        computed = computed_by(self)
        return stamp.of(computed).worker if computed is not None else ""

    @property
    def software(self) -> Mapping[str, str]:
        """Versions of the site's software when it was computed, by name."""
        computed = computed_by(self)
        return stamp.of(computed).software if computed is not None else {}

    def explain(self) -> str:
        """Return how it stands with the task: what it waits for, where it ran, why it failed."""
        how = self._condition_word()
        lines = [
            f"{self.name}#{self.task_id}: {'taken from a former run' if self._reused else how}"
        ]
        outcome = self._came()
        if outcome is not None:
            took = max(0.0, outcome.ended - outcome.started)
            lines.append(f"ran on {outcome.host}, process {outcome.pid}, for {took:.3g} s")
        if outcome is not None and not self._reused:
            lines += [f"was run since {reason}" for reason in current.why(self.task_id)]
        if self.env_digest:
            lines.append(f"environment {self.env_digest[:16]}")
        others = [(name, ref()) for name, ref in self._depends]
        if others:
            shown = ", ".join(name for name, _ in others[:_SHOWN])
            more = f", and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            lines.append(f"depends on {shown}{more}")
        waits = [
            f"{name} ({one._condition_word()})"
            for name, one in others
            if one is not None and not one.done()
        ]
        if waits and how == "waiting":
            more = f", and {len(waits) - _SHOWN} more" if len(waits) > _SHOWN else ""
            lines.append(f"waits for {', '.join(waits[:_SHOWN])}{more}")
        if how == "failed":
            error = concurrent.futures.Future.exception(self)
            assert error is not None
            lines.append(call.summary(error))
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        import html

        return f"<pre>{html.escape(self.explain())}</pre>"

    def depend(self, futures: Iterable[concurrent.futures.Future[Any]]) -> None:
        """Note what it depends on, for :meth:`explain`; for the graph only."""
        self._depends = tuple(
            (f"{one.name}#{one.task_id}", weakref.ref(one))
            for one in futures
            if isinstance(one, Future)
        )

    def _outcome(self) -> call.Outcome | None:
        Awaited([self]).wait()
        return self._came()

    def _came(self) -> call.Outcome | None:
        """Return how the call has ended; ``None`` if it has not, or has not run."""
        if self._ran is None and isinstance(self._result, Answers):
            self._ran = replace(self._result.outcome(self._place), id=self.task_id)
        return self._ran

    def _sent(self) -> Any:
        """Return the value of a future that has ended well as it came: an outcome, most often."""
        value: Any = concurrent.futures.Future.result(self)
        return self._came() if isinstance(value, Answers) else value

    def _condition_word(self) -> str:
        if self.cancelled():
            return "cancelled"
        if self.done():
            return "failed" if self._failed() else "done"
        return "submitted" if self._started else "waiting"

    def _failed(self) -> bool:
        return not self.cancelled() and super().exception() is not None

    def _not_a_value(self) -> TypeError:
        return TypeError(
            f"this is the Future of {self.name!r}, not its value: "
            "call .result() to wait for the value, or pass the future to another task as it is"
        )


class Part(Future[Any]):
    """A part of the value of a future: ``future[key]`` or ``future.name``, at any depth.

    Nothing is computed for it. As an argument it is taken where the task runs, so that the
    client needs not be able to rebuild the value.
    """

    def __init__(self, whole: Future[Any], step: Item | Attribute) -> None:
        shown = f".{step.name}" if isinstance(step, Attribute) else f"[{step.key!r}]"
        super().__init__(task_id=whole.task_id, name=f"{whole.name}{shown}")
        self._whole: Future[Any] = whole._whole if isinstance(whole, Part) else whole
        self._path: tuple[Item | Attribute, ...] = (*whole._path, step)
        self._whole.add_done_callback(self._arrived)

    def _arrived(self, whole: concurrent.futures.Future[Any]) -> None:
        if whole.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        self._ran = self._whole._came()
        error = concurrent.futures.Future.exception(whole)
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(self._whole._sent())

    def result(self, timeout: float | None = None) -> Any:
        """Return the part, waiting for the value.

        :raises LookupError: the value has no such item.
        :raises AttributeError: it has no such attribute.
        :raises Exception: what :meth:`Future.result` raises.
        """
        return part_of(self._whole.result(timeout), self._path)

    def cancel(self) -> bool:
        """Cancel the task that the value is of."""
        return self._whole.cancel()

    def running(self) -> bool:
        """Return whether the task was handed to the backend and has not ended."""
        return self._whole.running()


def _refuse(self: Future[object], *args: object, **kwargs: object) -> NoReturn:
    raise self._not_a_value()


for _name in _REFUSED.split():
    setattr(Future, f"__{_name}__", _refuse)


def computed_by(future: object) -> call.Outcome | Answers | None:
    """Return what says how a value was computed; ``None`` if it has not, or was not by a call."""
    if not isinstance(future, Future):
        return None
    if future._ran is None and isinstance(future._result, Answers):
        return future._result
    return future._ran
