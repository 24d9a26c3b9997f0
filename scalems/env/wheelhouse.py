"""Wheelhouses: a folder of wheels with an index of its own, for hosts that fetch nothing.

A lock has the hashes of the files on a package index. A wheel that was built from a locked
source distribution has another one, which nobody can know beforehand. So the index of a
wheelhouse has the SHA-256 of each file in it, and of the source distribution where there is
one; it is itself digested. What is installed from is a requirements file with exactly these
hashes, made only of files that the lock itself vouches for: it has the hash of the wheel, or
of the source that the wheel was built from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.env.canonical import digest
from scalems.errors import EnvironmentNotReady, ScalemsError
from scalems.host.files import write_atomic
from scalems.host.process import mark

if TYPE_CHECKING:
    from packaging.tags import Tag as WheelTag

    from scalems.env.lock import Pin
    from scalems.env.tag import Tag

FORMAT = 1
WITH_SOURCES = 2
"""Format of an index with source distributions, which earlier versions do not know."""
INDEX = "index.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]{0,250}")


class WheelhouseError(ScalemsError):
    """A wheelhouse is damaged, or does not hold what a lock asks for."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel.

    :param name: normalized name of its distribution.
    :param sha256: of the file, as hex.
    :param size: in bytes.
    :param sdist: SHA-256 of the source distribution that it was built from; empty if it is
        from an index.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    path: Path
    sdist: str = ""

    def serves(self, pin: Pin) -> bool:
        """Whether a lock's pin vouches for it."""
        return (self.name, self.version) == (pin.name, pin.version) and (
            f"sha256:{self.sdist or self.sha256}" in pin.hashes
        )

    def tags(self) -> frozenset[WheelTag]:
        """Return the Pythons and platforms that it is for (PEP 425)."""
        from packaging.utils import parse_wheel_filename

        return parse_wheel_filename(self.filename)[3]

    def entry(self) -> dict[str, str | int]:
        """Return it as a line of an index."""
        data: dict[str, str | int] = {
            "name": self.name,
            "version": self.version,
            "filename": self.filename,
            "sha256": self.sha256,
            "size": self.size,
        }
        return {**data, "sdist": self.sdist} if self.sdist else data


@dataclass(frozen=True, kw_only=True)
class Sdist:
    """A source distribution that is built where it is used.

    :param name: normalized name of its distribution.
    :param sha256: of the file, as hex; one that the lock has.
    :param size: in bytes.
    :param needs: text of a lock of what its build needs.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int
    path: Path
    needs: str = ""

    def serves(self, pin: Pin) -> bool:
        """Whether a lock's pin vouches for it."""
        known = (self.name, self.version) == (pin.name, pin.version)
        return known and f"sha256:{self.sha256}" in pin.hashes

    def entry(self) -> dict[str, str | int]:
        """Return it as a line of an index."""
        fields = ("name", "version", "filename", "sha256", "size", "needs")
        return {field: getattr(self, field) for field in fields}


@dataclass(frozen=True)
class Wheelhouse:
    """Wheels for one or more environments and targets.

    :param folder: where all of them are, if it is one.
    :param sources: what is to be built there, against what is there.
    """

    wheels: tuple[Wheel, ...]
    folder: Path | None = None
    sources: tuple[Sdist, ...] = ()

    @property
    def files(self) -> tuple[Wheel | Sdist, ...]:
        """All that is in it."""
        return (*self.wheels, *self.sources)

    def requirements(self, pins: Iterable[Pin], tag: Tag | None = None) -> str:
        """Return a requirements file of pins, with the hashes of the wheels that are here.

        :param tag: the target that each must have a wheel for.
        :raises WheelhouseError: some are not here; all of them are named.
        """
        lines, missing = [], []
        usable = set(tag.wheels()) if tag else set()
        for pin in pins:
            hashes = sorted(
                wheel.sha256
                for wheel in self.wheels
                if wheel.serves(pin) and (tag is None or usable & wheel.tags())
            )
            if not hashes:
                missing.append(f"{pin.name}=={pin.version}")
            given = (f"--hash=sha256:{one}" for one in hashes)
            lines.append(" \\\n    ".join([f"{pin.name}=={pin.version}", *given]) + "\n")
        if missing:
            raise WheelhouseError(
                f"no wheel that the lock vouches for{f' and that runs on {tag}' if tag else ''} "
                f"is there of {', '.join(missing)}",
                remedy="make the bundle again from the locks as they are now"
                + (f", with --target {tag}" if tag else ""),
            )
        return "".join(lines)


def merge(many: Iterable[Sequence[Wheel]], sources: Iterable[Sdist] = ()) -> Wheelhouse:
    """Return one wheelhouse of several collections of wheels; what is in two is there once."""
    found = {wheel.sha256: wheel for wheels in many for wheel in wheels}
    built = {one.sha256: one for one in sources}
    return Wheelhouse(
        tuple(sorted(found.values(), key=lambda wheel: wheel.filename)),
        sources=tuple(sorted(built.values(), key=lambda one: one.filename)),
    )


def index(house: Wheelhouse) -> str:
    """Return the text of a wheelhouse's index, with a digest over itself; no paths, no clock."""
    files = sorted((wheel.entry() for wheel in house.wheels), key=lambda one: str(one["filename"]))
    data: dict[str, Any] = {"format": FORMAT, "files": files}
    if house.sources:
        sources = sorted(house.sources, key=lambda one: one.filename)
        data |= {"format": WITH_SOURCES, "sources": [one.entry() for one in sources]}
    return json.dumps({**data, "digest": digest("wheelhouse", data)}, indent=1) + "\n"


def write(folder: Path, house: Wheelhouse) -> None:
    """Put wheels and their index into a folder; the index last.

    :raises OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for one in house.files:
        place(one.path, folder / one.filename)
    write_atomic(folder / INDEX, index(house))


def read(folder: Path) -> Wheelhouse:
    """Read a wheelhouse whose every byte is as its index says.

    :raises WheelhouseError: the index or a file is missing or was changed; all are named.
    """
    try:
        house = parse((folder / INDEX).read_text(encoding="utf-8"), folder=folder)
    except OSError as error:
        raise WheelhouseError(f"{folder} is not a wheelhouse: {error.strerror}") from error
    damaged = [one.filename for one in house.files if not intact(one.path, one)]
    if damaged:
        raise WheelhouseError(
            f"files of the wheelhouse {folder} are missing or were changed: {', '.join(damaged)}",
            remedy="ship it again; nothing was installed from it",
        )
    return house


def parse(text: str, *, folder: Path) -> Wheelhouse:
    """Read the text of an index.

    :param folder: where its files are.
    :raises WheelhouseError: it is not one, was changed, or names a file that is elsewhere.
    """
    try:
        data = json.loads(text)
        claimed = data.pop("digest")
        if data["format"] not in (FORMAT, WITH_SOURCES):
            raise ValueError("it is of another version of scalems")
        if claimed != digest("wheelhouse", data):
            raise ValueError("its digest is wrong")
        return Wheelhouse(
            tuple(_wheel(entry, folder) for entry in data["files"]),
            folder,
            tuple(_sdist(entry, folder) for entry in data.get("sources", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WheelhouseError(
            f"the index of the wheelhouse {folder} is not one, or was changed: {error}",
            remedy="ship it again; nothing was installed from it",
        ) from None


def _wheel(entry: dict[str, Any], folder: Path) -> Wheel:
    filename = str(entry["filename"])
    if not filename.endswith(".whl") or filename != os.path.basename(filename):  # noqa: PTH119
        raise ValueError(f"{filename!r} is not the name of a wheel")
    if not _SHA256.fullmatch(str(entry["sha256"])):
        raise ValueError(f"{filename} has no SHA-256")
    wheel = Wheel(
        name=str(entry["name"]),
        version=str(entry["version"]),
        filename=filename,
        sha256=str(entry["sha256"]),
        size=int(entry["size"]),
        path=folder / filename,
        sdist=str(entry.get("sdist", "")),
    )
    wheel.tags()
    return wheel


def _sdist(entry: dict[str, Any], folder: Path) -> Sdist:
    filename = str(entry["filename"])
    if not filename.endswith((".tar.gz", ".zip")) or not _SAFE.fullmatch(filename):
        raise ValueError(f"{filename!r} is not the name of a source distribution")
    if not _SHA256.fullmatch(str(entry["sha256"])):
        raise ValueError(f"{filename} has no SHA-256")
    return Sdist(
        name=str(entry["name"]),
        version=str(entry["version"]),
        filename=filename,
        sha256=str(entry["sha256"]),
        size=int(entry["size"]),
        path=folder / filename,
        needs=str(entry["needs"]),
    )


def intact(path: Path, wheel: Wheel | Sdist) -> bool:
    """Whether a file is the one that it should be, by size and digest."""
    try:
        return path.stat().st_size == wheel.size and sha256(path) == wheel.sha256
    except OSError:
        return False


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex.

    :raises OSError: it cannot be read.
    """
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def place(source: Path, target: Path) -> None:
    """Put a file that never changes in another place, linked where the file system can.

    :raises OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{mark()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A distribution that cannot be had for a target."""

    name: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What could be had of a lock for a target, and what could not."""

    wheels: tuple[Wheel, ...]
    missing: tuple[Missing, ...] = ()

    def require(self, what: str) -> tuple[Wheel, ...]:
        """Return the wheels if all are there.

        :param what: such as ``task for cp312-manylinux_2_28_aarch64``.
        :raises EnvironmentNotReady: naming each that is not, with the reason.
        """
        if self.missing:
            raise EnvironmentNotReady(
                f"these packages of {what} cannot be had:\n"
                + "\n".join(f"  {one}" for one in self.missing),
                remedy="see the reason of each; a package that must be compiled is compiled on the "
                "target if the env spec has it in `no-binary`, or can be collected on a machine "
                "like the target, with its Python",
            )
        return self.wheels
