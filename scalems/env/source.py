"""Source trees: which files a package on this machine is made of, and whether they changed.

In a git checkout they are the files that git tracks, and those that it does not ignore;
elsewhere all files. What tools leave behind (:data:`LEFT_BEHIND`) never counts unless git
tracks it, nor does the folder of the env specs, where the locks are written.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from scalems.env import repository
from scalems.env.canonical import digest
from scalems.env.fingerprint import Entry

LEFT_BEHIND = (
    *("__pycache__", "*.pyc", "*.egg-info", "build", "dist", "node_modules"),
    *(".git", ".hg", ".svn", ".venv*", "venv", ".tox", ".nox", ".*_cache", ".coverage*"),
)
"""Names of files and folders that are never part of a package, as patterns."""

Table = Mapping[str, Entry]
"""Files of a source tree by relative path."""


def read(folder: Path, *, without: Path | None = None) -> Table:
    """Read every file of a source tree.

    :param without: a folder that is none of it, if it is inside.
    :raises OSError: one cannot be read.
    """
    found = {}
    for path in sorted(_files(folder, without)):
        if (entry := _entry(folder / path)) is not None:
            found[path] = entry
    return found


def table_digest(table: Table) -> str:
    """Return the digest of the files of a source tree; it holds no path of this machine."""
    return digest("source 1", {path: entry.sha256 for path, entry in table.items()})


def changes(folder: Path, known: Table, *, without: Path | None = None) -> list[str]:
    """Return the files that differ from a table, read only where size or time do.

    :return: such as ``"pyproject.toml (changed)"``, sorted.
    :raises OSError: the tree cannot be read.
    """
    now = set(_files(folder, without))
    lines = []
    for path in sorted(now | known.keys()):
        was = known.get(path)
        entry = _entry(folder / path, was) if path in now else None
        if entry is None and was is not None:
            lines.append(f"{path} (removed)")
        elif entry is not None and was is None:
            lines.append(f"{path} (new)")
        elif entry is not None and was is not None and entry.sha256 != was.sha256:
            lines.append(f"{path} (changed)")
    return lines


def copy(folder: Path, table: Table, target: Path) -> None:
    """Copy the files of a source tree, so that a build sees these and leaves nothing there.

    A git checkout stays one: build tools may ask git for the version.

    :raises OSError: a file cannot be copied.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path, entry in table.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if entry.sha256.startswith("-> "):
            (target / path).symlink_to(entry.sha256.removeprefix("-> "))
        else:
            shutil.copy2(folder / path, target / path)
    if git := repository.git_folder(folder):
        (target / ".git").write_text(f"gitdir: {git}\n")


def _files(folder: Path, without: Path | None) -> Iterator[str]:
    inside = ""
    if without is not None and without.is_relative_to(folder):
        inside = without.relative_to(folder).as_posix() + "/"
    listed = repository.files(folder)
    if listed is None:
        names: Iterator[str] = _walk(folder)
    else:
        tracked, other = listed
        names = (
            deeper
            for name in (*tracked, *filter(_counts, other))
            for deeper in _expand(folder, name)
        )
    for name in names:
        if not (inside and name.startswith(inside)):
            yield name


def _expand(folder: Path, name: str) -> Iterator[str]:
    """Yield a file as it is, and of a repository inside of another one its files."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        yield from (f"{name.rstrip('/')}/{deeper}" for deeper in _files(path, None))
    else:
        yield name


def _counts(name: str) -> bool:
    parts = [part for part in name.split("/") if part]
    return not any(fnmatch.fnmatchcase(part, rule) for part in parts for rule in LEFT_BEHIND)


def _walk(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(filter(_counts, folders))
        inner = Path(root).relative_to(folder).as_posix()
        linked = [name for name in folders if Path(root, name).is_symlink()]
        for name in (*filter(_counts, names), *linked):
            yield name if inner == "." else f"{inner}/{name}"


def _raise(error: OSError) -> None:
    raise error


def _entry(path: Path, known: Entry | None = None) -> Entry | None:
    """Read a file, unless it is as it is known; ``None`` if there is none.

    A link to a file is that file; a link to a folder stays one.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.is_symlink():
            return None  # git tracks it, and it was removed
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        content = f"-> {path.readlink()}" if path.is_symlink() else "special"
        return Entry(0, 0, content)
    if known and (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns):
        return known
    runs = "x " if status.st_mode & stat.S_IXUSR else ""
    content = runs + hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(status.st_size, status.st_mtime_ns, content)
