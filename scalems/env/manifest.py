"""Manifests: what a build must contain. Written last, and the only thing that makes it usable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalems.env.canonical import digest
from scalems.env.fingerprint import Entry, stamp
from scalems.env.layout import MANIFEST
from scalems.env.role import Role
from scalems.host.files import write_atomic

FORMAT = 3
FILES = "files.json"
STATS = "stats.txt"
OWN = (MANIFEST, FILES, STATS)
"""What is beside the venv of a build."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was verified when a build was made.

    :param interpreter: see :func:`scalems.probe.interpreter`.
    :param site: see :meth:`scalems.env.site.Site.to_dict`.
    :param software: versions of its programs.
    :param python: path of the interpreter that the venv links to, fully resolved.
    :param python_stat: its size in bytes and modification time in nanoseconds.
    :param versions: distributions by normalized name.
    :param cpu: level of the CPU that it was built on, such as ``x86-64-v3``.
    :param top_level: entries of site-packages.
    :param records: size and modification time of each distribution's RECORD and each .pth file.
    :param files_sha256: digest of the file table beside the manifest.
    :param stats_sha256: digest of the list of sizes and times beside it; empty if there is none.
    :param packages: local packages, see :meth:`scalems.env.package.Prepared.to_dict`.
    :param pins: the lock as it applied, see :func:`scalems.env.fingerprint.pin_items`; empty if
        an older scalems made the build.
    :param compiled: distributions that were built here, and the folders of their wheels.
    :param build_rules: digest of how the spec wants packages built.
    :param mpi: what mpi4py runs with, see :func:`scalems.env.mpi.library`.
    :param base: of the build that it adds to: its environment's ``name``, its ``folder`` beside
        this one, and both digests; ``versions``, ``pins`` and ``packages`` are of both builds.
    :param created: UTC time, ISO 8601.
    """

    name: str
    role: Role
    input_digest: str
    content_digest: str
    scalems_digest: str
    lock_inputs: str
    engine: str
    created: str
    seconds: float
    interpreter: Mapping[str, str]
    site: Mapping[str, Any]
    software: Mapping[str, str]
    python: str
    python_stat: tuple[int, int]
    versions: Mapping[str, str]
    top_level: tuple[str, ...]
    records: Mapping[str, tuple[int, int]]
    files: int
    bytes: int
    files_sha256: str
    packages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)
    build_rules: str = ""
    mpi: Mapping[str, str] = field(default_factory=dict)
    stats_sha256: str = ""
    cpu: str = ""
    base: Mapping[str, str] = field(default_factory=dict)


def to_dict(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest in values that JSON can hold, with a digest over itself."""
    data = {"format": FORMAT, **dataclasses.asdict(manifest), "role": manifest.role.value}
    return {**data, "digest": digest("manifest", data)}


def from_dict(data: Mapping[str, Any]) -> Manifest:
    """Read a manifest back.

    :raises ValueError: it is none, or was changed.
    """
    try:
        values = dict(data)
        if values.pop("digest") != digest("manifest", values) or values.pop("format") != FORMAT:
            raise ValueError("the manifest was changed")
        values["role"] = Role(values["role"])
        values["python_stat"] = tuple(values["python_stat"])
        values["top_level"] = tuple(values["top_level"])
        values["records"] = {name: tuple(value) for name, value in values["records"].items()}
        return Manifest(**values)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no manifest: {error}") from error


def write(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, with a digest over itself; from here on the build counts."""
    write_atomic(folder / MANIFEST, text(manifest))


def text(manifest: Manifest) -> str:
    """Return the text of a manifest's file."""
    return json.dumps(to_dict(manifest), indent=1, sort_keys=True) + "\n"


def read(folder: Path) -> Manifest | None:
    """Read a build's manifest; ``None`` if there is none, or it was changed, or is another's."""
    try:
        known = from_dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
    return known if folder.name.endswith(known.input_digest[:16]) else None


def write_files(folder: Path, entries: Mapping[str, Entry]) -> str:
    """Write the table of a build's files; return its digest for the manifest."""
    table = {path: [e.size, e.mtime_ns, e.sha256, e.mode] for path, e in sorted(entries.items())}
    packed = json.dumps(table, separators=(",", ":"))
    write_atomic(folder / FILES, packed)
    return hashlib.sha256(packed.encode()).hexdigest()


def read_files(folder: Path, manifest: Manifest) -> dict[str, Entry] | None:
    """Read the table of a build's files; ``None`` if it is not the one of its manifest."""
    raw = _bytes(folder / FILES, manifest.files_sha256)
    if raw is None:
        return None
    table: dict[str, Any] = json.loads(raw)
    return {path: Entry(*values) for path, values in table.items()}


def write_stats(folder: Path, entries: Mapping[str, Entry]) -> str:
    """Write what :func:`scalems.env.fingerprint.stamps` must give; return its digest.

    It says nothing that the table of files does not: it is there to be compared as it stands,
    since reading the table takes as long as looking at all the files.

    :return: for the manifest; empty if a name cannot be written.
    """
    stamps = [stamp(path, e.size, e.mtime_ns, e.mode) for path, e in sorted(entries.items())]
    packed = "\0".join(stamps)
    try:
        raw = packed.encode()
    except UnicodeEncodeError:
        return ""
    write_atomic(folder / STATS, packed)
    return hashlib.sha256(raw).hexdigest()


def read_stats(folder: Path, manifest: Manifest) -> set[str]:
    """Read the stamps of a build's files.

    :return: empty if they, or the table of files, are not those of the manifest.
    """
    table, raw = (
        _bytes(folder / name, sha256)
        for name, sha256 in ((FILES, manifest.files_sha256), (STATS, manifest.stats_sha256))
    )
    return set() if table is None or raw is None else set(raw.decode().split("\0"))


def _bytes(path: Path, sha256: str) -> bytes | None:
    """Return what is in a file; ``None`` if it has another digest."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    return raw if hashlib.sha256(raw).hexdigest() == sha256 else None
