"""Messages between this machine and a host: a line of JSON each, and files after their line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

LIMIT = 1 << 28  # bytes in a line


class Broken(ValueError):
    """What came is no message."""


def send(stream: BinaryIO, message: Mapping[str, Any], data: bytes = b"") -> None:
    """Send a message.

    :param data: bytes that follow it, of which it tells how many they are.
    :raises OSError: the other end is gone.
    """
    stream.write(json.dumps(message, separators=(",", ":")).encode() + b"\n" + data)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Return the next message; ``None`` at the end.

    :raises Broken: it is none.
    """
    line = stream.readline(LIMIT)
    if not line.endswith(b"\n"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Broken(f"no message: {line[:200]!r}") from error
    if not isinstance(message, dict):
        raise Broken(f"no message: {line[:200]!r}")
    return message
