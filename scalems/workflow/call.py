"""One call as it travels: encoded by the client, executed by a call process, decoded again.

This module runs on both sides. On the far side (a call process in a Task venv) it
needs the standard library and cloudpickle, and nothing else.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import socket
import time
import traceback
import types
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cloudpickle

from scalems.errors import SerializationError, TaskError, TaskLost, TaskTimeout
from scalems.workflow import code, file, shipping
from scalems.workflow.needs import NONE, Needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

ENV_VARIABLE = "SCALEMS_ENV_DIGEST"
"""Names the verified environment to the call processes; every outcome is stamped with it."""

LOST = TaskLost.__name__
"""Type of a :class:`Failure` whose process ended before the call did."""

TIMEOUT = TaskTimeout.__name__
"""Type of a :class:`Failure` of a call that has run for too long."""

CANCELLED = CancelledError.__name__
"""Type of a :class:`Failure` of a call that was cancelled."""

_TEXT_LIMIT = 200_000
_FUNCTIONS = 1000  # functions that are kept ready
_OURS = __file__.removesuffix("call.py")  # frames of these modules tell a user nothing


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function call as a backend gets it."""

    id: int
    """Unique in the run."""
    name: str
    """Name of the function, for people."""
    payload: bytes
    """The function and its arguments, from :func:`encode`."""
    timeout: float | None = None
    """Seconds that it may run."""
    area: str = ""
    """Where the files of its run are, see ``scalems.workflow.file.area``."""
    needs: Needs = NONE
    """What it needs around it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a backend gives back: exactly one for each call."""

    id: int
    ok: bool
    payload: bytes
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
    files: tuple[str, ...] = ()
    """Digests of the files that the value refers to, and that are kept with the results."""


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


def encode(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> bytes:
    """Pickle a call.

    What is defined in the script travels by value, and so does what is in modules that the far
    side does not have, see :mod:`scalems.workflow.shipping`.

    :raises SerializationError: naming the argument or the variable that cannot travel.
    """
    shipping.choose()
    try:
        pickled = _pickled(function)
        if pickled is not None and _LEAVES.issuperset(map(type, (*args, *kwargs.values()))):
            return pickle.dumps((pickled, tuple(args), dict(kwargs)), protocol=5)
        return _dumps((pickled or function, tuple(args), dict(kwargs)))
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise _serialization_error(name, _parts(function, args, kwargs), error) from error


def decode(payload: bytes) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function and the arguments that :func:`encode` was given."""
    function, args, kwargs = pickle.loads(payload)
    if type(function) is bytes:
        function = _function(function)
    return function, args, kwargs


_LEAVES = frozenset({bool, int, float, complex, str, bytes, type(None)})
_made: dict[int, tuple[object, bytes, list[Any]]] = {}


def _pickled(function: Callable[..., object]) -> bytes | None:
    """Return the pickle of a function that can be made once for many calls.

    ``None``: it uses what may change from call to call, here or on the far side.
    """
    if not isinstance(function, types.FunctionType):
        return None
    known = _made.get(id(function))
    if known is not None and known[0] is function and code.unchanged(known[2]):
        return known[1]
    if code.is_installed(function.__module__) or (used := code.used_by(function)) is None:
        return None
    pickled = _dumps(function)
    if len(_made) >= _FUNCTIONS:
        _made.pop(next(iter(_made)))
    _made[id(function)] = (function, pickled, used)
    return pickled


@lru_cache(maxsize=_FUNCTIONS)
def _function(pickled: bytes) -> Callable[..., object]:
    function: Callable[..., object] = pickle.loads(pickled)
    return function


_running: Call | None = None
_ALONE = contextlib.nullcontext()


def running() -> Call | None:
    """Return the call that this process is executing, also to the threads of that call."""
    return _running


def execute(call: Call, *, before: Callable[[], None] | None = None) -> Outcome:
    """Run a call in this process; ``scalems.workflow.mpi`` does so on several ranks.

    Nothing is raised: whatever the function does short of ending the process becomes
    an outcome.

    :param before: done first, as a part of the call.
    """
    global _running
    started = time.time()
    _running = call
    files: tuple[str, ...] = ()
    try:
        with file.using(call.area), _ALONE if call.needs is NONE else call.needs.applied():
            if before is not None:
                before()
            function, args, kwargs = decode(call.payload)
            value = function(*args, **kwargs)
            payload, files = file.travelled(lambda: encode_value(call.name, value))
        ok = True
    except BaseException as error:
        ok, payload = False, _encode_failure(failure_of(error))
    finally:
        _running = None
    return Outcome(
        id=call.id,
        ok=ok,
        payload=payload,
        host=hostname(),
        pid=os.getpid(),
        started=started,
        ended=time.time(),
        env=os.environ.get(ENV_VARIABLE, ""),
        files=files,
    )


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
            return pickle.loads(outcome.payload)
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
    failure = pickle.loads(outcome.payload)
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
    exception: bytes | None = None
    if isinstance(error, Exception):
        # SystemExit and its like must fail the task, not end the client that reads it.
        try:
            exception = _dumps(error)
        except Exception:
            exception = None
    name = type(error).__qualname__
    message = _text(error)
    if isinstance(error, SystemExit):
        message = f"the function called sys.exit({error.code!r})"
    return Failure(
        type=name,
        message=message[-_TEXT_LIMIT:],
        traceback=_trace(error)[-_TEXT_LIMIT:],
        exception=exception,
    )


def summary(error: BaseException) -> str:
    """Return `Type: message`, also for an exception whose message cannot be made."""
    text = _text(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


@lru_cache(maxsize=1)
def hostname() -> str:
    """Return the name of this host; in a job of Slurm, the name that Slurm has for the node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _dumps(value: object) -> bytes:
    data: bytes = cloudpickle.dumps(value, protocol=5)  # 5 is common to every Python we support
    return data


def encode_value(name: str, value: object) -> bytes:
    """Pickle the value of a call.

    :param name: name of the function, for people.
    :raises SerializationError: naming the part that cannot travel.
    """
    try:
        return _dumps(value)
    except Exception as error:
        raise _serialization_error(name, [("the result", value)], error) from error


def _encode_failure(failure: Failure) -> bytes:
    return pickle.dumps(failure, protocol=5)


def _exception_of(failure: Failure) -> BaseException:
    if failure.exception is not None:
        try:
            error = pickle.loads(failure.exception)
        except Exception:
            error = None  # e.g. a class whose __init__ does not take its own args
        if isinstance(error, Exception):
            return error
    return TaskError(f"{failure.type}: {failure.message}")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be made)"


def _trace(error: BaseException) -> str:
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        return summary(error)


# --- what cannot travel -------------------------------------------------------------------


def _parts(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> Iterator[tuple[str, object]]:
    """Yield all that a call is made of, each under the name that its author knows."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    for index, value in enumerate(args):
        name = names[index] if index < len(names) else str(index)
        yield f"argument {name!r}", value
    for name, value in kwargs.items():
        yield f"argument {name!r}", value
    try:
        variables = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):
        return
    for name, value in variables.nonlocals.items():
        yield f"enclosing variable {name!r}", value
    for name, value in variables.globals.items():
        yield f"global variable {name!r}", value


def _serialization_error(
    name: str, parts: Iterator[tuple[str, object]] | Sequence[tuple[str, object]], error: Exception
) -> SerializationError:
    for label, value in parts:
        if not _travels(value):
            place, culprit = _innermost(label, value)
            what = f"{place} ({type(culprit).__name__}) cannot be sent to another process"
            break
    else:
        what = "it cannot be sent to another process"
    return SerializationError(
        f"{name}: {what}: {summary(error)}",
        remedy="make the object inside the function, or pass plain data or a file name instead",
    )


def _travels(value: object) -> bool:
    try:
        _dumps(value)
    except Exception:
        return False
    return True


def _innermost(label: str, value: object, depth: int = 5) -> tuple[str, object]:
    """Follow an object that cannot travel down to its part that cannot."""
    inner: Iterator[tuple[str, object]]
    if isinstance(value, dict):
        inner = ((f"{label}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        inner = ((f"{label}[{index}]", item) for index, item in enumerate(value))
    else:
        attributes = getattr(value, "__dict__", None)
        items = attributes.items() if isinstance(attributes, dict) else ()
        inner = ((f"{label}.{key}", item) for key, item in items)
    if depth:
        for place, item in inner:
            if not _travels(item):
                return _innermost(place, item, depth - 1)
    return label, value
