"""One call as it travels: encoded by the client, executed by a call process, decoded again.

This module runs on both sides. On the far side (a call process in a Task venv) it
needs the standard library and cloudpickle, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalems.errors import TaskError, TaskLost, TaskTimeout
from scalems.workflow import children, file, stamp
from scalems.workflow.large import LARGE, Payload, loads
from scalems.workflow.needs import NONE, Needs
from scalems.workflow.pickler import dumps
from scalems.workflow.pickling import LEAVES, decode, plainly, text_of
from scalems.workflow.pickling import Encoded as Encoded
from scalems.workflow.pickling import encode as encode
from scalems.workflow.pickling import encode_apart as encode_apart
from scalems.workflow.pickling import encode_value as encode_value
from scalems.workflow.pickling import summary as summary
from scalems.workflow.stamp import hostname as hostname

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from scalems.workflow.children import Unasked

    Ran = tuple[bool, Payload, tuple[str, ...], Unasked | None]
    """What a call has given: whether it went well; the pickled value or :class:`Failure`; digests
    of files in it; calls in it that the task has made."""

ENV_VARIABLE = "SCALEMS_ENV_DIGEST"
"""Names the verified environment to the call processes; every outcome is stamped with it."""

LOST = TaskLost.__name__
"""Type of a :class:`Failure` whose process ended before the call did."""

TIMEOUT = TaskTimeout.__name__
"""Type of a :class:`Failure` of a call that has run for too long."""

CANCELLED = CancelledError.__name__
"""Type of a :class:`Failure` of a call that was cancelled."""

_TEXT_LIMIT = 200_000
_SIZED = (bytes, str)
_OURS = __file__.removesuffix("call.py")  # frames of these modules tell a user nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A function call as a backend gets it."""

    id: int
    """Unique in the run."""
    name: str
    """Name of the function, for people."""
    payload: Payload
    """The function and its arguments, from :func:`encode`; the arguments if `function` is set.
    See ``scalems.workflow.large`` for its form."""
    timeout: float | None = None
    """Seconds that it may run."""
    area: str = ""
    """Where the files of its run are, see ``scalems.workflow.file.area``."""
    needs: Needs = NONE
    """What it needs around it."""
    items: range | None = None
    """Of a block of calls (``scalems.workflow.block``): which of those in the payload are meant."""
    item: int | None = None
    """Of a call that was one of a block: its position there."""
    function: bytes = b""
    """The function, from ``encode_apart``: the same object for all calls of it, so it is kept
    once, and sent once in a message."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a backend gives back: exactly one for each call."""

    id: int
    ok: bool
    payload: Payload
    """The pickled value, or the pickled :class:`Failure`; read it with :func:`result`."""
    stdout: str = ""
    """The end of what was written to file descriptor 1 during the call."""
    stderr: str = ""
    """The end of what was written to file descriptor 2 during the call."""
    host: str
    pid: int
    started: float
    """Seconds since the epoch, by the clock of the host."""
    ended: float
    env: str = ""
    """Fingerprint of the environment that computed it; empty when that is unmanaged."""
    stamp: str = ""
    """The Worker that computed it and its software, see ``scalems.workflow.stamp``."""
    files: tuple[str, ...] = ()
    """Digests of the files that the value refers to, and that are kept with the results."""
    item: int | None = None
    """Position in the block, if the call was one of a block."""
    unasked: Unasked | None = None
    """Calls that the task has made, and whose values are still to be put into its value."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a call has no value."""

    type: str
    """Name of the exception's class, or :data:`LOST`, or :data:`CANCELLED`."""
    message: str
    traceback: str = ""
    exception: bytes | None = None
    """The pickled exception, where it could be pickled."""


class RemoteTraceback(Exception):
    """Carries the text of a traceback from another process, as the cause of the exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


_running: Call | None = None
_ALONE = contextlib.nullcontext()


def running() -> Call | None:
    """Return the call that this process is executing, also to the threads of that call."""
    return _running


class marked:
    """Make a call what :func:`running` returns, as long as the context is open."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        global _running
        _running = self._call

    def __exit__(self, *exception: object) -> None:
        global _running
        _running = None


def execute(call: Call, *, before: Callable[[], None] | None = None, once: bool = False) -> Outcome:
    """Run a call in this process; ``scalems.workflow.mpi`` does so on several ranks.

    Nothing is raised: whatever the function does short of ending the process becomes
    an outcome.

    :param before: done first, as a part of the call.
    :param once: the payload is dropped when it has been decoded, so that a large argument is not
        held twice while the function runs.
    """

    def run() -> object:
        with _ALONE if call.needs is NONE else call.needs.applied():
            if before is not None:
                before()
            function, args, kwargs = decode(call.payload, call.function)
            if once:
                object.__setattr__(call, "payload", b"")  # whoever else holds the call
            return function(*args, **kwargs)

    started = time.time()
    with marked(call), file.using(call.area):
        ok, payload, files, unasked = ran(call.name, run)
    return Outcome(
        id=call.id,
        item=call.item,
        ok=ok,
        payload=payload,
        host=hostname(),
        pid=os.getpid(),
        started=started,
        ended=time.time(),
        env=os.environ.get(ENV_VARIABLE, ""),
        stamp=stamp.here(),
        files=files,
        unasked=unasked,
    )


def ran(name: str, run: Callable[[], object]) -> Ran:
    """Do what a call does; nothing is raised.

    :param name: of the function, for people.
    """
    try:
        return packed(name, run())
    except BaseException as error:
        return broken(error)


def packed(name: str, value: object) -> Ran:
    """Return what a call has given that has returned a value.

    :param name: of the function, for people.
    :raises SerializationError: naming the part of the value that cannot travel.
    """
    if type(value) in LEAVES and (type(value) not in _SIZED or len(value) < LARGE):  # type: ignore[arg-type]
        return True, pickle.dumps(value, protocol=5), (), None
    if (payload := plainly(value)) is not None:
        return True, payload, (), None
    (payload, unasked), files = file.travelled(
        lambda: children.encoded(value, lambda: encode_value(name, value))
    )
    return True, payload, files, unasked


def broken(error: BaseException) -> Ran:
    """Return what a call has given that has raised an exception."""
    return False, _encode_failure(failure_of(error)), (), None


def result(outcome: Outcome) -> Any:
    """Return the value of a call, or raise what it raised.

    The exception comes back as itself, its cause being a :class:`RemoteTraceback`.

    :raises TaskError: if the value or the exception cannot be rebuilt in this process.
    :raises TaskLost: if the process ended before the call did.
    :raises TaskTimeout: if it has run for too long.
    :raises concurrent.futures.CancelledError: if the call was cancelled.
    """
    if outcome.ok:
        try:
            return loads(outcome.payload)
        except TaskError:
            raise
        except Exception as error:
            raise TaskError(
                f"The call succeeded, but its value cannot be rebuilt here: {summary(error)}",
                remedy="return plain Python or NumPy values, or install the missing package "
                "in the client's environment too",
            ) from error
    failure = failure_in(outcome)
    if failure.type == CANCELLED:
        raise CancelledError(failure.message)
    if failure.type == LOST:
        raise TaskLost(failure.message)
    if failure.type == TIMEOUT:
        raise TaskTimeout(failure.message)
    raise _exception_of(failure) from RemoteTraceback(failure.traceback)


def failure_in(outcome: Outcome) -> Failure:
    """Return the failure that an outcome carries."""
    failure = loads(outcome.payload)
    if not isinstance(failure, Failure):  # pragma: no cover - an outcome that is not ours
        raise TaskError(f"An outcome carries {type(failure).__name__} in place of a failure.")
    return failure


def failed(
    call: Call, failure: Failure, *, pid: int = 0, started: float | None = None, env: str = ""
) -> Outcome:
    """Make the outcome of a call that could not report one itself."""
    now = time.time()
    return Outcome(
        id=call.id,
        item=call.item,
        ok=False,
        payload=_encode_failure(failure),
        host=hostname(),
        pid=pid,
        started=now if started is None else started,
        ended=now,
        env=env,
    )


def failure_of(error: BaseException) -> Failure:
    """Describe an exception; its traceback starts at the first frame that is not ours."""
    # SystemExit and its like must fail the task, not end the client that reads it.
    exception = _pickled(error) if isinstance(error, Exception) else None
    name = type(error).__qualname__
    message = text_of(error)
    if isinstance(error, SystemExit):
        message = f"the function called sys.exit({error.code!r})"
    return Failure(
        type=name,
        message=message[-_TEXT_LIMIT:],
        traceback=_trace(error)[-_TEXT_LIMIT:],
        exception=exception,
    )


class _Rebuilt:
    """An exception that its class does not make anew from its arguments, or that holds something
    that cannot travel: as :func:`pickle.loads` gives it without a call of ``__init__``."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self._error)
        args = [one if _can_travel(one) else repr(one) for one in self._error.args]
        held = {key: one for key, one in vars(self._error).items() if _can_travel(one)}
        return kind.__new__, (kind, *args), held


def _pickled(error: Exception) -> bytes | None:
    """Pickle an exception, so that it can be made anew; ``None`` if its class cannot travel."""
    for how in (error, _Rebuilt(error)):
        try:
            data = dumps(how)
            if type(pickle.loads(data)) is type(error):
                return data
        except Exception:  # e.g. a class whose __init__ does not take its own args
            continue
    return None


def _can_travel(value: object) -> bool:
    try:
        pickle.loads(dumps(value))
    except Exception:
        return False
    return True


def _encode_failure(failure: Failure) -> bytes:
    return pickle.dumps(failure, protocol=5)


def _exception_of(failure: Failure) -> BaseException:
    if failure.exception is not None:
        try:
            error = pickle.loads(failure.exception)
        except Exception:
            error = None  # e.g. its module is not here
        if isinstance(error, Exception):
            return error
    return TaskError(f"{failure.type}: {failure.message}")


def _trace(error: BaseException) -> str:
    import traceback

    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        return summary(error)
