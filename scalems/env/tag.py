"""Targets that a lock must serve, named by wheel tags: ``cp312-manylinux_2_28_aarch64``.

The parts are those of a wheel's file name, after PEP 425 (the interpreter) and PEP 600 (the
platform): https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scalems.errors import UsageError

TAG = re.compile(r"cp3(?P<minor>\d{1,2})-(?P<libc>manylinux_2_\d{1,2}|manylinux2014)_(?P<cpu>\w+)")
_CPUS = ("x86_64", "aarch64")


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A Python minor on a platform.

    :param python: such as ``3.12``.
    :param libc: the oldest C library that is there, such as ``manylinux_2_28``.
    :param cpu: ``x86_64`` or ``aarch64``.
    """

    python: str
    libc: str
    cpu: str

    def __str__(self) -> str:
        return f"cp{self.python.replace('.', '')}-{self.libc}_{self.cpu}"


def parse(text: str) -> Tag:
    """Read a tag.

    :raises UsageError: it is none of CPython on Linux with glibc.
    """
    match = TAG.fullmatch(text)
    if match is None or match["cpu"] not in _CPUS:
        raise UsageError(
            f"{text!r} is not a target",
            remedy="name a Python and a platform as a wheel does, such as "
            "cp312-manylinux_2_28_aarch64 (the glibc is what `ldd --version` says there)",
        )
    return Tag(python=f"3.{int(match['minor'])}", libc=match["libc"], cpu=match["cpu"])
