"""One way to digest values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(tag: str, value: Any) -> str:
    """Return the SHA-256 of a value, as hex, over one canonical encoding.

    :param tag: kind of value, so that equal values of different kinds differ.
    :param value: anything that JSON can hold; keys are sorted, floats are refused
        by convention, sequences keep their order.
    """
    text = json.dumps([tag, value], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
