"""Futures inside arguments: found at the call, replaced by their values on the far side.

A call with futures is pickled when it is made, each future being a :class:`Slot`. So its
arguments are taken as they are at that moment, what cannot be pickled is reported
where it was written, and the values of other tasks travel as the bytes that they came in.

The far side imports this module.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from scalems.errors import UsageError
from scalems.workflow import pickling
from scalems.workflow.large import Large, Payload, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LEAVES = frozenset({bool, int, float, complex, str, bytes, bytearray, type(None)})


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """Stands for the value of a future, by its position."""

    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """The pickled value of a task, as it came from the process that computed it."""

    payload: Payload
    path: tuple[Any, ...] = ()
    """What part of it is meant, see :func:`part_of`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A step into a value: ``value[key]``."""

    key: object


@dataclasses.dataclass(frozen=True, slots=True)
class Attribute:
    """A step into a value: ``value.name``."""

    name: str


class Many:
    """Holds futures, as a list does."""


def part_of(value: Any, path: Sequence[Item | Attribute]) -> Any:
    """Return a part of a value, found step by step."""
    for step in path:
        value = value[step.key] if isinstance(step, Item) else getattr(value, step.name)
    return value


def futures_in(*values: object) -> list[Future[Any]]:
    """Return the different futures in `values`, at any depth, in the order that they are met.

    Lists, tuples, dicts (keys too), sets and dataclasses are looked into, and nothing else.
    """
    if _LEAVES.issuperset(map(type, values)):
        return []
    found: dict[int, Future[Any]] = {}
    # Kept by their ids, so the containers must live as long as this: an id may be reused.
    seen: dict[int, object] = {}
    todo: list[object] = [values]
    while todo:
        value = todo.pop()
        if isinstance(value, Future):
            found.setdefault(id(value), value)
        elif id(value) not in seen and (items := _items(value)) is not None:
            seen[id(value)] = value
            todo.extend(reversed(items))
    return list(found.values())


def with_slots(value: Any, futures: Sequence[Future[Any]]) -> Any:
    """Return `value` with each future replaced by its :class:`Slot`.

    Containers that hold a future are copied, all others stay the same objects.
    """
    slots = {id(future): Slot(index) for index, future in enumerate(futures)}
    return _Replacement(lambda item: slots.get(id(item), item)).of(value)


def apply(template: Payload, values: Sequence[object]) -> object:
    """Run the call that was pickled in `template`, its slots filled with `values`."""
    function, args, kwargs = pickling.decode(template)
    ready = [
        part_of(loads(value.payload), value.path) if isinstance(value, Packed) else value
        for value in values
    ]
    filled = _Replacement(lambda item: ready[item.index] if type(item) is Slot else item)
    args, kwargs = filled.of((args, kwargs))
    return function(*args, **kwargs)


def filled(template: Payload, values: Sequence[Packed]) -> object:
    """Return the value that was pickled in `template`, its slots filled with `values`."""
    ready = [part_of(loads(value.payload), value.path) for value in values]
    return _Replacement(lambda item: ready[item.index] if type(item) is Slot else item).of(
        loads(template)
    )


def resolved(value: Any) -> Any:
    """Return `value` with the values of the futures in it; they must have ended.

    :raises Exception: what a future raises.
    """
    return _Replacement(lambda item: item.result() if isinstance(item, Future) else item).of(value)


def content(value: object) -> bytes:
    """Return what the value of a future is known by, in the key of a call that takes it."""
    if not isinstance(value, Packed):
        return _known(pickling.encode_value("", value))
    if value.path:
        # The part alone: a program's output counts, whatever time is in what it printed.
        with contextlib.suppress(Exception):  # not to be rebuilt here: it counts as a whole
            return _known(pickling.encode_value("", part_of(loads(value.payload), value.path)))
    return _known(value.payload) + repr(value.path).encode()


def _known(payload: Payload) -> bytes:
    if not isinstance(payload, Large):
        return payload
    return payload.stream + " ".join(blob.digest for blob in payload.blobs).encode()


def _items(value: object) -> list[object] | None:
    """Return what a container holds; ``None`` for what is not a container, or holds only leaves."""
    items: list[object]
    if type(value) in _LEAVES:
        return None
    if isinstance(value, dict):
        items = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset, Many)):
        items = list(value)  # type: ignore[arg-type]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        items = [getattr(value, name) for name in names if hasattr(value, name)]
    else:
        return None
    # In C for each item: a list of a million numbers costs milliseconds.
    return None if _LEAVES.issuperset(map(type, items)) else items


class _Replacement:
    """One pass that replaces items in nested containers, keeping shared containers shared."""

    def __init__(self, replace: Callable[[Any], Any]) -> None:
        self._replace = replace
        self._done: dict[int, tuple[object, object]] = {}

    def of(self, value: Any) -> Any:
        """Return `value`, or a copy of it if something in it was replaced.

        :raises UsageError: if a container holds itself, or is nested too deeply.
        """
        try:
            return self._of(value)
        except RecursionError:
            raise UsageError(
                "An argument with futures holds itself, or is nested too deeply.",
                remedy="pass the futures in a simpler structure, e.g. a list",
            ) from None

    def _of(self, value: Any) -> Any:
        if isinstance(value, (Future, Slot)):
            return self._replace(value)
        if id(value) in self._done:
            return self._done[id(value)][1]
        if _items(value) is None:
            return value
        new = self._rebuilt(value)
        self._done[id(value)] = (value, new)
        return new

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, dict):
            pairs = [(key, item, self._of(key), self._of(item)) for key, item in value.items()]
            if all(key is new_key and item is new for key, item, new_key, new in pairs):
                return value
            changed = copy.copy(value)  # keeps e.g. the factory of a defaultdict
            changed.clear()
            changed.update((new_key, new) for _, _, new_key, new in pairs)
            return changed
        if dataclasses.is_dataclass(value):
            return self._dataclass(value)
        old = list(value)
        new = [self._of(item) for item in old]
        if all(before is after for before, after in zip(old, new, strict=True)):
            return value
        if isinstance(value, list):
            result = copy.copy(value)
            result[:] = new
            return result
        if isinstance(value, Many):
            return new
        make = getattr(type(value), "_make", type(value))  # a namedtuple takes its fields apart
        return make(new)

    def _dataclass(self, value: Any) -> Any:
        result = None
        for field in dataclasses.fields(value):
            old = getattr(value, field.name, None)
            new = self._of(old)
            if new is not old:
                result = copy.copy(value) if result is None else result
                # Frozen dataclasses too; __post_init__ has run when the user made the object.
                object.__setattr__(result, field.name, new)
        return value if result is None else result
