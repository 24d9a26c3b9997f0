"""Edits to a JSON text that leave every other byte of it as it was.

RADICAL-Pilot's resource files are JSON with full-line ``#`` comments. People write in
them by hand, so a value is replaced or added in the text itself: the standard parser finds
the places, and comments, order and layout stay. (json5 and friends were weighed: none of
them knows ``#`` comments and writes a file back as it was.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

_COMMENT = re.compile(r"^[^\S\n]*#[^\n]*", re.MULTILINE)  # what radical.utils leaves out
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class _Member:
    """Where a key and its value are in a text."""

    key: str
    start: int
    value: int
    end: int


def parse(text: str) -> Any:
    """Return the value of a JSON text with full-line ``#`` comments.

    :raises json.JSONDecodeError: it is not JSON; the error has the line and the column.
    """
    try:
        return json.loads(_blank(text))
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # more digits or levels than can be taken
        raise json.JSONDecodeError(str(error), text, 0) from error


def set_members(text: str, path: Sequence[str], members: Mapping[str, Any]) -> str:
    """Set members of the object at a path, which is made where it is missing.

    :param text: a JSON text whose top is an object.
    :param path: keys from the top down to the object.
    :return: the new text. All that is not one of these members is byte for byte the same.
    :raises ValueError: the text is not JSON, or something on the path is not an object.
    """
    for key, value in members.items():
        text = _set(text, [*path, key], value)
    return text


def merge_members(text: str, path: Sequence[str], members: Mapping[str, Any]) -> str:
    """Set members as :func:`set_members` does, but merge objects with those that are there.

    :return: the new text; the same one if it has all of the members already.
    """
    now = parse(text)
    for key in path:
        now = now.get(key, {}) if isinstance(now, dict) else {}
    for key, value in members.items():
        there = now.get(key, ...)
        if isinstance(value, Mapping) and isinstance(there, dict):
            text = merge_members(text, [*path, key], value)
        elif there != value:
            text = set_members(text, path, {key: value})
    return text


def _set(text: str, path: Sequence[str], value: Any) -> str:
    parse(text)
    blank = _blank(text)
    start = _skip(blank, 0)
    for depth, key in enumerate(path):
        if start >= len(blank) or blank[start] != "{":
            raise ValueError(f"{'.'.join(path[:depth]) or 'the top of the file'} is not an object")
        members, close = _members(blank, start)
        # A parser takes the last of equal keys.
        found = next((m for m in reversed(members) if m.key == key), None)
        if found is None:
            rest = value
            for name in reversed(path[depth + 1 :]):
                rest = {name: rest}
            return _insert(text, start, close, members, key, rest)
        if depth == len(path) - 1:
            return text[: found.value] + _dump(value, text, found.start) + text[found.end :]
        start = found.value
    raise ValueError("a path must have a key")


def _members(blank: str, start: int) -> tuple[list[_Member], int]:
    """Return the members of the object that starts here, and where its closing brace is."""
    found: list[_Member] = []
    at = _skip(blank, start + 1)
    while blank[at] != "}":
        if blank[at] == ",":
            at = _skip(blank, at + 1)
        key, after = scanstring(blank, at + 1, True)
        value = _skip(blank, _skip(blank, after) + 1)
        _, end = _DECODER.raw_decode(blank, value)
        found.append(_Member(key, at, value, end))
        at = _skip(blank, end)
    return found, at


def _insert(
    text: str, start: int, close: int, members: Sequence[_Member], key: str, value: Any
) -> str:
    if members:
        last = members[-1]
        indent = _indent(text, last.start)
        new = f"{json.dumps(key)}: {_dump(value, text, last.start)}"
        return f"{text[: last.end]},\n{indent}{new}{text[last.end :]}"
    outer = _indent(text, start)
    indent = outer + "    "
    body = json.dumps(value, indent=4).replace("\n", "\n" + indent)
    inside = text[start + 1 : close].rstrip()  # comments, if anything
    new = f"\n{indent}{json.dumps(key)}: {body}\n{outer}"
    return f"{text[: start + 1]}{inside}{new}{text[close:]}"


def _dump(value: Any, text: str, at: int) -> str:
    return json.dumps(value, indent=4).replace("\n", "\n" + _indent(text, at))


def _indent(text: str, at: int) -> str:
    """Return the white space that the line of a place begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _blank(text: str) -> str:
    """Return the text with comment lines overwritten by spaces, so that places stay the same."""
    return _COMMENT.sub(lambda match: " " * len(match[0]), text)


def _skip(blank: str, at: int) -> int:
    while at < len(blank) and blank[at] in " \t\r\n":
        at += 1
    return at
