"""How calls and outcomes travel through RADICAL-Pilot: as plain ASCII text.

RP changes or loses most other values. What is large goes through a file in a folder
that both sides see, where there is one: RP needs seconds for a megabyte.
"""

from __future__ import annotations

import base64
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

FILE_LIMIT = 100_000
"""Bytes above which a value goes through a file, if the two sides share a folder."""

SLOTS = "SCALEMS_SLOTS"
"""Environment variable: how many calls a Worker runs at a time."""

CANCEL = "scalems_cancel"
"""Control message: stop these calls, wherever they are."""

ALIVE = "scalems_alive"
"""Control message: the client is there. When they stop to come, a Worker ends the pilot."""

ALIVE_EVERY = 10.0  # seconds
ALIVE_LIMIT = 120.0  # seconds

_FILE = "file:"


def pack(value: object, *, folder: Path | None = None) -> str:
    """Return a text that :func:`unpack` makes the value of, once.

    :param folder: where a large value may be left for the other side.
    """
    data = pickle.dumps(value, protocol=5)
    if folder is None or len(data) <= FILE_LIMIT:
        return base64.b64encode(data).decode("ascii")
    descriptor, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return _FILE + name


def unpack(text: str) -> Any:
    """Return the value that a text stands for; a file that holds it is removed."""
    if not text.startswith(_FILE):
        return pickle.loads(base64.b64decode(text))
    path = Path(text.removeprefix(_FILE))
    data = path.read_bytes()
    path.unlink()
    return pickle.loads(data)
