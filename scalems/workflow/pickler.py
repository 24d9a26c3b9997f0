"""cloudpickle's pickler, and what it forgets of what travels by value.

It makes a class anew without its slots: its objects have a ``__dict__`` then, and do not fit
the class that the client has. And it knows a class again by a number of its process: an object
that is kept for a later run would be of a class of its own there, so that ``isinstance`` and
``==`` say no. So classes of the script have numbers that are made of their content, if something
is kept. What
:mod:`functools` makes of functions holds locks and weak references, or goes by its name.

The far side imports this module.
"""

from __future__ import annotations

import functools
import io
import sys
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
from cloudpickle import cloudpickle as inner

if TYPE_CHECKING:
    from collections.abc import Callable

_digest_of: Callable[[type], str] | None = None


def know_classes_by(digest_of: Callable[[type], str]) -> None:
    """Have classes known again in later processes.

    :param digest_of: gives a digest of a class, the same in all processes; empty if it has none.
    """
    global _digest_of
    _digest_of = digest_of


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles whatever cloudpickle can, what is not importable by value."""

    def reducer_override(self, value: Any) -> Any:
        """Return how a class or a function is made anew."""
        if not isinstance(value, type):
            return _made_by_functools(value) or super().reducer_override(value)
        if _digest_of is not None:
            _know(value, _digest_of)
        reduced = super().reducer_override(value)
        if type(reduced) is tuple and reduced[0] is inner._make_skeleton_class:
            slots = vars(value).get("__slots__")
            if slots and isinstance(slots, (str, tuple, list, dict)):
                reduced[1][3]["__slots__"] = slots  # among what its namespace begins with
        return reduced


def dumps(value: object) -> bytes:
    """Pickle whatever cloudpickle can, what is not importable by value."""
    with io.BytesIO() as file:
        Pickler(file, protocol=5).dump(value)  # 5 is common to every Python we support
        return file.getvalue()


def is_dispatching(value: object) -> bool:
    """Return whether a function was made by :func:`functools.singledispatch`."""
    return isinstance(value, types.FunctionType) and hasattr(value, "_clear_cache")


def _made_by_functools(value: Any) -> tuple[Any, ...] | None:
    """Return how to make anew what functools has made of functions; ``None`` for all else."""
    if type(value) is functools.cached_property:  # it holds a lock, before Python 3.12
        return _property, (value.func, value.attrname)
    if type(value) is functools._lru_cache_wrapper and not _has_name(value):
        return _cached, (value.__wrapped__, value.cache_parameters())
    if is_dispatching(value) and not _has_name(value):
        return _dispatching, (dict(value.registry),)
    return None


def _property(function: Callable[..., Any], name: str) -> functools.cached_property[Any]:
    made = functools.cached_property(function)
    made.__set_name__(object, name)
    return made


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _dispatching(registry: dict[type, Callable[..., Any]]) -> Any:
    made = functools.singledispatch(registry[object])
    for kind, function in registry.items():
        made.register(kind, function)
    return made


def _has_name(value: Any) -> bool:
    """Return whether other processes can find a function by its name."""
    name = value.__module__
    if _is_by_value(name):
        return False
    try:
        return functools.reduce(getattr, value.__qualname__.split("."), sys.modules[name]) is value
    except (KeyError, AttributeError):
        return False


def _is_by_value(module: str) -> bool:
    return module == "__main__" or module in inner.list_registry_pickle_by_value()


def _know(value: type, digest_of: Callable[[type], str]) -> None:
    """Give a class of the script, or of a module beside it, the number that it always has."""
    if not _is_by_value(value.__module__):
        return
    if "<locals>" in value.__qualname__ or value in inner._DYNAMIC_CLASS_TRACKER_BY_CLASS:
        return
    if number := digest_of(value):
        with inner._DYNAMIC_CLASS_TRACKER_LOCK:
            inner._DYNAMIC_CLASS_TRACKER_BY_CLASS[value] = number
            inner._DYNAMIC_CLASS_TRACKER_BY_ID[number] = value
