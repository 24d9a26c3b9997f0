"""A Python to take along in a bundle: packed from one that is here, or an archive that is one.

A target then needs none of its own. The Python must run from any folder: that of
python-build-standalone (https://gregoryszorc.com/docs/python-build-standalone/main/) and of
pyenv do, and most others; it is shown before it is taken, in another folder than its own. What
it loads of its system, such as libssl, has to be on the target as well and is named.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scalems.env import target
from scalems.env.tag import Tag
from scalems.errors import UsageError
from scalems.host.local import CommandFailed, run
from scalems.host.scratch import scratch

FOLDER = "python"
"""The one folder at the top of an archive."""

_NOT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo"}
_ORIGIN = b"$ORIGIN/../lib"
_MARK = "scalems-python:"
_CODE = f"""
import json, os, pkgutil, sys, sysconfig, venv
for name in ("ssl", "ctypes", "sqlite3", "bz2", "lzma", "zlib", "hashlib", "readline", "uuid"):
    try:
        __import__(name)
    except ImportError:
        if name in ("ssl", "ctypes", "zlib", "hashlib"):
            raise
maps = {{line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}}
found = [sys.version_info[:3], sys.implementation.name, sys.prefix, sorted(maps)]
print("{_MARK}" + json.dumps(found))
"""
_USUAL = re.compile(r"ld-linux|lib(c|m|dl|pthread|rt|util|gcc_s)\b.*\.so")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A Python as an archive.

    :param version: such as ``3.12.4``.
    :param data: a gzipped tar archive with the one folder :data:`FOLDER`.
    :param libraries: what it loads of its system, which the target must have too; ``None`` if
        it cannot run here to tell.
    """

    version: str
    data: bytes
    libraries: tuple[str, ...] | None

    @property
    def minor(self) -> str:
        """Such as ``3.12``."""
        return ".".join(self.version.split(".")[:2])


def pack(given: str, tags: list[Tag]) -> Packed:
    """Pack a Python.

    :param given: its folder, its executable, or an archive of it as python-build-standalone
        publishes them (``install_only``); empty for the client's own.
    :param tags: the targets that it is for.
    :raises UsageError: it is none that could run there, or it does not run from another folder.
    """
    path = Path(given).expanduser() if given else target.client_interpreter()
    is_archive = path.is_file() and path.name.endswith((".tar.gz", ".tgz"))
    prefix, minor = (path, _minor_in(path)) if is_archive else _prefix(path)
    if strange := [str(tag) for tag in tags if tag.python != minor]:
        raise UsageError(
            f"{path} is Python {minor}, but the bundle is for {', '.join(strange)}",
            remedy=f"name a Python {tags[0].python} with --with-python, or another --target",
        )
    other = [str(tag) for tag in tags if tag.cpu != platform.machine()]
    if other and not is_archive:
        raise UsageError(
            f"{path} does not run on {', '.join(other)}",
            remedy="name an archive of a Python that does: --with-python FILE.tar.gz",
        )
    data = path.read_bytes() if is_archive else _archive(prefix, minor)
    return Packed(version=minor, data=data, libraries=None) if other else _proved(path, data, minor)


def _proved(path: Path, data: bytes, minor: str) -> Packed:
    """Return a Python that was seen to run from another folder than its own."""
    with scratch("python") as folder:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder)
        python = folder / FOLDER / "bin" / f"python{minor}"
        words = ["env", "-i", "PATH=/usr/bin:/bin", str(python), "-I", "-B", "-c", _CODE]
        try:
            printed = run(words, cwd=folder).stdout
            found = json.loads(printed.partition(_MARK)[2].splitlines()[0])
        except (CommandFailed, ValueError, IndexError) as error:
            raise UsageError(
                f"{path} does not run from another folder: {error}",
                remedy="name another Python with --with-python, such as an `install_only` archive "
                "of python-build-standalone, which uv installs too",
            ) from error
        version, implementation, prefix, maps = found
        inside = os.path.realpath(folder)
        elsewhere = [name for name in maps if not os.path.realpath(name).startswith(inside)]
        own = [name for name in elsewhere if "libpython" in name]
        if implementation != "cpython" or os.path.realpath(prefix) != f"{inside}/{FOLDER}" or own:
            raise UsageError(
                f"{path} cannot be taken along: it needs {', '.join(own) or 'its own folder'}",
                remedy="name another Python with --with-python",
            )
    # By the number of their interface: libz.so.1 for libz.so.1.2.13.
    names = {re.sub(r"(\.so\.\d+).*", r"\1", Path(name).name) for name in elsewhere}
    libraries = {name for name in names if not _USUAL.search(name)}
    return Packed(
        version=".".join(map(str, version)), data=data, libraries=tuple(sorted(libraries))
    )


def _prefix(path: Path) -> tuple[Path, str]:
    """Return the folder of a Python, and its minor version."""
    python = path / "bin" / "python3" if path.is_dir() else path
    code = "import sys; print(sys.base_prefix); print('%d.%d' % sys.version_info[:2])"
    try:
        prefix, minor = run([python, "-I", "-c", code], cwd=Path("/")).stdout.split("\n")[:2]
    except (CommandFailed, ValueError) as error:
        raise UsageError(
            f"{path} is no Python: {error}",
            remedy="name a folder with bin/python3, an interpreter, or a .tar.gz of one",
        ) from error
    return Path(prefix), minor


def _minor_in(path: Path) -> str:
    """Return the minor version of the Python in an archive."""
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UsageError(f"{path} is no archive: {error}") from error
    for name in names:
        match = re.fullmatch(rf"(?:\./)?{FOLDER}/bin/python(3\.\d+)", name)
        if match and all(map(_inside, names)):
            return match[1]
    raise UsageError(
        f"{path} is no archive of a Python: it has no {FOLDER}/bin/python3.X",
        remedy="take an `install_only` archive of python-build-standalone",
    )


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts[:1] in ((FOLDER,), ())


def _archive(prefix: Path, minor: str) -> bytes:
    """Return what a Python needs to run and to compile, as an archive; the same each time."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in _files(prefix, minor):
            path = prefix / name
            data = b"" if path.is_symlink() else path.read_bytes()
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
            elif name.startswith("bin/"):
                data = _relocated(data, prefix)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name in ("python3", "python"):
            entry = tarfile.TarInfo(f"{FOLDER}/bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, f"python{minor}"
            archive.addfile(entry)
    return stream.getvalue()


def _files(prefix: Path, minor: str) -> Iterator[str]:
    yield f"bin/python{minor}"
    for path in sorted((prefix / "lib").glob("libpython*.so*")):
        yield f"lib/{path.name}"
    for top in (f"include/python{minor}", f"lib/python{minor}"):
        for folder, below, names in os.walk(prefix / top):
            below[:] = sorted(
                name for name in below if name not in _NOT and not name.startswith("config-")
            )
            for name in sorted(names):
                path = Path(folder, name)
                inside = not path.is_symlink() or path.resolve().is_relative_to(prefix / top)
                if inside and path.is_file() and not name.endswith((".pyc", ".a", ".o")):
                    yield str(path.relative_to(prefix))


def _relocated(data: bytes, prefix: Path) -> bytes:
    """Let an executable find its own libraries beside it, if its RPATH is an absolute one.

    The string is replaced in place, as chrpath does it; see ld.so(8) for ``$ORIGIN``.
    """
    former = os.fsencode(prefix / "lib")
    if len(former) < len(_ORIGIN):
        return data
    new = _ORIGIN.ljust(len(former), b"\0")
    return data.replace(b"\0" + former + b"\0", b"\0" + new + b"\0")
