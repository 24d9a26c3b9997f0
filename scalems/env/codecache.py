"""What Python compiles at build, kept by content: the same package is compiled once.

A *unit* is a package that a build compiles, with the digests of its sources. What they compile to
is kept in one file named after these and the interpreter, so pilot, tasks and later builds take it
from there. Nothing in it depends on a build: times and sizes of the sources, by which Python tells
whether it may load what was compiled (PEP 552), are put before it in each build, and names of
files in tracebacks are set by Python when it loads it.

A kept file begins with a digest of its name and the rest. What is not whole is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scalems import probe
from scalems.env import modulecode
from scalems.env.canonical import digest
from scalems.env.engine import InstallError, explain
from scalems.env.fingerprint import Entry
from scalems.host import local
from scalems.host.local import CommandFailed

_compiling = threading.Lock()
"""Of the builds of one sync, the second finds what the first has compiled."""


@dataclass(frozen=True)
class Unit:
    """One package.

    :param folder: where it is, below a venv.
    :param sources: SHA-256 of each of its modules, by path below that folder.
    """

    folder: str
    sources: Mapping[str, str]

    def key(self, facts: Mapping[str, str]) -> str:
        """Return the digest of all that decides what it compiles to.

        :param facts: of the interpreter, see :func:`scalems.probe.interpreter`.
        """
        # Its name is in what is compiled: that of the code of its modules.
        name = self.folder.rpartition("site-packages/")[2]
        return digest("compiled 1", [name, dict(self.sources), dict(facts)])


def units(venv: Path, entries: Mapping[str, Entry], names: Iterable[str]) -> list[Unit]:
    """Return the packages of some names that a venv has; of a namespace, each package in it.

    :param entries: files of the venv, see :func:`scalems.env.fingerprint.scan`.
    """
    site = probe.site_packages(venv).relative_to(venv).as_posix()
    found: dict[str, dict[str, str]] = {}
    tops = {f"{site}/{name}/" for name in names}
    for path, entry in entries.items():
        top = path[: path.find("/", len(site) + 1) + 1]
        if top not in tops or not path.endswith(".py") or entry.sha256.startswith("-> "):
            continue
        if f"{top}__init__.py" not in entries:
            top = path[: path.find("/", len(top)) + 1]  # a namespace: its modules are few
        if top:
            found.setdefault(top[:-1], {})[path[len(top) :]] = entry.sha256
    return [Unit(folder, sources) for folder, sources in sorted(found.items())]


def compile_into(
    venv: Path,
    wanted: Iterable[Unit],
    entries: Mapping[str, Entry],
    *,
    store: Path,
    interpreter: Path,
    facts: Mapping[str, str],
    holding: int,
) -> dict[str, Entry]:
    """Put what modules compile to beside them; return these files as a scan would.

    :param entries: the modules' files as they are now.
    :param store: folder that keeps it.
    :param holding: see :func:`scalems.host.local.run`.
    :raises InstallError: the interpreter does not work.
    :raises OSError: it cannot be written.
    """
    by_key = {one.key(facts): one for one in wanted}
    with _compiling:
        kept = {key: found for key in by_key if (found := read(store / key))}
        missing = {key: one for key, one in by_key.items() if key not in kept}
        if missing:
            _compile(venv, missing, store, interpreter=interpreter, holding=holding)
            kept.update({key: found for key in missing if (found := read(store / key))})
    placed: dict[str, Entry] = {}
    for key, compiled in kept.items():
        placed.update(_place(venv, by_key[key], compiled, entries, tag=facts["cache_tag"]))
    return placed


@dataclass(frozen=True)
class Compiled:
    """What the modules of a unit compile to.

    :param magic: the format, by Python's magic number.
    :param code: of each module that is valid Python, by path below the unit.
    """

    magic: bytes
    code: Mapping[str, bytes]


def unpack(key: str, data: bytes) -> Compiled:
    """Read back what :func:`scalems.env.modulecode.pack` has made.

    :raises ValueError: they are not whole.
    """
    checksum, _, body = data.partition(b"\n")
    if checksum != modulecode.checksum(key, body):
        raise ValueError("not what was kept")
    header, _, rest = body.partition(b"\n")
    try:
        table = json.loads(header)
        code, start = {}, 0
        for path, length in table["files"].items():
            code[path] = rest[start : start + length]
            start += length
        if start != len(rest):
            raise ValueError("not what was kept")
        return Compiled(bytes.fromhex(table["magic"]), code)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not what was kept: {error!r}") from error


def read(path: Path) -> Compiled | None:
    """Read a kept file; ``None`` if there is none, or it is not whole."""
    try:
        found = unpack(path.name, path.read_bytes())
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now: `env gc` removes what was not used for long
    return found


def unused(store: Path, *, since: float) -> list[Path]:
    """Return the kept files that were not used since a time, in seconds since the epoch."""
    return [path for path in sorted(store.glob("*")) if path.stat().st_mtime < since]


def _compile(
    venv: Path, missing: Mapping[str, Unit], store: Path, *, interpreter: Path, holding: int
) -> None:
    """Compile units on all cores, and keep what they give."""
    # Beside the venv: what a killed sync leaves is removed with the unfinished build.
    temporary = venv.with_name("compiling")
    temporary.mkdir()

    def run(number: int, share: Mapping[str, object]) -> None:
        job = temporary / f"{number}.json"
        job.write_text(json.dumps(share))
        # Without site: nothing of the venv may run.
        flags = ("-I", "-S", "-B", "-W", "ignore")
        words = (interpreter, *flags, modulecode.__file__, venv, job, temporary)
        local.run(words, cwd=Path("/"), holding=holding)

    shares = _shares(missing)
    try:
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(run, range(len(shares)), shares))
        store.mkdir(mode=0o755, exist_ok=True)
        for path in temporary.iterdir():
            if path.name in missing:
                path.replace(store / path.name)
    except CommandFailed as error:
        cause, remedy = explain(error, doing=f"compiling what is in {venv}")
        raise InstallError(cause, remedy=remedy) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _shares(missing: Mapping[str, Unit]) -> list[dict[str, object]]:
    """Divide units among processes, the large ones first."""
    count = min(os.cpu_count() or 1, 8, len(missing))
    shares: list[dict[str, object]] = [{} for _ in range(count)]
    sizes = [0] * count
    for key, one in sorted(missing.items(), key=lambda item: -len(item[1].sources)):
        least = sizes.index(min(sizes))
        shares[least][key] = [one.folder, dict(one.sources)]
        sizes[least] += len(one.sources)
    return shares


def _place(
    venv: Path, unit: Unit, compiled: Compiled, entries: Mapping[str, Entry], *, tag: str
) -> Iterator[tuple[str, Entry]]:
    """Write compiled files beside their sources, as Python's own; yield them by path."""
    made: set[str] = set()
    for path in unit.sources.keys() & compiled.code.keys():
        source = entries[f"{unit.folder}/{path}"]
        folder, _, name = f"{unit.folder}/{path}".rpartition("/")
        where = f"{folder}/__pycache__"
        if where not in made:
            (venv / where).mkdir(exist_ok=True)
            made.add(where)
        numbers = (0, int(source.mtime_ns / 1e9), source.size)  # flags: by time and size
        head = b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)
        data = compiled.magic + head + compiled.code[path]
        target = f"{where}/{name.removesuffix('.py')}.{tag}.pyc"
        status = _write(f"{venv}/{target}", data, mode=source.mode & 0o666 | 0o200)
        found = hashlib.sha256(data).hexdigest()
        yield target, Entry(len(data), status.st_mtime_ns, found, stat.S_IMODE(status.st_mode))


def _write(path: str, data: bytes, *, mode: int) -> os.stat_result:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) :]
        return os.fstat(descriptor)
