"""Pilot options: fields of RP's PilotDescription, given as ``KEY=VALUE``."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from scalems.errors import BackendError, UsageError
from scalems.tomlfile import near

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OURS = {
    "resource": "use --resource",
    "cores": "use --cores",
    "runtime": "use --runtime",
    "exit_on_error": "scalems handles failures itself",
    "uid": "scalems names the pilot itself",
}
# RP is loaded in a process of its own: it warns on the terminal and changes its process.
# It has no public way to ask for the types.
_ASK = (
    "import json, radical.pilot as rp; schema = rp.PilotDescription._schema;"
    "names = {str: 'str', int: 'int', bool: 'bool'};"
    "print('\\n' + json.dumps({key: 'list' if kind == [str] else"
    " names.get(kind, 'json') if isinstance(kind, type) else 'json'"
    " for key, kind in schema.items()}))"
)
_ASK_LIMIT = 60.0  # seconds
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(options: Sequence[str], plain: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read pilot options, by the types that the installed RP gives them.

    :param plain: fields that have options of their own; those that are ``None`` are not set.
    :raises UsageError: naming every option that is unknown, not for the user to set, or
        not of its type.
    """
    given = {key: value for key, value in (plain or {}).items() if value is not None}
    if not options:
        return given  # RP need not be loaded
    schema = _schema()
    faults: list[str] = []
    found: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        if not equals:
            faults.append(f"{option!r} is not KEY=VALUE")
        elif key in _OURS:
            faults.append(f"{key} cannot be set: {_OURS[key]}")
        elif key in given:
            faults.append(f"{key} is given twice: --{key} says {given[key]!r}")
        elif key not in schema:
            faults.append(f"RADICAL-Pilot has no pilot option {key!r}{near(key, schema)}")
        else:
            try:
                found[key] = _value(text.strip(), schema[key])
            except ValueError as error:
                faults.append(f"{key}: {error}")
    if faults:
        allowed = sorted(set(schema) - set(_OURS))
        raise UsageError(
            "wrong --pilot-option:\n" + "\n".join(f"  {fault}" for fault in faults),
            remedy=f"the options are {', '.join(allowed)}",
        )
    return {**given, **found}


@functools.cache
def _schema() -> dict[str, str]:
    """Return the fields of RP's PilotDescription, each with the kind of its value."""
    try:
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _ASK],
            check=True,
            capture_output=True,
            text=True,
            timeout=_ASK_LIMIT,
        )
        schema: dict[str, str] = json.loads(answer.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[-1:]
        raise BackendError(f"RADICAL-Pilot cannot be loaded: {' '.join(reason)}") from error
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise BackendError(f"RADICAL-Pilot did not tell its pilot options: {error}") from error
    return schema


def _value(text: str, kind: str) -> Any:
    if kind == "str":
        return text
    if kind == "int":
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
    if kind == "bool":
        if text.lower() not in _WORDS:
            raise ValueError(f"{text!r} is neither true nor false")
        return _WORDS[text.lower()]
    if kind == "list":
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("its value must be JSON") from None
