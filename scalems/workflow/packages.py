"""Packages that the far side does not have: they travel whole, with the functions that use them.

A package is more than its functions: it has data files, it imports its own modules when it runs,
it asks for its version. So its files go along in an archive, which is a :class:`File` and so is
sent once to where it is needed; there it is unpacked in the folder of the run, never in a venv,
and comes after all else on ``sys.path``. With it goes what its distribution says of itself.

The far side needs the standard library and nothing else of this module.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scalems.workflow import file
from scalems.workflow.pickler import dumps

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator

LARGEST = 32 << 20
"""Bytes of files up to which a package travels whole."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that archives know: one content gives one archive
_LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".svn"})


class Package(NamedTuple):
    """A package as it travels."""

    name: str
    archive: file.File


class _Carried:
    """A function that is pickled together with packages."""

    def __init__(self, value: object, packages: tuple[Package, ...]) -> None:
        self._value = value
        self._packages = packages

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self._packages, dumps(self._value))


_ours: dict[str, Package] = {}  # of the client, or in a call process those that have come
_places: dict[str, str] = {}  # where those are that have come
_travelling: tuple[Package, ...] = ()


def travelling() -> tuple[Package, ...]:
    """Return them; another tuple when they have changed, or where they are."""
    return _travelling


def are_here() -> bool:
    """Tell if their archives are still here: they go with the run that they were made for."""
    return all(Path(package.archive.place).exists() for package in _ours.values())


def carried(function: object) -> object:
    """Return what is to be pickled for a function: with it come the packages that travel."""
    return _Carried(function, _travelling) if _ours else function


def load(packages: tuple[Package, ...], pickled: bytes) -> Any:
    """Return what was pickled, once the packages can be imported here."""
    for package in packages:
        _provide(*package)
    return pickle.loads(pickled)


def forget() -> None:
    """Let no package travel any more."""
    _ours.clear()
    _set({})


def _set(new: dict[str, Package]) -> None:
    global _travelling
    _ours.update(new)
    _travelling = tuple(_ours.values())


# --- here ---------------------------------------------------------------------------------


def add(name: str, folder: Path) -> str:
    """Let a package travel whole from now on; return the digest of its data files.

    Those are all that are not its code; without any the digest is empty.

    :param name: as it is imported.
    :param folder: with its files.
    :raises OSError: a file cannot be read, or there is no place for the archive.
    :raises ValueError: it is too large, or there is no run.
    """
    import hashlib
    import zipfile

    if not file.has_area():
        raise ValueError("there is no run that it belongs to")
    files = list(_files(folder))
    if sum(path.stat().st_size for path in files) > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MiB of files")
    archive = file.scratch() / "packages" / f"{name}.zip"
    archive.parent.mkdir(exist_ok=True, mode=0o700)
    digest, has_data = hashlib.sha256(), False
    with file.written_beside(archive) as part, zipfile.ZipFile(part, "w") as opened:
        for path in files:
            inside, content = path.relative_to(folder).as_posix(), path.read_bytes()
            _write(opened, f"{name}/{inside}", content)
            if path.suffix not in (".py", ".pyi"):
                has_data = True
                digest.update(f"{inside}\0{len(content)}\0".encode() + content)
        for place, data in _told(folder):
            _write(opened, place, data)
    _set({name: Package(name, file.file(archive))})
    return digest.hexdigest() if has_data else ""


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and path.suffix != ".pyc" and _LEFT_OUT.isdisjoint(inside):
            yield path


def _told(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the metadata of the editable distribution that a package is of, by their names."""
    import json
    import re
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    for distribution in metadata.distributions():
        text = distribution.read_text("direct_url.json")
        if not text or '"editable"' not in text:
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError):
            root = Path(unquote(urlsplit(json.loads(text)["url"]).path))
            if root in folder.parents:
                # As the folder is named that `importlib.metadata` looks for.
                called = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
                name = f"{called}-{distribution.version}.dist-info"
                for kind in ("METADATA", "entry_points.txt"):
                    if content := distribution.read_text(kind):
                        yield f"{name}/{kind}", content.encode()


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    import zipfile

    archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED, 1)


# --- there --------------------------------------------------------------------------------


def _provide(name: str, archive: file.File) -> None:
    """Have a package be found by imports."""
    known = _ours.get(name)
    there = name not in _places or Path(_places[name]).is_dir()  # it is the client's own, or came
    if known is not None and known.archive == archive and there:
        return
    place = str(_unpacked(archive))
    if name in _places:  # another run had another one
        with contextlib.suppress(ValueError):
            sys.path.remove(_places[name])
    for module in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[module]
    sys.path.append(place)
    importlib.invalidate_caches()
    _places[name] = place
    _set({name: Package(name, archive)})


def _unpacked(archive: file.File) -> Path:
    import atexit
    import shutil
    import tempfile
    import zipfile

    if file.has_area():
        base = file.scratch() / "packages"
        base.mkdir(exist_ok=True, mode=0o700)
    else:  # nobody else would remove it
        base = Path(tempfile.mkdtemp(prefix="scalems-"))
        atexit.register(shutil.rmtree, base, ignore_errors=True)
    place = base / archive.digest
    if not place.is_dir():
        part = Path(tempfile.mkdtemp(dir=base))
        with zipfile.ZipFile(archive.path) as opened:
            opened.extractall(part)
        try:
            part.rename(place)
        except OSError:  # another process was first
            shutil.rmtree(part, ignore_errors=True)
    return place
