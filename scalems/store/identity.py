"""What a call is, before it runs: the code, the arguments and the values that decide its result."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalems.store import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RECORDED = 10_000  # values of other tasks of which it is written down which task gave which
_SHORT = 12  # digits of a digest, where it only tells whether two differ
KNOWN = 16  # the same, of an argument of a recorded task


@dataclass(frozen=True)
class Identity:
    """What a call is, before the values of the futures in it are known.

    :param code: digest of the function.
    :param args: digests of the arguments, by position or name.
    :param unstable: why it has no key; empty if it has.
    """

    code: str
    args: Mapping[str, str]
    unstable: str = ""

    def key(self, environment: str, given: Sequence[str] = ()) -> str:
        """Return the key of the call; empty if it has none.

        :param given: digests of what the futures in its arguments gave, see :func:`given`.
        """
        if self.unstable or not environment:
            return ""
        args = self.args.items() if len(self.args) < 2 else sorted(self.args.items())
        parts = [f"{name}={value}" for name, value in args]
        return digest.combined("call 1", self.code, environment, *parts, "given", *given)


def of_arguments(
    code: digest.Code,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Mapping[str, str],
) -> Identity:
    """Return what a call of a function is; futures in its arguments are slots.

    :param options: see :func:`options`.
    """
    digests = {}
    names = code.names if len(code.names) == len(args) else _names(code.names, len(args))
    for name, value in (*zip(names, args, strict=True), *kwargs.items()):
        try:
            digests[name] = digest.of(value)
        except digest.Unstable as error:
            return Identity(code.digest, {}, f"argument {name!r} holds {error}")
    if options:
        digests.update(options)
    return Identity(code.digest, digests)


def given(values: Sequence[bytes]) -> list[str]:
    """Return the digests of what futures gave."""
    return [hashlib.sha256(value).hexdigest() for value in values]


def recorded(givers: Sequence[int], digests: Sequence[str]) -> str:
    """Return which task gave a call which value, as a text: ``3:90a5f27b1c08 4:…``.

    It is only for telling later which of them gave another one, see
    ``scalems.store.history``; empty if they are very many.

    :param givers: numbers of the tasks; 0 for what is none.
    """
    if len(digests) > _RECORDED:
        return ""
    return " ".join(f"{a}:{b[:_SHORT]}" for a, b in zip(givers, digests, strict=True))


def options(matters: Mapping[str, object]) -> dict[str, str]:
    """Return the digests of options of a task that its value may depend on."""
    return {f"option {name}": digest.of(value) for name, value in matters.items()}


def as_json(digests: Mapping[str, str]) -> str:
    """Return digests by name in short, as an object in JSON; this is done for each task."""
    joined = "".join(digests)
    if not joined.isascii() or '"' in joined or "\\" in joined or not joined.isprintable():
        return json.dumps({name: text[:KNOWN] for name, text in digests.items()})
    return "{" + ", ".join([f'"{name}": "{text[:KNOWN]}"' for name, text in digests.items()]) + "}"


def _names(known: Sequence[str], count: int) -> list[str]:
    """Return the names of the parameters that positional arguments go to."""
    return [known[index] if index < len(known) else f"*{index}" for index in range(count)]


def checksum(key: str, payload: bytes | None, names: str | None, files: str | None) -> int:
    """Return the sum that tells whether what was kept of a result is what it was."""
    return zlib.crc32(payload or b"", zlib.crc32(f"{key} {names or ''} {files or ''}".encode()))
