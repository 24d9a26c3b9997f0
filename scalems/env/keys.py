"""`env explain-key`: why two builds have different input fingerprints, item by item."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import (
    bytecode,
    compile,
    fingerprint,
    layout,
    lock,
    manifest,
    mpi,
    site,
    spec,
    target,
    wheel,
)
from scalems.env.engine import choose
from scalems.env.locking import Notify, Options, current
from scalems.env.manifest import Manifest
from scalems.env.package import Prepared
from scalems.env.prepare import workshop
from scalems.env.selection import select
from scalems.errors import UsageError
from scalems.resource.config import find_project

_DIGEST = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """An input fingerprint, and what it is made of.

    :param items: values by what they are of, such as ``distribution numpy``.
    :param files: digests of the files of scalems.
    :param complete: whether all of it is known: a build of an older scalems lacks its pins.
    :param stale: why a sync would resolve its lock first, so that other pins may come.
    """

    name: str
    digest: str
    items: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    stale: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyDifference:
    """Why two fingerprints differ.

    :param items: values of both sides, of what differs; empty where a side has none.
    :param files: files of scalems that differ, if its digest does.
    """

    sides: tuple[Key, Key]
    items: Mapping[str, tuple[str, str]]
    files: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both are the same fingerprint, and will be when they are built."""
        one, other = self.sides
        return one.digest == other.digest and not (one.stale or other.stale)

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "sides": [
                {"name": one.name, "input_digest": one.digest, "stale": one.stale}
                for one in self.sides
            ],
            "same": self.same,
            "items": {name: list(pair) for name, pair in self.items.items()},
            "scalems_files": list(self.files),
            "complete": all(one.complete for one in self.sides),
        }


def compare(one: Key, other: Key) -> KeyDifference:
    """Compare two fingerprints by what they are made of."""
    complete = one.complete and other.complete
    items = {
        name: (one.items.get(name, ""), other.items.get(name, ""))
        for name in sorted(one.items.keys() | other.items.keys())
        if one.items.get(name) != other.items.get(name)
        if complete or not name.startswith("hashes of ")
    }
    files: list[str] = []
    if "scalems" in items and one.files and other.files:
        names = sorted(one.files.keys() | other.files.keys())
        files = [name for name in names if one.files.get(name) != other.files.get(name)]
    return KeyDifference(sides=(one, other), items=items, files=tuple(files))


def find(
    text: str, *, resource: str | None = None, folder: Path | None = None, notify: Notify
) -> Key:
    """Return the fingerprint that a person means.

    :param text: an environment (see :func:`scalems.env.selection.select`); ``lock:NAME``, which is
        what a sync would build now; a build by its folder or by the start of its fingerprint.
    :param folder: the project's, for ``lock:``.
    :raises UsageError: there is no such thing; near names are offered.
    """
    if text.startswith("lock:"):
        return _planned(text, folder, notify)
    place = layout.default()
    if Path(text).is_dir():
        return _built(text, Path(text).absolute())
    by_digest = [
        path
        for path in sorted(place.builds.glob("[!.]*-*"))
        if path.name == text or (_DIGEST.fullmatch(text) and _of(path).startswith(text[:16]))
    ]
    if len(by_digest) > 1:
        raise UsageError(f"{text!r} could be {' or '.join(path.name for path in by_digest)}")
    if by_digest:
        return _built(by_digest[0].name, by_digest[0])
    _, env = select(text, resource=resource)
    return _built(text, env.folder)


def _built(name: str, folder: Path) -> Key:
    known = manifest.read(folder)
    if known is None:
        raise UsageError(
            f"{folder} is not a build with a manifest",
            remedy="name an environment, lock:NAME, or a build: see `scalems env list`",
        )
    ours = {"scalems", *known.packages}
    pins = dict(known.pins) or {k: v for k, v in known.versions.items() if k not in ours}
    items = {
        **_common(known.interpreter, known.scalems_digest, pins),
        **_site(known.site, known.software),
        **{f"local package {key}": _local(value) for key, value in known.packages.items()},
        **{f"built here {key}": value[-16:] for key, value in known.compiled.items()},
        **({f"adds to {base['name']}": base["input_digest"][:16]} if (base := known.base) else {}),
    }
    return Key(
        name=name,
        digest=known.input_digest,
        items=items,
        files=_files(folder, known),
        complete=bool(known.pins),
    )


def _planned(text: str, folder: Path | None, notify: Notify) -> Key:
    """Return the fingerprint of what a sync would build now."""
    name = text.partition(":")[2]
    one = spec.load(find_project(folder).env_path(name))
    if not one.lock_path.is_file():
        raise UsageError(f"{name!r} has no lock yet", remedy=f"scalems env lock {name}")
    interpreter = target.find_interpreter(one)
    pins = lock.load(one.lock_path).select(interpreter.markers)
    software = site.require(one.site, env=name)
    taken = {**one.site.to_dict(), "found": software} if one.site else None
    packages: tuple[Prepared, ...] = ()
    if one.packages:
        options = Options(offline=True)
        with workshop(layout.default(), choose("auto"), options, notify=notify) as shop:
            packages = tuple(shop.prepare(one, interpreter))
    uses_mpi = any(pin.name == mpi.PACKAGE for pin in pins)
    world = mpi.launcher(one.site) if uses_mpi else ""
    compiled = compile.select(one, pins, interpreter, {"site": taken, "mpi": world})
    scalems_digest = wheel.source_digest()
    base = _planned(f"lock:{one.base.name}", folder, notify) if one.base else None
    _, stale = current(one, packages, target.client(), interpreter, lock.base_of(one))
    return Key(
        name=text,
        digest=fingerprint.input_digest(
            pins,
            interpreter=interpreter.facts,
            scalems_digest=scalems_digest,
            site=taken,
            packages=packages,
            compiled=compiled,
            mpi=world,
            base=base.digest if base else "",
        ),
        items={
            **_common(interpreter.facts, scalems_digest, fingerprint.pin_items(pins)),
            **_site(one.site.to_dict() if one.site else {}, software),
            **{f"local package {each.name}": _local(each.to_dict()) for each in packages},
            **{f"built here {each.pin.name}": each.key[:16] for each in compiled},
            **({f"adds to {base.name.removeprefix('lock:')}": base.digest[:16]} if base else {}),
        },
        stale=stale or (base.stale if base else ""),
        files={
            name: hashlib.sha256(data).hexdigest() for name, data in wheel.source_files().items()
        },
    )


def _common(
    interpreter: Mapping[str, str], scalems_digest: str, pins: Mapping[str, str]
) -> dict[str, str]:
    items = {f"interpreter {key}": value for key, value in interpreter.items()}
    items["scalems"] = scalems_digest[:16]
    for name, pin in pins.items():
        version, _, hashes = pin.partition(" ")
        items[f"distribution {name}"] = version
        if hashes:
            items[f"hashes of {name}"] = hashes
    return items


def _site(data: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, str]:
    items = {key: "; ".join(data[key]) for key in ("modules", "shell") if data.get(key)}
    for one in data.get("software", ()):
        items[f"software {one['name']}"] = json.dumps(one, sort_keys=True)
    return {**items, **{f"version of {name}": version for name, version in found.items()}}


def _local(package: Mapping[str, Any]) -> str:
    link = " (linked)" if package.get("editable") else ""
    return f"{package['version']} {package['digest'][:16]}{link}"


def _files(folder: Path, known: Manifest) -> dict[str, str]:
    """Return the digests of the files of scalems in a build, as a wheel names them."""
    try:
        prefix = probe.site_packages(folder / "venv").relative_to(folder / "venv").as_posix()
    except FileNotFoundError:
        return {}
    table = manifest.read_files(folder, known) or {}
    start = f"{prefix}/scalems/"
    return {
        path.removeprefix(f"{prefix}/"): entry.sha256
        for path, entry in table.items()
        if path.startswith(start) and not bytecode.is_cached(path)
    }


def _of(build: Path) -> str:
    return build.name.rpartition("-")[2]
