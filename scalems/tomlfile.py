"""Strict reading of TOML files: every mistake at once, with file, line and dotted key.

The shape of a file is a JSON Schema (https://json-schema.org/draft/2020-12/schema),
shipped beside the module that reads it, so that editors can use it too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import UsageError

if TYPE_CHECKING:
    from jsonschema import ValidationError

_TYPES = {
    "string": "a string",
    "array": "a list",
    "object": "a table",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


def near(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" for the nearest known names, or an empty string."""
    import difflib  # only for who made a mistake

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""


Mistake = tuple[tuple[str | int, ...], str]
"""A key path, and what is wrong there."""


def read(
    path: Path,
    schema: Path,
    *,
    rules: Callable[[Mapping[str, Any]], Iterable[Mistake]] = lambda _: (),
) -> dict[str, Any]:
    """Read a TOML file that must match a schema, and rules that a schema cannot say.

    :param rules: yields further mistakes; it must bear values of any type.
    :raises UsageError: the file is missing, is not TOML, or does not match;
        the message lists every mistake.
    """
    text, data = _load(path)
    mistakes = [*validate(data, json.loads(schema.read_text())), *rules(data)]
    if mistakes:
        raise _mistakes_error(path, text, mistakes)
    return data


def load(path: Path) -> dict[str, Any]:
    """Read a TOML file of any shape.

    :raises UsageError: the file is missing, or is not TOML.
    """
    return _load(path)[1]


def top_keys(path: Path) -> list[str]:
    """Return the keys at the top of a TOML file; none if it cannot be read."""
    try:
        return list(_parse(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def _load(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: cannot be read: {error}", remedy="it must be a readable file of UTF-8 text"
        ) from error
    try:
        return text, _parse(text)
    except ValueError as error:
        raise UsageError(
            f"{path}: not valid TOML: {error}",
            remedy="see https://toml.io for the format; strings need quotes",
        ) from error


def _parse(text: str) -> dict[str, Any]:
    """Parse TOML.

    :raises ValueError: it is not TOML, or holds more than the parser can take.
    """
    # Not before a file is read: where only builds are looked at, tomli need not be installed.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data = tomllib.loads(text)
        json.dumps(data, default=str)  # a table of many levels is not one inside another for TOML
        return data
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _mistakes_error(path: Path, text: str, mistakes: Iterable[Mistake]) -> UsageError:
    """Make one error of many mistakes, each a pair of a key path and what is wrong there."""
    located = sorted((_line_of(text, keys), dotted(keys), what) for keys, what in mistakes)
    lines = [f"{path}:{line}: {key + ': ' if key else ''}{what}" for line, key, what in located]
    count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
    return UsageError("\n".join(lines), remedy=f"correct the {count} above in {path}")


def validate(data: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterable[Mistake]:
    """Yield each mistake in ``data`` as a key path and what is wrong there."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(data):
        keys = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            yield from _unknown_keys(error, keys)
        else:
            yield keys, _explain(error)


def dotted(keys: Iterable[str | int]) -> str:
    """Write a key path as ``a.b[0]."odd key"``."""
    out = ""
    for key in keys:
        if isinstance(key, int):
            out += f"[{key}]"
        else:
            bare = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
            out += f".{bare}" if out else bare
    return out


def _unknown_keys(error: ValidationError, keys: tuple[str | int, ...]) -> Iterable[Mistake]:
    known = error.schema.get("properties", {})
    patterns = error.schema.get("patternProperties", {})
    for key in error.instance:
        if key in known or any(re.search(pattern, key) for pattern in patterns):
            continue
        if known:
            yield (
                (*keys, key),
                f"unknown key{near(key, known)}; known keys are {', '.join(sorted(known))}",
            )
        else:
            yield (*keys, key), f"not a valid name; it must match {' or '.join(patterns)}"


def _explain(error: ValidationError) -> str:
    shown = json.dumps(error.instance, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if error.validator == "type":
        wanted = error.validator_value
        names = [wanted] if isinstance(wanted, str) else wanted
        return f"must be {' or '.join(_TYPES.get(n, n) for n in names)}, not {shown}"
    if error.validator == "enum":
        choices = [str(value) for value in error.validator_value]
        hint = near(str(error.instance), choices)
        return f"{shown} is not one of {', '.join(map(repr, choices))}{hint}"
    if error.validator == "required":
        missing = [k for k in error.validator_value if k not in error.instance]
        return f"missing key{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
    return str(error.schema.get("errorMessage", f"{error.message}"))


def _line_of(text: str, keys: tuple[str | int, ...]) -> int:
    """Return the line (from 1) that brings a key in, or else its nearest parent.

    The parser itself is asked: each beginning of the file that is valid TOML, if need be with
    an open list closed, ends with a statement or a list item. The first whose data holds the
    key names the line.
    """
    lines = text.splitlines(keepends=True)
    best = 1
    start = depth = 0
    for end, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        so_far = "".join(lines[:end])
        start = start or end
        whole = _loads(so_far)
        data = whole if whole is not None else _loads(so_far + "]")
        if data is None:
            continue
        found = _depth(data, keys)
        if found > depth:
            best, depth = (start if whole is not None else end), found
        if whole is not None:
            start = 0
    return best


def _loads(text: str) -> Any:
    try:
        return _parse(text)
    except ValueError:
        return None


def _depth(data: Any, keys: tuple[str | int, ...]) -> int:
    for depth, key in enumerate(keys):
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(keys)
