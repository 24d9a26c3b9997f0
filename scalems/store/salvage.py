"""Reads the rows of a damaged SQLite file page by page, without the pages that lead to them.

Only pages of indexes and of tables WITHOUT ROWID are looked at: whole rows are in them, in leaves
and in inner pages alike. The format: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

_HEADS = {2: (12, 4), 10: (8, 0)}
"""Kinds of pages, inner ones and leaves: bytes of their heads, and of what is before a row."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes, by the type of a value
_OTHERS = {0: None, 8: 0, 9: 1}


def rows(data: bytes | mmap.mmap, size: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that can be read, also such as were deleted; what is none is passed over.

    :param data: the file.
    :param size: bytes of a page.
    """
    for number in range(len(data) // size):
        page = data[number * size : (number + 1) * size]
        start = 100 if number == 0 else 0  # the first one begins with the header of the file
        head, before = _HEADS.get(page[start], (0, 0))
        count = int.from_bytes(page[start + 3 : start + 5], "big") if head else 0
        for place in range(start + head, start + head + 2 * min(count, size // 4), 2):
            with contextlib.suppress(ValueError, IndexError, struct.error):
                cell = int.from_bytes(page[place : place + 2], "big") + before
                yield _row(_payload(data, page, cell, size))


def _payload(data: bytes | mmap.mmap, page: bytes, place: int, size: int) -> bytes:
    """Return the bytes of a row: those on its page, and those that go on elsewhere."""
    length, place = _number(page, place)
    most, least = ((size - 12) * 64 // 255) - 23, ((size - 12) * 32 // 255) - 23
    if length <= most:
        return page[place : place + length]
    if length > len(data):
        raise ValueError
    here = least + (length - least) % (size - 4)
    here = here if here <= most else least
    parts = [page[place : place + here]]
    following = int.from_bytes(page[place + here : place + here + 4], "big")
    left = length - here
    while left > 0:
        start = (following - 1) * size
        if following < 1 or start + size > len(data):
            raise ValueError
        parts.append(data[start + 4 : start + 4 + min(left, size - 4)])
        following = int.from_bytes(data[start : start + 4], "big")
        left -= size - 4
    return b"".join(parts)


def _row(payload: bytes) -> tuple[Any, ...]:
    """Return the values of a row.

    :raises ValueError: it is none.
    """
    end, place = _number(payload, 0)
    kinds = []
    while place < end:
        kind, place = _number(payload, place)
        kinds.append(kind)
    found = []
    for kind in kinds:
        length = _length(kind)
        part = payload[place : place + length]
        if len(part) < length:
            raise ValueError
        found.append(_value(kind, part))
        place += length
    return tuple(found)


def _length(kind: int) -> int:
    if kind >= 12:
        return (kind - 12) // 2
    return 8 if kind == 7 else _INTEGERS.get(kind, 0)


def _value(kind: int, part: bytes) -> Any:
    if kind >= 12:
        return part.decode("utf-8", "replace") if kind % 2 else part
    if kind == 7:
        return struct.unpack(">d", part)[0]
    return int.from_bytes(part, "big", signed=True) if kind in _INTEGERS else _OTHERS.get(kind)


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and the place after it."""
    value = 0
    for step in range(8):
        byte = data[place + step]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + step + 1
    return value << 8 | data[place + 8], place + 9
