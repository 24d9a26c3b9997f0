"""Collect the wheels of a lock for a target, this machine or another, into a store.

pip fetches them: it alone keeps the files that an index has, for any target, with the hashes
of the lock enforced (`uv pip` installs but keeps no files). What exists as source only is
built once, by uv or pip, with :mod:`scalems.env.wheelbuild`. All is kept by content, and so
is which file was taken for which pin and target, so that the same lock gives the same wheels.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalems.env import wheelbuild
from scalems.env.canonical import digest
from scalems.env.engine import InstallError, explain, unreachable
from scalems.env.lock import Pin
from scalems.env.locking import Notify
from scalems.env.tag import Tag
from scalems.env.wheelbuild import BuildRefused
from scalems.env.wheelhouse import Collected, Missing, Wheel, intact, place, sha256
from scalems.host import local
from scalems.host.files import write_atomic
from scalems.host.local import CommandFailed, run
from scalems.probe import normalize

_NONE = re.compile(r"No matching distribution found for (?P<name>[A-Za-z0-9][\w.-]*)==")
_FETCHED = re.compile(r"\s*(?:Downloading|Using cached) (?P<file>\S+ \(.+\))")


@dataclass(frozen=True)
class Store:
    """Wheels that were fetched or built, by content."""

    root: Path

    def known(self, pin: Pin, tag: Tag | None) -> Wheel | None:
        """Return the wheel that was taken for a pin and a target, if it still is what it was.

        :param tag: ``None`` for one that was built and serves any target.
        """
        try:
            data = json.loads(self._pick(pin, tag).read_text(encoding="utf-8"))
            wheel = Wheel(**data, path=self._file(data["sha256"], data["filename"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return wheel if wheel.serves(pin) and intact(wheel.path, wheel) else None

    def add(self, pin: Pin, tag: Tag, path: Path, *, sdist: str = "") -> Wheel:
        """Keep a wheel for a pin and a target.

        :param sdist: SHA-256 of the source that it was built from.
        :raises InstallError: the lock vouches neither for it nor for its source.
        """
        found = sha256(path)
        wheel = Wheel(
            name=pin.name,
            version=pin.version,
            filename=path.name,
            sha256=found,
            size=path.stat().st_size,
            path=self._file(found, path.name),
            sdist=sdist,
        )
        if not wheel.serves(pin):
            raise InstallError(f"{path.name} does not have the hash that the lock demands")
        if not intact(wheel.path, wheel):
            place(path, wheel.path)
        for one in (tag, None) if sdist and path.stem.endswith("-none-any") else (tag,):
            write_atomic(self._pick(pin, one), json.dumps(wheel.entry()))
        return wheel

    def _file(self, found: str, filename: str) -> Path:
        return self.root / "files" / found / filename

    def _pick(self, pin: Pin, tag: Tag | None) -> Path:
        what = digest("wheel for", [pin.name, pin.version, list(pin.hashes), str(tag or "any")])
        return self.root / "picks" / f"{what}.json"


def collect(
    pins: Sequence[Pin],
    tag: Tag,
    *,
    store: Path,
    offline: bool = False,
    notify: Notify,
) -> Collected:
    """Return a wheel for each pin, fetched or built unless the store has it.

    :param pins: the lock as it applies to the target's markers.
    :param tag: the target; :func:`scalems.env.tag.of` makes one of an interpreter.
    :param store: folder that keeps the wheels, :attr:`scalems.env.layout.Layout.wheelhouse`.
    :raises InstallError: the index cannot be reached, a file has another hash than the lock
        demands, or the disk is full. What cannot be had for the target is no error here.
    """
    kept = Store(store)
    taken = {pin: kept.known(pin, tag) or kept.known(pin, None) for pin in pins}
    found = {pin: wheel for pin, wheel in taken.items() if wheel}
    wanted = [pin for pin in pins if pin not in found]
    if not wanted:
        return _collected(pins, found, [])
    if offline:
        reason = "it was never collected for this target; run once without --offline"
        missing = [Missing(name=p.name, version=p.version, reason=reason) for p in wanted]
        return _collected(pins, found, missing)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=store) as name:
        fetch = _Fetch(Path(name), tag, notify=notify)
        sources = fetch.wheels(wanted)
        for pin in wanted:
            if path := fetch.files.get(pin.name):
                found[pin] = kept.add(pin, tag, path)
        missing = _build(sources, tag, kept, fetch, found, notify=notify)
    return _collected(pins, found, missing)


def _collected(
    pins: Sequence[Pin], found: dict[Pin, Wheel], missing: Sequence[Missing]
) -> Collected:
    wheels = tuple(found[pin] for pin in pins if pin in found)
    return Collected(wheels=wheels, missing=tuple(missing))


def _build(
    sources: Sequence[Pin],
    tag: Tag,
    kept: Store,
    fetch: _Fetch,
    found: dict[Pin, Wheel],
    *,
    notify: Notify,
) -> list[Missing]:
    """Build what has no wheel; return what cannot be built for the target."""

    def make(pin: Pin) -> Wheel | Missing:
        if wheel := kept.known(pin, None):
            return wheel
        try:
            sdist = fetch.sdist(pin)
            notify(f"building a wheel of {sdist.name}")
            made = wheelbuild.build(sdist, tag, fetch.folder / f"built-{pin.name}")
            return kept.add(pin, tag, made, sdist=sha256(sdist))
        except BuildRefused as error:
            return Missing(name=pin.name, version=pin.version, reason=error.cause)

    with local.threads(os.cpu_count() or 2) as pool:
        made = list(pool.map(make, sources))
    found.update({p: one for p, one in zip(sources, made, strict=True) if isinstance(one, Wheel)})
    return [one for one in made if isinstance(one, Missing)]


class _Fetch:
    """Runs pip for one target."""

    def __init__(self, folder: Path, tag: Tag, *, notify: Notify) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}
        """Wheels that were fetched, by distribution."""
        self._tag = tag
        self._notify = notify

    def wheels(self, pins: Sequence[Pin]) -> list[Pin]:
        """Fetch the wheels of pins; return those that have none for the target."""
        # pip stops at the first that has none. A lock has one hash of what is source only, so
        # these come first, and the many others are asked for once.
        rest = sorted(pins, key=lambda pin: len(pin.hashes) > 1)
        without: list[Pin] = []
        self._notify(f"fetching {len(rest)} wheels for {self._tag}")
        while rest:
            try:
                into = self._download(rest, "wheels", ["--only-binary", ":all:"])
                break
            except CommandFailed as error:
                name = _unmatched(error)
                if name is None or name not in {pin.name for pin in rest}:
                    cause, remedy = explain(error, doing=f"fetching wheels for {self._tag}")
                    raise InstallError(cause, remedy=remedy) from error
                without += [pin for pin in rest if pin.name == name]
                rest = [pin for pin in rest if pin.name != name]
        for path in into.glob("*.whl") if rest else ():
            self.files[normalize(path.name.partition("-")[0])] = path
        return without

    def sdist(self, pin: Pin) -> Path:
        """Fetch a source distribution.

        :raises BuildRefused: there is none that the lock vouches for.
        """
        only = ["--no-binary", ":all:"]
        try:
            try:
                # pip asks it for its metadata, which the setuptools here mostly can give: making
                # an environment for that takes ten times as long.
                into = self._download([pin], f"source-{pin.name}", [*only, "--no-build-isolation"])
            except CommandFailed as error:
                if _unmatched(error) or unreachable(error):
                    raise
                into = self._download([pin], f"source-{pin.name}", only)
        except CommandFailed as error:
            if _unmatched(error) == pin.name:
                raise BuildRefused(
                    f"there is no wheel for {self._tag}, and no source distribution"
                ) from error
            cause, remedy = explain(error, doing=f"fetching the source of {pin.name}")
            if remedy is None:  # its own metadata does not come out of it
                raise BuildRefused(f"its source cannot be used here: {_last(cause)}") from error
            raise InstallError(cause, remedy=remedy) from error
        return next(path for path in into.iterdir() if path.is_file())

    def _download(self, pins: Sequence[Pin], name: str, only: Sequence[str]) -> Path:
        into = self.folder / name
        into.mkdir(exist_ok=True)
        wanted = self.folder / f"{name}.txt"
        wanted.write_text("".join(pin.requirement() + "\n" for pin in pins))
        argv = ["download", "--no-deps", "--require-hashes", "--progress-bar", "off"]
        argv += ["--dest", str(into), "--requirement", str(wanted), *only]
        argv += ["--python-version", self._tag.python, "--implementation", "cp"]
        argv += [word for name in self._tag.platforms() for word in ("--platform", name)]
        pip(argv, on_line=self._tell)
        return into

    def _tell(self, line: str) -> None:
        if match := _FETCHED.match(line):
            self._notify(f"fetching {match['file']}", detail=True)


def pip(argv: Sequence[str], *, on_line: Callable[[str], None] | None = None) -> None:
    """Run the client's pip, with the user's own index settings.

    :param on_line: called with each line that it prints.
    :raises CommandFailed: it fails.
    """
    # What it prints on standard output is its progress.
    words = ["sh", "-c", 'exec "$@" 1>&2', "sh", sys.executable, "-I", "-m", "pip", *argv]
    run(words, env=wheelbuild.settings(Path(sys.executable).parent), cwd=Path("/"), on_line=on_line)


def _unmatched(error: CommandFailed) -> str | None:
    """Return the distribution of which an index has no file that will do."""
    if error.completed is None or unreachable(error):
        return None
    match = _NONE.search(error.completed.stderr)
    return normalize(match["name"]) if match else None


def _last(cause: str) -> str:
    return cause.strip().splitlines()[-1].strip()
