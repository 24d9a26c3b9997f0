"""The builds that are there: who uses each, and which ones nothing refers to any more."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env import build, codecache, lease, manifest, state
from scalems.env.guard import waiting
from scalems.env.layout import Layout
from scalems.env.locking import Notify
from scalems.env.manifest import Manifest
from scalems.env.role import Role
from scalems.env.state import Synced
from scalems.failpoint import failpoint
from scalems.host import filelock

_KEPT = 30 * 86400.0  # seconds that what can be had again is kept after its last use


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A build that is there.

    :param manifest: ``None`` if it is not usable.
    :param current: labels of the resources that use it now.
    :param generations: those that it belongs to, as ``LABEL#NUMBER``.
    :param role: what it is for where it is used now; that of its manifest is of the time when it
        was built.
    :param leased: whether a run uses it now.
    :param bytes: size of its files.
    """

    folder: Path
    manifest: Manifest | None
    current: tuple[str, ...]
    generations: tuple[str, ...]
    leased: bool
    bytes: int
    role: Role | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        known = self.manifest
        role = self.role or (known.role if known else None)
        return {
            "folder": str(self.folder),
            "name": known.name if known else None,
            "role": role.value if role else None,
            "python": known.interpreter["version"] if known else None,
            "created": known.created if known else None,
            "distributions": len(known.versions) if known else None,
            "input_digest": known.input_digest if known else None,
            "content_digest": known.content_digest if known else None,
            "current": list(self.current),
            "generations": list(self.generations),
            "in_use": self.leased,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What `env gc` removed, or would remove.

    :param builds: those that nothing refers to.
    :param forgotten: generations that cannot be returned to afterwards.
    :param wheels: those of scalems but the newest, and those of local packages that no build has.
    :param compiled: what Python has compiled for builds, long ago.
    :param bytes: size of all of it.
    """

    builds: tuple[Kept, ...]
    forgotten: tuple[Synced, ...]
    wheels: tuple[Path, ...]
    compiled: tuple[Path, ...]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "builds": [one.to_dict() for one in self.builds],
            "forgotten": [f"{one.label}#{one.generation}" for one in self.forgotten],
            "wheels": [str(path) for path in self.wheels],
            "compiled": [str(path) for path in self.compiled],
            "bytes": self.bytes,
        }


def builds(place: Layout) -> list[Kept]:
    """Return all builds, by name and age."""
    resources = {label: state.read(place, label) for label in state.labels(place)}
    current, roles = _using(resources), _roles(resources)
    generations: dict[Path, list[str]] = {}
    for label in state.labels(place):
        for one in state.generations(place, label):
            for env in one.builds:
                generations.setdefault(env.folder, []).append(f"{label}#{one.generation}")
    found = []
    for folder in sorted(path for path in place.builds.glob("[!.]*") if path.is_dir()):
        known = manifest.read(folder)
        found.append(
            Kept(
                folder=folder,
                manifest=known,
                current=tuple(current.get(folder, ())),
                generations=tuple(generations.get(folder, ())),
                leased=lease.held(folder),
                bytes=known.bytes if known else _size(folder),
                role=roles.get(folder),
            )
        )
    return sorted(found, key=_age)


def _age(one: Kept) -> tuple[str, str]:
    return (one.manifest.name, one.manifest.created) if one.manifest else ("", one.folder.name)


def collect(place: Layout, *, keep: int, dry_run: bool, notify: Notify) -> Collection:
    """Remove builds that no resource, no kept generation and no running process refers to.

    :param keep: how many generations of each resource can be returned to afterwards, beside
        the one in use.
    :param dry_run: only tell what would be removed.
    :raises OSError: it cannot be removed.
    """
    with filelock.hold(place.sync_lock, on_wait=waiting(notify, "a sync is running")):
        forgotten = _old(place, keep)
        gone = {f"{one.label}#{one.generation}" for one in forgotten}
        unused = tuple(
            one
            for one in builds(place)
            if not (one.current or one.leased or set(one.generations) - gone)
        )
        # They are packed again when needed.
        wheels = sorted(place.wheels.rglob("*.whl"), key=lambda path: path.stat().st_mtime)[:-1]
        wheels += _unused_packages(place, {one.folder for one in unused})
        wheels += _long_unused(place)
        compiled = codecache.unused(place.compiled, since=time.time() - _KEPT)
        result = Collection(
            builds=unused,
            forgotten=tuple(forgotten),
            wheels=tuple(wheels),
            compiled=tuple(compiled),
            bytes=sum(one.bytes for one in unused) + sum(map(_size, [*wheels, *compiled])),
        )
        if not dry_run:
            _remove(place, result, notify)
        return result


def _unused_packages(place: Layout, unused: set[Path]) -> list[Path]:
    """Return the wheels of local packages that were in no build but those that nobody needs."""
    kept = [known for one in builds(place) if one.folder not in unused and (known := one.manifest)]
    needed = {package["wheel"] for known in kept for package in known.packages.values()}
    needed |= {folder for known in kept for folder in known.compiled.values()}
    return [one for one in sorted(place.packages.glob("*/*.whl")) if one.parent.name not in needed]


def _long_unused(place: Layout) -> list[Path]:
    """Return collected wheels that were not read for long, and are of no bundled package."""
    needed = {
        package["wheel"]
        for one in builds(place)
        if one.manifest
        for package in one.manifest.packages.values()
    }
    limit = time.time() - _KEPT
    found = []
    for path in sorted((place.wheelhouse / "files").glob("*/[!.]*")):
        status = path.stat()
        if path.parent.name not in needed and max(status.st_atime, status.st_mtime) < limit:
            found.append(path)
    return found


def _remove(place: Layout, what: Collection, notify: Notify) -> None:
    for one in what.forgotten:
        state.forget(place, one)
        failpoint("gc.forgotten")
    for kept in what.builds:
        with lease.free(kept.folder) as free:
            if free:
                notify(f"removing {kept.folder.name}")
                build.discard(kept.folder)
                failpoint("gc.removed")
    for path in (*what.wheels, *what.compiled):
        path.unlink(missing_ok=True)
        failpoint("gc.wheel")
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # it had nothing else
    build.sweep(place)


def _old(place: Layout, keep: int) -> list[Synced]:
    """Return the generations that nobody uses and that are not among the newest others."""
    old: list[Synced] = []
    for label in state.labels(place):
        used = state.read(place, label)
        in_use = {env.folder for env in used.builds} if used else set()
        others = [
            one
            for one in state.generations(place, label)
            if (used is None or one.generation != used.generation)
            and not any(lease.held(env.folder) for env in one.envs if env.folder not in in_use)
        ]
        old += others[: max(len(others) - keep, 0)]
    return old


def _using(resources: Mapping[str, Synced | None]) -> dict[Path, list[str]]:
    used: dict[Path, list[str]] = {}
    for label, synced in resources.items():
        for env in synced.builds if synced else ():
            used.setdefault(env.folder, []).append(label)
    return used


def _roles(resources: Mapping[str, Synced | None]) -> dict[Path, Role]:
    """Return what each build in use is for, by the specs of the last syncs."""
    roles: dict[Path, Role] = {}
    for synced in resources.values():
        for env in synced.builds if synced else ():
            same = roles.setdefault(env.folder, env.role) is env.role
            roles[env.folder] = env.role if same else Role.BOTH
    return roles


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(
        os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
        for root, _, names in os.walk(path)
        for name in names
    )
