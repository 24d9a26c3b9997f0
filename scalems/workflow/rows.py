"""The arguments of many calls, kept by columns.

A tuple for each call would cost more than most of the calls: where all have as many arguments,
there is a list for each argument, which is cut, looked through and sent in C.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SIZED = (list, tuple, range, str, bytes)


class Rows(Sequence[tuple[object, ...]]):
    """Tuples of arguments that are all of one length.

    :param columns: what is at each place of the tuples; there is at least one.
    """

    def __init__(self, columns: Sequence[list[object]]) -> None:
        self.columns = tuple(columns)

    @classmethod
    def zipped(cls, iterables: Sequence[Iterable[object]]) -> Rows:
        """Return the rows that :func:`zip` makes: as many as the shortest of the iterables has."""
        if len(iterables) == 1:
            return cls([list(iterables[0])])
        if all(type(one) in _SIZED for one in iterables):
            count = min(map(len, iterables))  # type: ignore[arg-type]
            return cls([list(itertools.islice(one, count)) for one in iterables])
        return cls(_columns([*zip(*iterables, strict=False)], len(iterables)))

    @classmethod
    def of(cls, items: Sequence[tuple[object, ...]]) -> Rows | None:
        """Return tuples as rows; ``None`` if they are not all of one length, or empty."""
        if isinstance(items, Rows):
            return items
        lengths = set(map(len, items))
        if len(lengths) != 1 or 0 in lengths:
            return None
        return cls(_columns(items, *lengths))

    @cached_property
    def kinds(self) -> frozenset[type]:
        """The types of all arguments."""
        return frozenset(map(type, itertools.chain.from_iterable(self.columns)))

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        return zip(*self.columns, strict=True)

    @overload
    def __getitem__(self, index: int) -> tuple[object, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> tuple[object, ...] | Rows:
        if isinstance(index, slice):
            return Rows([column[index] for column in self.columns])
        return tuple([column[index] for column in self.columns])


def _columns(items: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [list(column) for column in zip(*items, strict=True)] or [[] for _ in range(width)]
