"""Source distributions that are built where they are used, and what their builds need.

What is in ``no-binary`` of an env spec is to be built against what is there: the MPI of the
site, its compiler. So a host that fetches nothing gets the source, whose hash the lock has, and
wheels of all that its build asks for by PEP 517 (https://peps.python.org/pep-0517/). These are
resolved and hashed as a lock is; the library ``build`` asks the build backend for them.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalems.env import collect, lock, target, wheelhouse
from scalems.env.canonical import digest
from scalems.env.engine import Engine, InstallError, explain
from scalems.env.engine.uv import find_uv
from scalems.env.lock import Lock, Pin
from scalems.env.locking import Notify
from scalems.env.spec import EnvSpec
from scalems.env.tag import Tag
from scalems.env.wheelhouse import Sdist, Wheel, Wheelhouse, place, sha256
from scalems.errors import UsageError
from scalems.host.files import write_atomic
from scalems.host.local import CommandFailed, run, without_credentials
from scalems.host.scratch import scratch
from scalems.tomlfile import near

_PYTHON = ">=3.10"
"""The Pythons that what a build needs is locked for: all that scalems runs on."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Makes sources ready for where they are built.

    :param store: see :attr:`scalems.env.layout.Layout.wheelhouse`.
    """

    store: Path
    engine: Engine
    offline: bool
    notify: Notify

    def source(self, pin: Pin, *, python: str) -> Sdist:
        """Return the source of a distribution, fetched unless it was.

        :param python: the Python that it is for, as ``3.12``.
        :raises InstallError: the index has none that the lock vouches for, or is not reached.
        """
        known = self.store / "sources" / f"{digest('source of', [pin.name, *pin.hashes])}.txt"
        try:
            found, filename = known.read_text(encoding="utf-8").split()
            path = self._file(found, filename)
            if f"sha256:{found}" in pin.hashes and sha256(path) == found:
                return _sdist(pin, path)
        except (OSError, ValueError):
            pass
        if self.offline:
            raise InstallError(
                f"the source of {pin.name} {pin.version} was never fetched",
                remedy="run once without --offline where there is a network",
            )
        self.notify(f"fetching the source of {pin.name} {pin.version}")
        self.store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".source-", dir=self.store) as name:
            fetched = fetch(pin, Path(name), python=python)
            found = sha256(fetched)
            path = self._file(found, fetched.name)
            place(fetched, path)
        write_atomic(known, f"{found} {path.name}\n")
        return _sdist(pin, path)

    def needs(self, one: Sdist) -> str:
        """Return the text of a lock of what the build of a source needs, the same each time.

        :raises InstallError: its build backend does not tell it.
        :raises ResolveError: it cannot be had.
        """
        what = digest("needs of a build", [one.sha256, self.engine.name])
        kept = self.store / "sources" / f"{what}.lock.txt"
        try:
            text = kept.read_text(encoding="utf-8")
            lock.parse(text, source=str(kept))
            return text
        except (OSError, ValueError, UsageError):
            pass
        if self.offline:
            raise InstallError(
                f"what the build of {one.filename} needs was never asked for",
                remedy="run once without --offline where there is a network",
            )
        self.notify(f"asking {one.filename} what its build needs")
        resolution = self.engine.resolve(
            asked(one.path),
            [],
            python=_PYTHON,
            interpreter=target.client_interpreter(),
            former="",
            upgrade=False,
            offline=False,
        )
        text = f"# python: {resolution.python}\n# inputs: {what}\n{resolution.body}"
        write_atomic(kept, text)
        return text

    def collect(
        self, spec: EnvSpec, locked: Lock, tag: Tag, markers: Mapping[str, str]
    ) -> Wheelhouse:
        """Return all that an environment is built from on a target that asks no index.

        :param locked: its lock.
        :param markers: the environment markers there.
        :raises EnvironmentNotReady: some cannot be had for the target; each is named.
        :raises UsageError: `no-binary` names what is not in the lock.
        """
        pins = locked.select(markers)
        compiled = named(spec, pins)
        # What a layer adds to is built for its base.
        below = set(spec.base.no_binary) if spec.base else set()
        from_wheels = [pin for pin in pins if pin not in compiled and pin.name not in below]
        wheels = self._wheels(from_wheels, tag, spec.name)
        house = self._sources(compiled, tag, markers)
        return wheelhouse.merge([wheels, house.wheels], house.sources)

    def all_of(
        self, pins: Sequence[Pin], tag: Tag, markers: Mapping[str, str], *, what: str
    ) -> Wheelhouse:
        """Return a wheel of each pin, or its source where there can be none for the target.

        :raises EnvironmentNotReady: a wheel that a build needs cannot be had; each is named.
        """
        found = collect.collect(
            pins, tag, store=self.store, offline=self.offline, notify=self.notify
        )
        lacking = {one.name for one in found.missing}
        try:
            house = self._sources([pin for pin in pins if pin.name in lacking], tag, markers)
        except InstallError:
            if self.offline:
                found.require(what)
            raise
        return wheelhouse.merge([found.wheels, house.wheels], house.sources)

    def _sources(self, pins: Sequence[Pin], tag: Tag, markers: Mapping[str, str]) -> Wheelhouse:
        """Return sources, and the wheels that their builds need."""
        wheels, sources = [], []
        for pin in pins:
            one = self.source(pin, python=tag.python)
            text = self.needs(one)
            needed = lock.parse(text, source=f"what {one.filename} needs").select(markers)
            wheels.append(self._wheels(needed, tag, f"the build of {one.filename}"))
            sources.append(replace(one, needs=text))
        return wheelhouse.merge(wheels, sources)

    def _wheels(self, pins: Sequence[Pin], tag: Tag, what: str) -> tuple[Wheel, ...]:
        found = collect.collect(
            pins, tag, store=self.store, offline=self.offline, notify=self.notify
        )
        return found.require(f"{what} for {tag}")

    def _file(self, found: str, filename: str) -> Path:
        return self.store / "files" / found / filename


def named(spec: EnvSpec, pins: Sequence[Pin]) -> list[Pin]:
    """Return those of a lock's pins that an env spec wants built where they are used.

    :raises UsageError: the lock has none of that name; near names are offered.
    """
    by_name = {pin.name: pin for pin in pins}
    for name in spec.no_binary:
        if name not in by_name:
            raise UsageError(
                f"{spec.path}: no-binary: the lock has no {name!r}{near(name, by_name)}",
                remedy="check the spelling, or add it to `dependencies`",
            )
    return [by_name[name] for name in spec.no_binary]


def fetch(pin: Pin, folder: Path, *, python: str) -> Path:
    """Fetch a source distribution that the lock vouches for into a folder.

    :param python: version of the Python that it is for.
    :raises InstallError: there is none, or the index cannot be reached.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(pin.requirement() + "\n")
    into = folder / "download"
    argv = ["download", "--no-deps", "--require-hashes", "--progress-bar", "off"]
    argv += ["--no-binary", pin.name, "--python-version", python]
    argv += ["--dest", str(into), "--requirement", str(wanted)]
    try:
        collect.pip(argv)
    except CommandFailed as error:
        cause, remedy = explain(error, doing=f"fetching the source of {pin.name} {pin.version}")
        raise InstallError(cause, remedy=remedy) from error
    return next(path for path in into.iterdir() if path.is_file())


def asked(source: Path) -> list[str]:
    """Return the requirements that the build of a source distribution has (PEP 517, PEP 518).

    Its build backend is run, in an environment of its own.

    :param source: its archive, whose hash was checked.
    :raises InstallError: it does not tell them.
    """
    from build import BuildException, ProjectBuilder  # of the client only
    from build.env import DefaultIsolatedEnv

    def runner(
        cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None
    ) -> None:
        run(list(cmd), cwd=Path(cwd or "/"), env=dict(extra_environ or {}))

    with scratch("source") as folder:
        try:
            with DefaultIsolatedEnv(installer="uv" if find_uv() else "pip") as env:
                builder = ProjectBuilder.from_isolated_env(
                    env, _unpacked(source, folder), runner=runner
                )
                first = set(builder.build_system_requires)
                env.install(first)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # those of the build backend
                    more = builder.get_requires_for_build("wheel")
                return sorted(first | set(more))
        except (BuildException, CommandFailed, OSError, ValueError) as error:
            raise InstallError(
                f"{source.name} does not tell what its build needs: "
                f"{without_credentials(str(error))}",
                remedy="see whether it can be built here: pip wheel --no-deps --no-binary :all: "
                f"{source.name.partition('-')[0]}",
            ) from error


def _unpacked(source: Path, folder: Path) -> Path:
    """Unpack an archive; return the one folder that is in it."""
    safe: dict[str, Any] = {}
    if "filter" in inspect.signature(shutil.unpack_archive).parameters and ".tar" in source.name:
        safe["filter"] = "data"  # the default of Python 3.14
    shutil.unpack_archive(source, folder, **safe)
    return next(path for path in folder.iterdir() if path.is_dir())


def _sdist(pin: Pin, path: Path) -> Sdist:
    return Sdist(
        name=pin.name,
        version=pin.version,
        filename=path.name,
        sha256=path.parent.name,
        size=path.stat().st_size,
        path=path,
    )
