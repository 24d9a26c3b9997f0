"""Pilot options: fields of RP's PilotDescription, given as ``KEY=VALUE``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scalems.errors import UsageError
from scalems.tomlfile import near

if TYPE_CHECKING:
    from collections.abc import Sequence

_OURS = {
    "resource": "use --resource",
    "cores": "use --cores",
    "runtime": "use --runtime",
    "exit_on_error": "scalems handles failures itself",
    "uid": "scalems names the pilot itself",
}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(options: Sequence[str]) -> dict[str, Any]:
    """Read pilot options, by the types that the installed RP gives them.

    :raises UsageError: naming every option that is unknown, not for the user to set, or
        not of its type.
    """
    if not options:
        return {}  # RP need not be loaded
    import radical.pilot as rp

    schema = rp.PilotDescription._schema  # RP has no other way to ask
    faults: list[str] = []
    found: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        if not equals:
            faults.append(f"{option!r} is not KEY=VALUE")
        elif key in _OURS:
            faults.append(f"{key} cannot be set: {_OURS[key]}")
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
    return found


def _value(text: str, kind: object) -> Any:
    if kind is str:
        return text
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError(f"{text!r} is neither true nor false")
        return _WORDS[text.lower()]
    if kind == [str]:
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("its value must be JSON") from None
