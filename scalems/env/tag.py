"""Targets that a lock must serve, named by wheel tags: ``cp312-manylinux_2_28_aarch64``.

The parts are those of a wheel's file name, after PEP 425 (the interpreter) and PEP 600 (the
platform): https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalems.errors import UsageError

if TYPE_CHECKING:
    from packaging.tags import Tag as WheelTag

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
        return f"{self.abi}-{self.libc}_{self.cpu}"

    @property
    def abi(self) -> str:
        """The Python as wheels name it, such as ``cp312``."""
        return f"cp{self.python.replace('.', '')}"

    @property
    def glibc(self) -> int:
        """The minor version of the oldest C library that is there: 28 of glibc 2.28."""
        return 17 if self.libc == "manylinux2014" else int(self.libc.rpartition("_")[2])

    def platforms(self) -> list[str]:
        """Return the platforms whose wheels run there, the best first (PEP 600, PEP 599)."""
        former = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        found = []
        for minor in range(self.glibc, 4, -1):
            found.append(f"manylinux_2_{minor}_{self.cpu}")
            if minor in former and (minor == 17 or self.cpu == "x86_64"):
                found.append(f"{former[minor]}_{self.cpu}")
        return [*found, f"linux_{self.cpu}"]

    def wheels(self) -> Iterator[WheelTag]:
        """Yield the tags of the wheels that can be installed there, the best first."""
        from packaging.tags import compatible_tags, cpython_tags

        version = tuple(int(part) for part in self.python.split("."))
        yield from cpython_tags(version, [self.abi], self.platforms())
        yield from compatible_tags(version, self.abi, self.platforms())

    def markers(self) -> dict[str, str]:
        """Return the values of the environment markers there (PEP 508).

        What a tag does not tell, such as the micro version of Python, is the lowest.
        """
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.cpu,
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "platform_python_implementation": "CPython",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


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


def of(interpreter: Mapping[str, str]) -> Tag:
    """Return the tag of an interpreter that was looked at.

    :param interpreter: see :func:`scalems.probe.interpreter`.
    :raises UsageError: it is none of CPython on Linux with glibc.
    """
    python = interpreter["version"].split(".")
    cpu = interpreter["platform"].partition("-")[2]
    family, _, libc = interpreter["libc"].partition(" ")
    if family != "glibc" or interpreter["implementation"] != "cpython":
        raise UsageError(
            f"wheels cannot be collected for {interpreter['implementation']} on "
            f"{interpreter['platform']} with {family or 'an unknown C library'}",
            remedy="use a CPython on Linux with glibc",
        )
    major, minor = libc.split(".")[:2]
    return parse(f"cp{python[0]}{python[1]}-manylinux_{major}_{minor}_{cpu}")
