"""What travels, as bytes: functions, arguments and values; and what cannot, by its name.

This module runs on both sides. On the far side (a call process in a Task venv) it
needs the standard library and cloudpickle, and nothing else.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import types
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from scalems.errors import SerializationError
from scalems.workflow import code, shipping
from scalems.workflow.large import LARGE, Payload, apart, loads
from scalems.workflow.large import dumps as encoded
from scalems.workflow.packages import carried, travelling
from scalems.workflow.pickler import dumps as dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

LEAVES = frozenset({bool, int, float, complex, str, bytes, type(None)})
"""Types whose objects hold nothing that could change, or that pickle might miss."""

_NUMPY = frozenset(
    {"ndarray", "bool", "bool_", "int32", "int64", "float32", "float64", "complex128"}
)
"""Names of NumPy's types whose objects hold nothing but numbers, most often."""

_FUNCTIONS = 1000  # functions that are kept ready
_APART = 1 << 16  # bytes of a function up to which it travels apart from its calls


class Encoded(NamedTuple):
    """A call as it travels."""

    payload: Payload
    """The arguments, and the function if it is not apart; large ones beside their pickle."""
    function: bytes = b""
    """The function, if all calls of it can share the same bytes."""


def encode(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> Payload:
    """Pickle a call as a whole, see ``encode_apart``."""
    return _encode(function, args, kwargs, shared=False).payload


def encode_apart(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> Encoded:
    """Pickle a call, the function apart from it if many calls can share its bytes.

    What is defined in the script travels by value; what is in modules that the far side does not
    have travels too, see ``scalems.workflow.shipping``.

    :raises SerializationError: naming the argument or the variable that cannot travel.
    """
    return _encode(function, args, kwargs, shared=True)


def _encode(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    *,
    shared: bool,
) -> Encoded:
    shipping.choose()
    args, kwargs = tuple(args), dict(kwargs)
    try:
        pickled = _pickled(function)
        if pickled is None:
            return Encoded(encoded((carried(function), args, kwargs)))
        shared = shared and len(pickled) <= _APART
        if not shared and travelling():  # the function comes first, and with it what it needs
            return Encoded(encoded((carried(function), args, kwargs)))
        call = (args, kwargs) if shared else (pickled, args, kwargs)
        plain = is_plain(args) and is_plain(kwargs)
        data = _plainly(call) if plain else encoded(call)
        return Encoded(data, pickled if shared else b"")
    except Exception as error:
        raise _cannot_travel(function, args, error, kwargs) from error


def _plainly(value: object) -> Payload:
    data = pickle.dumps(value, protocol=5)
    return data if len(data) < LARGE else apart(data)


def decode(
    payload: Payload, pickled: bytes = b""
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function and the arguments that were encoded.

    :param pickled: the function, if it is apart.
    """
    if pickled:
        return (shared(pickled), *loads(payload))
    function, args, kwargs, *constant = loads(payload)
    if type(function) is bytes:
        function = shared(function) if constant in ([], [True]) else pickle.loads(function)
    if type(args) is bytes:  # it was an item of a block
        args = pickle.loads(args)
    return function, args, kwargs


_made: dict[int, tuple[object, bytes, list[Any], object]] = {}


def _pickled(function: Callable[..., object]) -> bytes | None:
    """Return the pickle of a function that can be made once for many calls.

    ``None``: it uses what may change from call to call, here or on the far side.
    """
    if not isinstance(function, types.FunctionType):
        return None
    known = _made.get(id(function))
    same = known is not None and known[0] is function and known[3] is travelling()
    if known is not None and same and code.unchanged(known[2]):
        return known[1]
    if code.is_installed(function.__module__) or (used := code.used_by(function)) is None:
        return None
    pickled = dumps(carried(function))
    if len(_made) >= _FUNCTIONS:
        _made.pop(next(iter(_made)))
    _made[id(function)] = (function, pickled, used, travelling())
    return pickled


@lru_cache(maxsize=_FUNCTIONS)
def shared(pickled: bytes) -> Callable[..., object]:
    """Return the function that was pickled, the same one each time."""
    found: Callable[..., object] = pickle.loads(pickled)
    return found


def function_bytes(function: Callable[..., object], args: Sequence[object]) -> tuple[bytes, bool]:
    """Pickle a function for many calls; tell if they can share one copy of it.

    :param args: of one of the calls, for the error.
    :raises SerializationError: naming the variable that cannot travel.
    """
    shipping.choose()
    inner, given = function, ()
    while isinstance(inner, functools.partial):
        given = (*given, *inner.args, *inner.keywords.values())
        inner = inner.func
    constant = _pickled(inner) is not None or _is_name(inner)
    try:
        return dumps(carried(function)), constant and LEAVES.issuperset(map(type, given))
    except Exception as error:
        raise _cannot_travel(function, args, error) from error


def _is_name(function: object) -> bool:
    """Return whether a function travels as a name only, and has no state of its own."""
    if isinstance(function, types.BuiltinFunctionType):
        return isinstance(function.__self__, (types.ModuleType, type(None)))
    return isinstance(function, (types.FunctionType, type)) and code.is_installed(
        function.__module__
    )


def pack(function: Callable[..., object], args: tuple[object, ...]) -> object:
    """Return arguments as they are if they cannot change, else pickled.

    :raises SerializationError: naming the argument that cannot travel.
    """
    if LEAVES.issuperset(map(type, args)):
        return args
    try:
        return pickle.dumps(args, protocol=5) if is_plain(args) else dumps(args)
    except Exception as error:
        raise _cannot_travel(function, args, error) from error


def is_plain(value: object, depth: int = 4) -> bool:
    """Return whether pickle does with a value what :func:`encoded` does, only faster."""
    kind = type(value)
    if kind in LEAVES:
        return kind is not bytes or len(value) < LARGE  # type: ignore[arg-type]
    if kind in (list, tuple, set, frozenset):
        items: Any = value
    elif kind is dict:
        items = [*value, *value.values()]  # type: ignore[misc, attr-defined]
    elif kind.__module__ == "numpy" and kind.__name__ in _NUMPY:
        return not value.dtype.hasobject and value.nbytes < LARGE  # type: ignore[attr-defined]
    else:
        return False
    kinds = set(map(type, items))
    if LEAVES.issuperset(kinds):
        return bytes not in kinds or all(is_plain(item) for item in items)
    return depth > 0 and all(is_plain(item, depth - 1) for item in items)


def is_large(values: Iterable[object]) -> bool:
    """Return whether one of these is large itself, as far as that shows without a look into it."""
    for value in values:
        kind = type(value)
        if kind is bytes:
            if len(value) >= LARGE:  # type: ignore[arg-type]
                return True
        elif kind.__module__ == "numpy" and getattr(value, "nbytes", 0) >= LARGE:
            return True
    return False


def encode_value(name: str, value: object) -> Payload:
    """Pickle the value of a call.

    :param name: name of the function, for people.
    :raises SerializationError: naming the part that cannot travel.
    """
    try:
        found = plainly(value)
        return encoded(value) if found is None else found
    except Exception as error:
        raise _serialization_error(name, [("the result", value)], error) from error


def plainly(value: object) -> Payload | None:
    """Pickle a value, if pickle does with it what :func:`encoded` does; ``None`` if not."""
    return _plainly(value) if is_plain(value) else None


def summary(error: BaseException) -> str:
    """Return `Type: message`, also for an exception whose message cannot be made."""
    text = text_of(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def text_of(error: BaseException) -> str:
    """Return the message of an exception, also of one whose message cannot be made."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be made)"


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


def _cannot_travel(
    function: Callable[..., object],
    args: Sequence[object],
    error: Exception,
    kwargs: Mapping[str, object] = MappingProxyType({}),
) -> SerializationError:
    name = getattr(function, "__qualname__", repr(function))
    return _serialization_error(name, _parts(function, args, kwargs), error)


def _serialization_error(
    name: str, parts: Iterator[tuple[str, object]] | Sequence[tuple[str, object]], error: Exception
) -> SerializationError:
    remedy = "make the object inside the function, or pass plain data or a file name instead"
    deep = "recursion" in text_of(error)
    if deep:
        remedy = "it is nested too deeply: pass it in a flatter form, or as a file"
    for label, value in parts:
        if not _travels(value):
            place, culprit = (label, value) if deep else _innermost(label, value)
            what = f"{place} ({type(culprit).__name__}) cannot be sent to another process"
            break
    else:
        what = "it cannot be sent to another process"
    return SerializationError(
        f"{name}: {what}: {summary(error)}",
        remedy=remedy,
    )


def _travels(value: object) -> bool:
    try:
        dumps(value)
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
