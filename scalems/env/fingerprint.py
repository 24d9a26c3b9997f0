"""Fingerprints: of what decides a build, and of what is installed in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems import probe
from scalems.env import bytecode, layer
from scalems.env.canonical import digest

if TYPE_CHECKING:
    from scalems.env.compile import Compiled
    from scalems.env.lock import Pin
    from scalems.env.package import Prepared

BOOKKEEPING = (
    *("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json"),
    *("uv_build.json", "uv_cache.json"),
)
"""Files of a dist-info folder that say how it was installed, not what was."""

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class Entry:
    """One file or link of a venv.

    :param sha256: hex digest of a file's bytes, or ``-> target`` of a link.
    :param mode: its permissions.
    """

    size: int
    mtime_ns: int
    sha256: str
    mode: int = 0

    def seen(self, status: os.stat_result) -> bool:
        """Whether a file has the size and time that it had."""
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def input_digest(
    pins: Iterable[Pin],
    *,
    interpreter: Mapping[str, str],
    scalems_digest: str,
    site: Mapping[str, Any] | None = None,
    packages: Iterable[Prepared] = (),
    compiled: Iterable[Compiled] = (),
    mpi: str = "",
    base: str = "",
) -> str:
    """Return the digest of everything that decides a build; no paths, no clock, no order.

    :param pins: the lock as it applies to the target's markers.
    :param interpreter: see :func:`scalems.probe.interpreter`.
    :param site: what it takes from its site, with the versions that were found there.
    :param packages: local packages. One that is editable brings its path: a build with a link
        to a folder is of no use elsewhere.
    :param compiled: distributions that are built here.
    :param mpi: the MPI of the site, if it is used.
    :param base: input fingerprint of the environment that it adds to.
    """
    inputs: dict[str, Any] = {
        "interpreter": dict(interpreter),
        "pins": sorted([pin.name, pin.version, *pin.hashes] for pin in pins),
        "scalems": scalems_digest,
    }
    if site:
        inputs["site"] = dict(site)
    if local := sorted(one.inputs for one in packages):
        inputs["packages"] = local
    if built := sorted((one.inputs for one in compiled), key=str):
        inputs["compiled"] = built
    if mpi:
        inputs["mpi"] = mpi
    if base:
        inputs["base"] = base
    return digest("build inputs 1", inputs)


def pin_items(pins: Iterable[Pin]) -> dict[str, str]:
    """Return what a manifest keeps of a lock's pins: version and a digest of the hashes."""
    return {pin.name: f"{pin.version} {digest('hashes', list(pin.hashes))[:16]}" for pin in pins}


def walk(venv: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each file and link below a venv, by relative path; not the empty lock file of uv."""
    root = str(venv)
    stack = [""]
    while stack:
        folder = stack.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)
                elif path != ".lock":
                    yield path, entry.stat(follow_symlinks=False)


def stamp(path: str, size: int, mtime_ns: int, mode: int) -> str:
    """Return what a file looks like from outside, in one text; its path is the last of it."""
    return f"{size} {mtime_ns} {mode} {path}"


def stamps(venv: Path) -> Iterator[str]:
    """Yield the :func:`stamp` of each file and link below a venv, of those of :func:`walk`."""
    root = str(venv)
    stack = [""]
    while stack:
        folder = stack.pop()
        # By its descriptor: the path of a folder is not looked up again for each file in it.
        descriptor = os.open(f"{root}/{folder}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    path = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(f"{path}/")
                    elif path != ".lock":
                        now = entry.stat(follow_symlinks=False)
                        mode = now.st_mode & 0o7777
                        # As stamp() does, without the call: it is done thousands of times.
                        yield f"{now.st_size} {now.st_mtime_ns} {mode} {path}"
        finally:
            os.close(descriptor)


ENTRANCES = ("pyvenv.cfg", "bin/activate")
"""Files of a venv that decide which packages are seen in it, and what is run as it is entered."""


def top_level(venv: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, int]]]:
    """Return the entries of site-packages, and size and time of each RECORD and hook there.

    Those of :data:`ENTRANCES` are with them.
    """
    site = probe.site_packages(venv)
    names = sorted(os.listdir(site))  # noqa: PTH208
    records = {}
    looked_at = {name: site / name for name in names if name.endswith(".pth")}
    looked_at |= {name: site / name / "RECORD" for name in names if name.endswith(".dist-info")}
    looked_at |= {name: venv / name for name in ENTRANCES}
    for name, path in looked_at.items():
        with contextlib.suppress(OSError):
            status = path.stat()
            records[name] = (status.st_size, status.st_mtime_ns)
    return tuple(name for name in names if name != "__pycache__"), records


def scan(venv: Path) -> dict[str, Entry]:
    """Read every byte of a venv but what Python compiled; return its files and links.

    :return: by relative path.
    :raises OSError: something in it cannot be read.
    """
    return read(venv, [item for item in walk(venv) if not bytecode.is_cached(item[0])])


def scan_compiled(venv: Path, *, known: Mapping[str, Entry] | None = None) -> dict[str, Entry]:
    """Read what Python has compiled in a venv; return it as :func:`scan` does the rest.

    :param known: what was written into it just now; that is not read again.
    :raises OSError: something in it cannot be read.
    """
    known = known or {}
    found = {path: status for path, status in walk(venv) if bytecode.is_cached(path)}
    same = {path: one for path, one in known.items() if path in found and one.seen(found[path])}
    return {**same, **read(venv, [item for item in found.items() if item[0] not in same])}


def read(venv: Path, files: Iterable[tuple[str, os.stat_result]]) -> dict[str, Entry]:
    """Read files and links of a venv, on all cores.

    :param files: relative paths, with the status of each.
    :raises OSError: one of them cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    root = str(venv)
    ordered = sorted(files, key=lambda item: item[0])
    count = min(os.cpu_count() or 1, 8)
    shares = [ordered[start::count] for start in range(count)]
    with ThreadPoolExecutor(max_workers=count) as pool:
        # hashlib lets go of the interpreter lock while it digests, and so does reading.
        parts = pool.map(
            lambda share: [(path, read_entry(root, path, status)) for path, status in share], shares
        )
        found = {path: entry for part in parts for path, entry in part}
    return {path: found[path] for path, _ in ordered}


def read_entry(root: str, path: str, status: os.stat_result) -> Entry:
    """Read one file or link, by its path below a folder."""
    full = f"{root}/{path}"
    if stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(_content(full, status.st_size)).hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = f"-> {os.readlink(full)}"  # noqa: PTH115
    else:
        content = "special"
    return Entry(status.st_size, status.st_mtime_ns, content, stat.S_IMODE(status.st_mode))


def _content(path: str, size: int) -> bytes:
    """Return what is in a file, with three calls of the system if it has the size that it had."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, size + 1)
        if len(data) == size:
            return data
        parts = [data]
        while part := os.read(descriptor, _PIECE):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def content_digest(venv: Path, entries: Mapping[str, Entry]) -> str:
    """Return the digest of what is installed, from the files themselves.

    It covers all files of site-packages and the scripts that packages bring, with their
    interpreter line left out. It holds no path and no time, so the same packages have the
    same digest in another folder or on another host.
    """
    site = probe.site_packages(venv).relative_to(venv).as_posix()
    parts = {}
    for path, entry in entries.items():
        if path.startswith(f"{site}/"):
            inner = path.removeprefix(f"{site}/")
            if bytecode.is_cached(inner):
                continue  # it holds times, and is not the same twice
            folder, _, name = inner.rpartition("/")
            if folder.endswith(".dist-info") and name in BOOKKEEPING:
                continue
            if inner.startswith("_virtualenv.") or inner == "_virtualenv.pth":
                continue  # what the venv tools themselves put there
            if inner == layer.PTH:
                continue  # a path; what it leads to has a fingerprint of its own
            parts[inner] = entry.sha256
    for name in _scripts(venv, site):
        body = (venv / "bin" / name).read_bytes()
        if body.startswith(b"#!"):
            body = body.partition(b"\n")[2]
        parts[f"bin/{name}"] = hashlib.sha256(body).hexdigest()
    return digest("content 1", parts)


def _scripts(venv: Path, site: str) -> list[str]:
    """Return the scripts that packages bring as files; generated entry points are not."""
    import csv  # only now: a launch reads no RECORD

    found: set[str] = set()
    for info in sorted((venv / site).glob("*.dist-info")):
        record = info / "RECORD"
        if not record.is_file():
            continue
        with record.open(encoding="utf-8", newline="") as stream:
            names = {row[0].rpartition("/")[2] for row in csv.reader(stream) if _in_bin(row)}
        found |= names - _entry_points(info / "entry_points.txt")
    return sorted(name for name in found if (venv / "bin" / name).is_file())


def spoilt(venv: Path, entries: Mapping[str, Entry]) -> list[str]:
    """Return the distributions that have a file which is not as their RECORD says."""
    return sorted(
        {
            dist
            for path, dist, sha256 in recorded(venv)
            if sha256 and path in entries and entries[path].sha256 != sha256
        }
    )


def recorded(venv: Path) -> Iterator[tuple[str, str, str]]:
    """Yield path, distribution and SHA-256 (hex, or empty) of each file in a RECORD of a venv."""
    import base64
    import csv

    site = probe.site_packages(venv)
    prefix = site.relative_to(venv).as_posix()
    for info in sorted(site.glob("*.dist-info")):
        dist = probe.normalize(info.name.partition("-")[0])
        try:
            with (info / "RECORD").open(encoding="utf-8", newline="") as stream:
                for path, hashed, _ in csv.reader(stream):
                    kind, _, value = hashed.partition("=")
                    sha256 = base64.urlsafe_b64decode(f"{value}=").hex() if kind == "sha256" else ""
                    yield os.path.normpath(f"{prefix}/{path}"), dist, sha256
        except (OSError, csv.Error, ValueError):
            continue


def _in_bin(row: list[str]) -> bool:
    return bool(row) and row[0].startswith("../") and "/bin/" in row[0]


def _entry_points(path: Path) -> set[str]:
    import configparser

    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path, encoding="utf-8")
    sections = ("console_scripts", "gui_scripts")
    return {key for section in sections if section in parser for key in parser[section]}
