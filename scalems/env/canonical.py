"""One way to digest values, and one way to write files that others read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def digest(tag: str, value: Any) -> str:
    """Return the SHA-256 of a value, as hex, over one canonical encoding.

    :param tag: kind of value, so that equal values of different kinds differ.
    :param value: anything that JSON can hold; keys are sorted, floats are refused
        by convention, sequences keep their order.
    """
    text = json.dumps([tag, value], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Put a whole text file in place, durably: readers see the former one or the new one.

    :raises OSError: it cannot be written; the former file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
