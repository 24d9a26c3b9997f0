"""Files as values: known by their content, and not copied where a link serves.

A file that a task gives back is moved to the *objects* of the run: read-only files that are
named after their SHA-256 digest, beside the store of results. A file of the user's is
referred to where it lies. Whoever opens either finds the content that was meant, or an error.

Both sides import this module, and see the objects at the same path.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scalems.errors import TaskError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

OBJECTS = "objects"
"""Folder of the kept files, in that of the store."""


class Source(Protocol):
    """Another place that has objects, such as a host where tasks run."""

    def fetch(self, digest: str, target: Path) -> bool:
        """Bring an object here; tell if it is there and has come.

        :param target: its path here. What is written there must have the content that is meant.
        """


_BLOCK = 1 << 20

_area = ""  # scratch folder of the run that this process works for
_in_task = False
_kept_on = False  # whether the objects stay when the run ends
_travelled: set[str] = set()  # digests of the objects that were pickled
_pickled: dict[str, File] = {}  # in the client: files that calls may refer to, by their digests

sources: list[Source] = []
"""Where else objects of this run may be."""


class FileError(TaskError):
    """A file is not there, or is not what it was."""


@dataclass(frozen=True)
class File:
    """A file, as the value of a task or as an argument of one; made by :func:`file`.

    It is an :class:`os.PathLike`: ``open(file)``, ``Path(file)`` and ``np.load(file)`` work in
    tasks and in the client. Two are equal if their names and contents are.
    """

    name: str
    """Last part of its path, when it was made."""
    digest: str
    """SHA-256 of the content, hexadecimal."""
    size: int
    """Bytes."""
    place: str = field(default="", compare=False)
    """Absolute path of a file of the user's; empty if it is kept with the results."""

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """Where it can be read; never write to it.

        :raises FileError: it is not there, or has other content than it had.
        """
        path = Path(self.place) if self.place else _object(self.digest)
        if (found := _found(path, self.digest)) is not None:
            return found
        try:
            path.stat()
        except OSError as error:
            raise FileError(
                f"The file {self.name!r} cannot be read: {path}: {error.strerror}",
                remedy="without a store, files are removed when the run ends"
                if not self.place
                else "files of the client must be in a folder that the workers see too",
            ) from None
        raise FileError(
            f"The file {self.name!r} has changed: {path}",
            remedy="leave files as they are while a workflow uses them; run it again"
            if self.place
            else f"remove it ({path}) and run again",
        )

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.path.read_bytes()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content as text."""
        return self.path.read_text(encoding)

    def copy_to(self, target: str | os.PathLike[str]) -> Path:
        """Copy it to a file, or into a folder under its own name; return the new path.

        :raises OSError: the target cannot be written.
        """
        import shutil

        path = Path(target)
        if path.is_dir():
            path = path / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as part:
            shutil.copyfile(self.path, part)
            part.chmod(0o666 & ~_umask())
        return path

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.place:
            _travelled.add(self.digest)
        if not _in_task:
            _pickled[self.digest] = self
        return File, (self.name, self.digest, self.size, self.place)


def file(path: str | os.PathLike[str]) -> File:
    """Make a value of a file.

    In the client the file stays where it is, and must not change as long as tasks use it. In a
    task it is copied to the results, so that it outlives the task.

    .. code-block:: python

        @scalems.task
        def simulate(structure: scalems.File) -> scalems.File:
            positions = load(structure)
            ...
            return scalems.file("trajectory.dcd")

    :raises UsageError: there is no such file.
    """
    import shutil
    import tempfile

    place = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would change its name
    if not place.is_file():
        what = "is a folder" if place.is_dir() else "does not exist"
        raise UsageError(
            f"The file {os.fspath(path)!r} {what}.",
            remedy=f"relative paths count from {Path.cwd()}",
        )
    if not (_area and _in_task):
        return File(place.name, _digest_of(place), place.stat().st_size, str(place))
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        copy = Path(folder) / place.name
        shutil.copyfile(place, copy)
        return kept(copy)


def kept(path: Path) -> File:
    """Move a file to the objects; its content is on the disk when this returns."""
    import shutil

    with path.open("rb") as opened:
        digest = _hash(opened)
        os.fsync(opened.fileno())
    size = path.stat().st_size
    target = _object(digest)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _has(target, digest, size):
        path.chmod(0o444 | (path.stat().st_mode & 0o111))
        try:
            path.replace(target)
        except OSError:  # another file system
            with written_beside(target) as part:
                shutil.copy(path, part)
        sync(target.parent)
    return File(path.name, digest, size)


def _has(target: Path, digest: str, size: int) -> bool:
    """Return whether an object is there and is what it was: somebody may have spoilt it."""
    try:
        if target.stat().st_size != size:
            return False
        with target.open("rb") as opened:
            return _hash(opened) == digest
    except OSError:
        return False


def sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def laid(source: object, target: Path) -> None:
    """Lay a file where a program expects it: as a link if that is possible.

    :param source: a :class:`File`, or content as text or bytes.
    :raises FileError: the file is not there, or is not what it was.
    :raises UsageError: it is something else.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, (str, bytes)):
        target.write_bytes(source.encode() if isinstance(source, str) else source)
        return
    if not isinstance(source, File):
        raise UsageError(
            f"The input {target.name!r} is a {type(source).__name__}.",
            remedy="inputs are files, or content as text or bytes",
        )
    place = source.path
    if source.place:
        # Not a link to the user's own file, which the program could write to.
        place = _copied(place, source)
    try:
        os.link(place, target)
    except OSError:
        target.symlink_to(place)


def _copied(place: Path, source: File) -> Path:
    """Return the object with the content of a file of the user's; it is copied but once."""
    import shutil
    import tempfile

    target = _object(source.digest)
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            copy = Path(folder) / source.name
            shutil.copy(place, copy)
            if kept(copy).digest != source.digest:
                raise FileError(f"The file {source.name!r} has changed: {place}")
    return target


# --- where they are -----------------------------------------------------------------------


def _found(path: Path, digest: str) -> Path | None:
    """Return where a content can be read: at its path, or as an object, which may have to come."""
    places = [path]
    if _area and path != (own := _object(digest)):
        places.append(own)
    for place in places:
        with contextlib.suppress(OSError):
            if _digest_of(place) == digest:
                return place
    if not _area or places[-1].exists():
        return None
    fetched = any(source.fetch(digest, places[-1]) for source in list(sources))
    return places[-1] if fetched else None


def known(digest: str) -> File | None:
    """Return the file with a content, if a call of this client may refer to it and it is here.

    It may have to be fetched, see :class:`Source`.
    """
    if digest in _pickled:
        return _pickled[digest]
    if not _area:
        return None
    path = _object(digest)
    if path.is_file() or any(source.fetch(digest, path) for source in list(sources)):
        return File(digest[:12], digest, path.stat().st_size)
    return None


def kept_path(digest: str) -> Path | None:
    """Return where an object is to be, if it is to stay when the run ends and is not here yet."""
    if not (_area and _kept_on) or (path := _object(digest)).is_file():
        return None
    return path


def borrow(digest: str, path: Path) -> None:
    """Have an object that lies elsewhere among those of this run, by a link."""
    target = _object(digest)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        target.symlink_to(path)


def object_path(objects: Path, digest: str) -> Path:
    """Return the path of the object with a content."""
    return objects / digest[:2] / digest[2:]


def _object(digest: str) -> Path:
    if not _area:
        raise FileError(
            "A file of a workflow was opened outside of it.",
            remedy="take it by copy_to() while the workflow runs",
        )
    return object_path(Path(_area).parent.parent / OBJECTS, digest)


@contextlib.contextmanager
def area(folder: Path | None) -> Iterator[str]:
    """Have a place for the files of a run; return the name of its scratch folder.

    It is made when it is needed, and removed at the end.

    :param folder: of the store of results; without one, nothing is kept.
    """
    import shutil
    import uuid

    global _kept_on
    token = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    base = folder if folder is not None else Path.cwd() / f".scalems-{token}"
    scratch = base / "scratch" / token
    with using(str(scratch), task=False):
        _kept_on = folder is not None
        try:
            yield str(scratch)
        finally:
            _pickled.clear()
            shutil.rmtree(scratch if folder is not None else base, ignore_errors=True)


class using:
    """Find and keep files in the area of a run, as long as the context is open.

    :param area: from :func:`area`; empty if the run has none.
    :param task: whether this is the far side, where files are kept for the client.
    """

    def __init__(self, area: str, *, task: bool = True) -> None:
        self._new = (area or _area, task)

    def __enter__(self) -> None:
        global _area, _in_task
        self._before = _area, _in_task
        _area, _in_task = self._new

    def __exit__(self, *exception: object) -> None:
        global _area, _in_task
        _area, _in_task = self._before


def has_area() -> bool:
    """Tell if this process works for a run that has a place for files."""
    return bool(_area)


def scratch() -> Path:
    """Return the folder of the run for what does not outlive a task; it exists."""
    assert _area
    folder = Path(_area)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def travelled(make: Callable[[], T]) -> tuple[T, tuple[str, ...]]:
    """Return what a function has pickled, and the digests of the objects in it."""
    _travelled.clear()
    data = make()
    return data, tuple(sorted(_travelled))


# --- digests ------------------------------------------------------------------------------


def _digest_of(path: Path) -> str:
    status = path.stat()
    key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_dev)
    return content_digest(str(path.absolute()), key)


@functools.lru_cache(maxsize=10_000)
def content_digest(path: str, key: tuple[int, ...]) -> str:
    """Return the SHA-256 of a file.

    :param key: changes when the file does: it is read again then.
    """
    with Path(path).open("rb") as opened:
        return _hash(opened)


def _hash(opened: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    while block := opened.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a name beside a path, for a file that replaces it at the end."""
    import uuid

    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
