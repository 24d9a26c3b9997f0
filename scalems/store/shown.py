"""How the arguments of a call are written for people, in short."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class _Short(reprlib.Repr):
    """Writes arguments in short; futures by the task that they are of."""

    def repr_bytes(self, value: bytes, level: int) -> str:
        """Write bytes as a text of limited length: they may be very many."""
        if len(value) <= self.maxstring:
            return repr(value)
        return f"{value[: self.maxstring]!r}... ({len(value)} bytes)"

    repr_bytearray = repr_bytes

    def repr_instance(self, value: Any, level: int) -> str:
        """Write a dataclass field by field."""
        if not dataclasses.is_dataclass(value) or type(value).__repr__ is object.__repr__:
            return super().repr_instance(value, level)
        fields = [
            f"{field.name}={self.repr1(getattr(value, field.name, None), level - 1)}"
            for field in dataclasses.fields(value)[:_FIELDS_SHOWN]
            if field.repr
        ]
        return f"{type(value).__qualname__}({', '.join(fields)})" if level else "..."

    def repr_Future(self, value: Any, level: int) -> str:
        """Write a future: reprlib finds this by the name of the type."""
        return f"{value.name}#{value.task_id}"


def arguments(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Return the arguments of a call in short, as they would be written."""
    words = [_shown(value) for value in args]
    if kwargs:
        words += [f"{name}={_shown(value)}" for name, value in kwargs.items()]
    return plain(", ".join(words))


def plain(text: str) -> str:
    """Return a text that SQLite takes: surrogates are none of UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(value: object) -> str:
    return repr(value) if type(value) in _NUMBERS else _short.repr(value)


_FIELDS_SHOWN = 6
_NUMBERS = frozenset({int, float, bool, type(None)})
_short = _Short()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 3
