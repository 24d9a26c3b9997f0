"""Many calls of one function that travel as one: a *block*, whose items are run one by one.

Each item has an outcome of its own. Those of usual items, which have given a value and printed
nothing, travel together as :class:`~scalems.workflow.answers.Answers`.

Both sides import this module.
"""

from __future__ import annotations

import operator
import pickle
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from scalems.workflow import pickling
from scalems.workflow.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scalems.workflow.call import Call

MOST = 1 << 14
"""Items in a block at most."""

LARGEST = 1 << 20
"""Bytes that the arguments in a block have together at most, if it has several."""

_TEXTS = frozenset({bytes, str})
_EACH = 16  # bytes of an item without its texts, about


class Content(NamedTuple):
    """What is in the payload of a block."""

    function: bytes
    """The function, pickled."""
    constant: bool
    """Whether the calls can share one copy of it."""
    first: int
    """Position of the first item that is there."""
    columns: tuple[list[object], ...]
    """The arguments by their places in the calls, if none of them can change."""
    packed: Sequence[object]
    """The arguments of each call otherwise, see :func:`scalems.workflow.pickling.pack`."""

    def arguments(self, position: int) -> Any:
        """Return the arguments of an item: pickled ones, if they can change."""
        index = position - self.first
        if self.columns:
            return tuple([column[index] for column in self.columns])
        return self.packed[index]

    def cut(self, items: range) -> Content:
        """Return the content of a block that has some of these items only."""
        some = slice(items.start - self.first, items.stop - self.first)
        return self._replace(
            first=items.start,
            columns=tuple([column[some] for column in self.columns]),
            packed=self.packed[some],
        )

    def payload(self) -> bytes:
        """Return it as it travels."""
        return pickle.dumps(tuple(self), protocol=5)


def encoded(
    function: Callable[..., object], items: Sequence[tuple[object, ...]]
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of calls, none of which is too large: how many calls, and their payload.

    :raises SerializationError: naming the argument or the variable that cannot travel.
    """
    pickled, constant = pickling.function_bytes(function, items[0])
    rows = Rows.of(items)
    if rows is not None and pickling.LEAVES.issuperset(rows.kinds):
        for some in _pieces(_sizes(rows)):
            columns = tuple([column[some.start : some.stop] for column in rows.columns])
            yield len(some), Content(pickled, constant, 0, columns, ()).payload()
        return
    packed = [pickling.pack(function, args) for args in items]
    for some in _pieces([_size(one) for one in packed]):
        mine = packed[some.start : some.stop]
        yield len(some), Content(pickled, constant, 0, (), mine).payload()


def _sizes(rows: Rows) -> list[int]:
    """Return about how many bytes the arguments of each item have; none of them can change."""
    sizes = [_EACH] * len(rows)
    if not _TEXTS.isdisjoint(rows.kinds):
        for column in rows.columns:
            kinds = set(map(type, column))
            if kinds <= _TEXTS:
                sizes = [*map(operator.add, sizes, map(len, column))]  # type: ignore[arg-type]
            elif kinds & _TEXTS:
                sizes = [*map(operator.add, sizes, map(_length, column))]
    return sizes


def _size(packed: object) -> int:
    return _EACH + sum(map(_length, packed if type(packed) is tuple else (packed,)))


def _length(value: object) -> int:
    return len(value) if type(value) in _TEXTS else 0  # type: ignore[arg-type]


def _pieces(sizes: Sequence[int]) -> Iterator[range]:
    """Yield which items make a block: as many as are not too large together, or a single one."""
    if len(sizes) <= MOST and sum(sizes) <= LARGEST:
        yield range(len(sizes))
        return
    start = size = 0
    for index, more in enumerate(sizes):
        if index > start and (size + more > LARGEST or index - start == MOST):
            yield range(start, index)
            start, size = index, 0
        size += more
    yield range(start, len(sizes))


@lru_cache(maxsize=4)
def decoded(payload: bytes) -> Content:
    """Return what is in the payload of a block."""
    return Content(*pickle.loads(payload))


def cut(call: Call, items: range) -> Call:
    """Return a block that has some of a block's items, and holds no others."""
    assert isinstance(call.payload, bytes)
    if items == call.items:
        return call
    return replace(call, items=items, payload=decoded(call.payload).cut(items).payload())


def singles(call: Call) -> Iterator[Call]:
    """Yield the items of a block as calls of their own, for who knows no blocks."""
    assert call.items is not None
    assert isinstance(call.payload, bytes)
    content = decoded(call.payload)
    for position in call.items:
        args = content.arguments(position)
        payload = pickle.dumps((content.function, args, {}, content.constant), protocol=5)
        yield replace(call, payload=payload, items=None, item=position)
