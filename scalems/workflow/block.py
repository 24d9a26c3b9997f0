"""Many calls of one function that travel as one: a *block*, whose items are run one by one.

Each item has an outcome of its own. Those of usual items, which have given a value and printed
nothing, travel together as :class:`Answers`.

Both sides import this module.
"""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from scalems.workflow import call as calls
from scalems.workflow import pickling
from scalems.workflow.call import Call, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST = 2000
"""Items in a block at most."""

LARGEST = 1 << 16
"""Bytes that the arguments in a block have together at most, if it has several."""

_NUMBERS = frozenset({bool, int, float, complex, type(None)})
_EACH = 16  # bytes of an item without its texts, about


@dataclass(frozen=True, slots=True)
class Answers:
    """What items of a block have given that lie beside each other."""

    id: int
    """Of the block."""
    first: int
    """Position of the first of them."""
    values: list[bytes]
    """The pickled value of each; nothing for those in `others`."""
    started: Sequence[float]
    ended: Sequence[float]
    """Seconds since the epoch, by the clock of the host."""
    others: dict[int, Outcome]
    """Outcomes, by position, of those that failed, have printed something, or given files."""
    host: str
    pid: int
    env: str
    stamp: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def value(self, position: int) -> Any:
        """Return the value of an item.

        :raises Exception: what :func:`scalems.workflow.call.result` raises.
        """
        try:
            return pickle.loads(self.values[position - self.first])
        except Exception:
            return calls.result(self.outcome(position))

    def outcome(self, position: int) -> Outcome:
        """Return how an item has ended."""
        if position in self.others:
            return self.others[position]
        index = position - self.first
        return Outcome(
            id=self.id,
            item=position,
            ok=True,
            payload=self.values[index],
            host=self.host,
            pid=self.pid,
            started=self.started[index],
            ended=self.ended[index],
            env=self.env,
            stamp=self.stamp,
        )

    def outcomes(self) -> Iterator[Outcome]:
        """Yield how each of them has ended."""
        return map(self.outcome, range(self.first, self.first + len(self)))


def encoded(
    function: Callable[..., object], items: Sequence[tuple[object, ...]]
) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of calls, none of which is too large: how many calls, and their payload.

    :raises SerializationError: naming the argument or the variable that cannot travel.
    """
    pickled, constant = pickling.function_bytes(function, items[0])
    each = _EACH * len(items)
    if each <= LARGEST and _NUMBERS.issuperset(map(type, itertools.chain.from_iterable(items))):
        yield len(items), pickle.dumps((pickled, constant, list(items)), protocol=5)
        return
    packed: list[object] = []
    size = 0
    for args in items:
        one = pickling.pack(function, args)
        more = _size(one)
        if packed and (size + more > LARGEST or len(packed) == MOST):
            yield len(packed), pickle.dumps((pickled, constant, packed), protocol=5)
            packed, size = [], 0
        packed.append(one)
        size += more
    yield len(packed), pickle.dumps((pickled, constant, packed), protocol=5)


def _size(packed: object) -> int:
    """Return about how many bytes the arguments of an item have."""
    texts: Any = packed if type(packed) is tuple else (packed,)
    return _EACH + sum([len(text) for text in texts if type(text) in (bytes, str)])


@lru_cache(maxsize=4)
def decoded(payload: bytes) -> tuple[bytes, bool, list[Any]]:
    """Return what is in the payload of a block: the pickled function, whether its calls can share
    one copy of it, and the arguments of each, see :func:`scalems.workflow.pickling.pack`."""
    found: tuple[bytes, bool, list[Any]] = pickle.loads(payload)
    return found


def singles(call: Call) -> Iterator[Call]:
    """Yield the items of a block as calls of their own, for who knows no blocks."""
    assert call.items is not None
    assert isinstance(call.payload, bytes)
    pickled, constant, packed = decoded(call.payload)
    for position in call.items:
        payload = pickle.dumps((pickled, packed[position], {}, constant), protocol=5)
        yield replace(call, payload=payload, items=None, item=position)
