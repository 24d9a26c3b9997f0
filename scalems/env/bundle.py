"""`env bundle`: all that a resource needs on a machine without a network, in one verified file.

For every role: specs, locks, the resource config, wheels for the target, and scalems with all
that the client itself needs. The format is that of :mod:`scalems.env.bundlefile`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import (
    bundled,
    bundlefile,
    interpreter,
    layout,
    lock,
    locking,
    parity,
    spec,
    tag,
    target,
    wheel,
    wheelhouse,
)
from scalems.env.bundlefile import Damaged, Part
from scalems.env.canonical import digest
from scalems.env.engine import Engine, choose
from scalems.env.lock import Lock, Pin
from scalems.env.locking import Notify, Options
from scalems.env.package import Prepared
from scalems.env.prepare import workshop
from scalems.env.sdist import Shelf
from scalems.env.spec import EnvSpec, with_bases
from scalems.env.tag import Tag
from scalems.env.wheelhouse import Sdist, Wheel, Wheelhouse
from scalems.errors import EnvironmentNotReady, ScalemsError, UsageError
from scalems.host.files import write_atomic
from scalems.resource.config import Project, ResourceConfig


class BundleError(ScalemsError):
    """A bundle cannot be made, or cannot be used."""


@dataclass(frozen=True, kw_only=True)
class BundleResult:
    """A bundle that was made.

    :param targets: the machines that it is for.
    :param bytes: size of the file.
    :param omitted: number of files that are not in it, since the target has them.
    :param python: version of the Python that it brings.
    :param libraries: what that Python loads of its system, if it could be seen.
    """

    label: str
    path: Path
    sha256: str
    bytes: int
    targets: tuple[str, ...]
    files: int
    omitted: int
    built: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    libraries: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.label,
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "targets": list(self.targets),
            "files": self.files,
            "omitted": self.omitted,
            "built": dict(self.built),
            "python": self.python,
            "libraries": None if self.libraries is None else list(self.libraries),
        }


def make(
    project: Project,
    label: str,
    output: Path,
    *,
    targets: Sequence[str] = (),
    since: Path | None = None,
    python: str | None = None,
    options: Options,
    notify: Notify,
) -> BundleResult:
    """Write a bundle of a resource.

    :param targets: wheel tags; by default those of the resource config, else this machine's.
    :param since: a listing of what the target has, or a bundle that it was given.
    :param python: a Python to take along, see :func:`scalems.env.interpreter.pack`.
    :raises EnvironmentNotReady: a lock is not current, or something cannot be had for a target.
    :raises UsageError: mistakes in specs, configs or options.
    """
    config = project.resource(label)
    _writable(output)
    specs = with_bases([spec.load(project.env_path(name)) for name in config.envs])
    engine = choose(options.engine)
    client = target.client()
    with workshop(layout.default(), engine, options, notify=notify) as shop:
        packages = {one.name: shop.prepare(one, target.find_interpreter(one)) for one in specs}
    locks, _ = locking.ensure(specs, packages, client, engine, options, notify=notify)
    wanted = [tag.parse(text) for text in targets or config.targets]
    store = layout.default().wheelhouse
    shelf = Shelf(store=store, engine=engine, offline=options.offline, notify=notify)
    house = _environments(specs, locks, wanted, shelf)
    tags = wanted or [tag.of(probe.interpreter())]
    packed = None
    if python is not None:
        notify("packing Python")
        packed = interpreter.pack(python, tags)
    own = wheel.pack(layout.default().wheels, client=True)
    tools, client_files = _client(specs, tags, own, shelf, options)
    own_files, brought = _local(packages, tags)
    house = wheelhouse.merge(
        [house.wheels, tools.wheels, brought], [*house.sources, *tools.sources]
    )
    files = {
        **_project(project, config, [one.name for one in specs]),
        **own_files,
        **_files("wheels", house),
        **_part(f"client/{own.name}", own.read_bytes()),
        **client_files,
        **_part("__main__.py", Path(bundlefile.__file__).read_bytes()),
    }
    if packed:
        files |= _part(bundlefile.python(packed.version), packed.data)
    had = _had(since) if since else frozenset()
    files = {_without(part, had): content for part, content in files.items()}
    about = {
        "resource": label,
        "scalems": wheel.version(),
        "scalems_digest": client.scalems_digest,
        "targets": sorted(map(str, tags)),
        "envs": {one.name: one.role.value for one in specs},
    }
    _save(output, about, files, notify=notify)
    return BundleResult(
        label=label,
        path=output,
        sha256=wheelhouse.sha256(output),
        bytes=output.stat().st_size,
        targets=tuple(about["targets"]),
        files=len(files),
        omitted=sum(part.omitted for part in files),
        built={one.filename: one.sdist for one in house.wheels if one.sdist},
        python=packed.version if packed and bundlefile.brings_python(files) else "",
        libraries=packed.libraries if packed else None,
    )


def _local(
    packages: Mapping[str, tuple[Prepared, ...]], tags: Sequence[Tag]
) -> tuple[dict[Part, bytes], tuple[Wheel, ...]]:
    """Return the wheels of local packages, and the file that says what they are of.

    :raises EnvironmentNotReady: one was compiled, and not for a target.
    """
    found: dict[str, Prepared] = {}
    for env, several in packages.items():
        for one in several:
            other = found.setdefault(one.name, one)
            if (one.digest, one.wheel.name) != (other.digest, other.wheel.name):
                raise UsageError(
                    f"{one.name} is of two sources in the environments of one bundle: "
                    f"{other.reference} and {one.reference} ({env})"
                )
    wheels = {name: _wheel(one) for name, one in found.items()}
    for name, each in wheels.items():
        if strange := [str(tag) for tag in tags if not set(tag.wheels()) & each.tags()]:
            raise EnvironmentNotReady(
                f"{name} was built to {each.filename}, which does not run on {', '.join(strange)}",
                remedy="make the bundle on a machine like the target, with its Python",
            )
    if not found:
        return {}, ()
    digests = {name: each.sha256 for name, each in wheels.items()}
    text = bundled.text(list(found.values()), digests)
    return _part(f"project/envs/{bundled.FILE}", text.encode()), tuple(wheels.values())


def _wheel(one: Prepared) -> Wheel:
    path = one.wheel
    return Wheel(
        name=one.name,
        version=one.version,
        filename=path.name,
        sha256=wheelhouse.sha256(path),
        size=path.stat().st_size,
        path=path,
    )


def _environments(
    specs: Sequence[EnvSpec],
    locks: Mapping[str, Lock],
    wanted: Sequence[Tag],
    shelf: Shelf,
) -> Wheelhouse:
    """Collect what all environments are built from, for each target."""
    wheels: list[Sequence[Wheel]] = []
    sources: list[Sdist] = []
    for one in specs:
        if wanted:
            ends = [(each, each.markers()) for each in wanted]
        else:
            found = target.find_interpreter(one)
            ends = [(tag.of(found.facts), dict(found.markers))]
        for end in ends:
            house = shelf.collect(one, locks[one.name], *end)
            wheels.append(house.wheels)
            sources += house.sources
    return wheelhouse.merge(wheels, sources)


def _client(
    specs: Sequence[EnvSpec],
    tags: Sequence[Tag],
    own: Path,
    shelf: Shelf,
    options: Options,
) -> tuple[Wheelhouse, dict[Part, bytes]]:
    """Collect what scalems itself needs; return it, and requirements for each target.

    What is to be had as a source only, and cannot be built here for a target, is built there.
    """
    houses: list[Wheelhouse] = []
    files: dict[Part, bytes] = {}
    mine = f"scalems=={wheel.version()} \\\n    --hash=sha256:{wheelhouse.sha256(own)}\n"
    for each in tags:
        chosen = _client_lock(specs, each, shelf.engine, shelf.store, options, notify=shelf.notify)
        pins = chosen.select(each.markers())
        house = shelf.all_of(pins, each, each.markers(), what=f"scalems itself for {each}")
        houses.append(house)
        files |= _part(bundlefile.client(str(each)), (_requirements(pins, house) + mine).encode())
    sources = [one for house in houses for one in house.sources]
    return wheelhouse.merge([house.wheels for house in houses], sources), files


def _requirements(pins: Sequence[Pin], house: Wheelhouse) -> str:
    """Return a requirements file of pins, each with the hash of its wheel or of its source."""
    sources = [one for pin in pins for one in house.sources if one.serves(pin)]
    lines = [f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in sources]
    built = {one.name for one in sources}
    return house.requirements([pin for pin in pins if pin.name not in built]) + "".join(lines)


def _client_lock(
    specs: Sequence[EnvSpec],
    each: Tag,
    engine: Engine,
    store: Path,
    options: Options,
    *,
    notify: Notify,
) -> Lock:
    """Resolve what scalems needs for a target, in this client's versions where they serve it.

    It is kept, so that the same client gives the same bundle.
    """
    installed = target.client().versions
    pins = [f"{name}=={version}" for name, version in parity.pins(installed).items()]
    # Those of the lock have their hashes, and a version for each Python.
    former = next((one.lock_path.read_text(encoding="utf-8") for one in specs), "")
    locked = lock.parents(former)
    former += "".join(f"{k}=={v}\n" for k, v in sorted(installed.items()) if k not in locked)
    what = digest("client lock", [wheel.dependencies(), pins, former, str(each)])
    kept = store / "clients" / f"{what}.txt"
    try:
        return lock.load(kept)
    except (FileNotFoundError, UsageError):
        pass
    notify(f"resolving what scalems itself needs for {each}")
    resolution = engine.resolve(
        wheel.dependencies(),
        pins,
        python=f"=={each.python}.*",
        interpreter=target.client_interpreter(),
        former=former,
        upgrade=False,
        offline=options.offline,
    )
    text = f"# python: {resolution.python}\n# inputs: {what}\n{resolution.body}"
    write_atomic(kept, text)
    return lock.parse(text, source=str(kept))


def _project(
    project: Project, config: ResourceConfig, envs: Sequence[str]
) -> dict[Part, Path | bytes]:
    """Return the specs, locks and configs of a resource, as they are."""
    paths = [config.path]
    for name in envs:
        paths += [project.env_path(name), project.envs / f"{name}.lock.txt"]
    files: dict[Part, Path | bytes] = {}
    for path in paths:
        content = path.read_bytes()
        if path == config.path and config.host:
            content = without_host(content.decode()).encode()
        files |= _part(f"project/{path.relative_to(project.root).as_posix()}", content)
    return files


_HOST = re.compile(r"^(?=(?:host|root|python|offline)\s*=)", re.MULTILINE)


def without_host(text: str) -> str:
    """Return a resource config for its own host, where it is not reached over SSH."""
    return _HOST.sub("# here: ", text)


def _files(folder: str, house: Wheelhouse) -> dict[Part, Path | bytes]:
    files: dict[Part, Path | bytes] = {
        Part(f"{folder}/{one.filename}", one.size, one.sha256): one.path for one in house.files
    }
    return {**files, **_part(f"{folder}/{wheelhouse.INDEX}", wheelhouse.index(house).encode())}


def _part(path: str, content: bytes) -> dict[Part, bytes]:
    return {Part(path, len(content), hashlib.sha256(content).hexdigest()): content}


def _without(part: Part, had: frozenset[str]) -> Part:
    package = part.path.startswith("wheels/") and part.name != wheelhouse.INDEX
    omitted = part.sha256 in had and (package or part.path.startswith("python/"))
    return Part(part.path, part.size, part.sha256, omitted)


def _writable(output: Path) -> None:
    """Tell at once of what could only be told at the end.

    :raises UsageError: a file of this name cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            problem = "it is a folder" if output.is_dir() else ""
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise UsageError(f"{output} cannot be written: {problem}", remedy="name another with -o")


def _save(
    output: Path,
    about: Mapping[str, Any],
    files: Mapping[Part, Path | bytes],
    *,
    notify: Notify,
) -> None:
    """Write the file, whole or not at all."""
    notify(f"writing {output}")

    def tell(done: int, total: int) -> None:
        notify(f"writing {done / 1e6:.1f} of {total / 1e6:.1f} MB", detail=True)

    output.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            bundlefile.write(stream, about, files, tell)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        Path(name).replace(output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def have() -> dict[str, Any]:
    """Return what this machine has of bundles before: file names by SHA-256, each verified."""
    found = {
        path.parent.name: path.name
        for path in sorted((layout.default().wheelhouse / "files").glob("*/[!.]*"))
        if wheelhouse.sha256(path) == path.parent.name
    }
    return {"format": 1, "have": found}


def _had(since: Path) -> frozenset[str]:
    """Read what a target has, from a listing or a former bundle.

    :raises UsageError: it is neither.
    """
    try:
        with since.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                parts = bundlefile.read(since).parts
                return frozenset(part.sha256 for part in parts)
        return frozenset(json.loads(since.read_text(encoding="utf-8"))["have"])
    except (OSError, Damaged, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{since} is neither a bundle nor a listing of what a target has: {error}",
            remedy="on the target: scalems env bundle --have > have.json",
        ) from error
