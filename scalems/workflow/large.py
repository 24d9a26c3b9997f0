"""Large values: what is big in them stays outside of their pickle, and is not copied with it.

The form of an encoded value, on every backend, is ``bytes``: its pickle, of protocol 5; or, if
there is something in it of :data:`LARGE` bytes and more, a :class:`Large`: the pickle, and a
:class:`Blob` for each large buffer (of arrays and data frames, PEP 574) and each large ``bytes``.
A blob is memory that processes of one machine share and the system frees with the last of
them (memfd_create(2)), a file of the store, or plain bytes that came from another machine.

- To another process of this machine a blob goes as a file descriptor, see
  ``scalems.workflow.link``.
- To another machine it goes as a buffer: pickled by protocol 5 with a ``buffer_callback``, as
  ``scalems.radical.channel`` does, the large parts are frames of their own that nobody copies.
- Whoever pickles a ``Large`` in the usual way sends copies, and needs to know nothing.

Weighed: ``multiprocessing.shared_memory`` and files in ``/dev/shm``, which have names that a
``kill -9`` leaves behind, and which containers keep small.

Both sides import this module.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import os
import pickle
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import TaskError
from scalems.workflow.pickler import Pickler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGE = 1 << 18
"""Bytes from which a part of a value stays outside of its pickle."""

_BLOCK = 1 << 22
_FEW = 4  # a part of the files that a process may have open is for blobs, one in so many


class Blob:
    """The bytes of one large part; they never change.

    Made by :meth:`of`, :meth:`received` and :meth:`stored`.
    """

    __slots__ = ("_data", "_descriptor", "_digest", "path", "size")

    _open = 0

    def __init__(
        self, size: int, *, data: bytes | None = None, descriptor: int = -1, path: str = ""
    ) -> None:
        self.size = size
        self.path = path
        """Of its file; empty if it is in memory."""
        self._data = data
        self._descriptor = descriptor
        self._digest = ""
        if descriptor >= 0:
            Blob._open += 1

    @classmethod
    def of(cls, content: memoryview | bytes) -> Blob:
        """Copy a buffer to memory that can be shared."""
        view = memoryview(content)
        if cls._open >= _most_open():
            return cls(view.nbytes, data=bytes(view))
        try:
            descriptor = os.memfd_create("scalems-value")
        except OSError:
            return cls(view.nbytes, data=bytes(view))
        made = cls(view.nbytes, descriptor=descriptor)
        _write(descriptor, view)
        return made

    @classmethod
    def received(cls, descriptor: int) -> Blob:
        """Take over a file descriptor that another process has sent."""
        size = os.fstat(descriptor).st_size
        if cls._open < _most_open():
            return cls(size, descriptor=descriptor)
        with open(descriptor, "rb", buffering=0) as file:
            file.seek(0)
            return cls(size, data=file.readall())

    @classmethod
    def stored(cls, path: Path, size: int) -> Blob:
        """Name a file that is never changed."""
        return cls(size, path=str(path))

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            Blob._open -= 1
            os.close(descriptor)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol < 5:
            return _copied, (bytes(self.frame()),)
        return _copied, (pickle.PickleBuffer(self.frame()),)

    def move(self, path: Path) -> None:
        """Give its memory back: from now on it is a file that has its content."""
        self.path = str(path)
        self._close()
        self._data = None

    def buffer(self) -> memoryview:
        """Return the content, to be a part of a value: what writes to it changes no other's.

        :raises TaskError: its file is gone.
        """
        if self._data is not None:
            return memoryview(bytearray(self._data))
        if self._descriptor >= 0 and _Map.count < _most_open():
            with contextlib.suppress(OSError):
                return memoryview(_Map(self._descriptor, self.size, access=mmap.ACCESS_COPY))
        return memoryview(self._read())

    def content(self) -> bytes:
        """Return the content as ``bytes``.

        :raises TaskError: its file is gone.
        """
        if self._data is not None:
            return bytes(self._data)
        with self.opened() as file:
            found = os.pread(file, self.size, 0)
        return found if len(found) == self.size else bytes(self._read())

    def frame(self) -> memoryview:
        """Return the content, to be read only.

        :raises TaskError: its file is gone.
        """
        if self._data is not None:
            return memoryview(self._data)
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                return memoryview(_Map(self._descriptor, self.size, access=mmap.ACCESS_READ))
        return memoryview(self._read())

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the content in parts, none of which is large."""
        if self._data is not None:
            view = memoryview(self._data)
            for start in range(0, self.size, _BLOCK):
                yield view[start : start + _BLOCK]
            return
        with self.opened() as file:
            place = 0
            while block := os.pread(file, _BLOCK, place):
                yield block
                place += len(block)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Have a file descriptor of the content, as long as the context is open.

        :raises TaskError: its file is gone.
        """
        if self._descriptor >= 0:
            yield self._descriptor
            return
        if self._data is not None:
            descriptor = os.memfd_create("scalems-value")
            _write(descriptor, memoryview(self._data))
        else:
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise TaskError(
                    f"A kept value cannot be read: {self.path}: {error.strerror}",
                    remedy="run again: what is not there any more is computed again",
                ) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        import hashlib

        if not self._digest:
            found = hashlib.sha256()
            for block in self.blocks():
                found.update(block)
            self._digest = found.hexdigest()
        return self._digest

    def _read(self) -> bytearray:
        found = bytearray(self.size)
        view = memoryview(found)
        with self.opened() as file:
            place = 0
            while place < self.size:
                count = os.preadv(file, [view[place:]], place)
                if not count:
                    raise TaskError(
                        f"A kept value is not what it was: {self.path}", remedy="run again"
                    )
                place += count
        return found


class _Map(mmap.mmap):
    """Counts itself: each holds a file open."""

    count = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> _Map:
        made = super().__new__(cls, *args, **kwargs)
        _Map.count += 1
        return made

    def __del__(self) -> None:
        _Map.count -= 1


class Large:
    """A pickle, and what is outside of it.

    :param stream: the pickle; if it is empty, it is large itself, and the last of `blobs`.
    """

    __slots__ = ("blobs", "stream")

    def __init__(self, stream: bytes, blobs: Sequence[Blob]) -> None:
        self.stream = stream
        self.blobs = tuple(blobs)

    def __len__(self) -> int:
        return len(self.stream) + sum(blob.size for blob in self.blobs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Large, (self.stream, self.blobs)


Payload = bytes | Large
"""An encoded value."""


def dumps(value: object) -> Payload:
    """Pickle whatever cloudpickle can, what is not importable by value."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    stream = file.getvalue()
    if not pickler.buffers and not pickler.others and len(stream) < LARGE:
        return stream
    blobs = [*pickler.buffers, *reversed(pickler.others.values())]
    return apart(stream, blobs)


def apart(stream: bytes, blobs: Sequence[Blob] = ()) -> Payload:
    """Return the encoded value of a pickle, which may be large itself."""
    if len(stream) >= LARGE:
        return Large(b"", [*blobs, Blob.of(stream)])
    return Large(stream, blobs) if blobs else stream


def loads(payload: Payload) -> Any:
    """Return the value that was encoded."""
    if type(payload) is Large:
        return Unpickler(payload).load()
    return pickle.loads(payload)  # type: ignore[arg-type]


def _left_out(buffers: list[Blob], buffer: pickle.PickleBuffer) -> bool:
    with buffer.raw() as view:
        if view.nbytes < LARGE:
            return True  # it stays in the pickle
        buffers.append(Blob.of(view))
        return False


class _Pickler(Pickler):
    """Leaves out what is large. Buffers are taken in their order, all others by their numbers."""

    def __init__(self, file: io.BytesIO) -> None:
        self.buffers: list[Blob] = []
        # No method of this object: it and all that is large would be there until the next
        # collection of cycles.
        super().__init__(
            file, protocol=5, buffer_callback=functools.partial(_left_out, self.buffers)
        )
        self.others: dict[int, Blob] = {}
        self._held: list[bytes] = []  # so that no id is used again

    def persistent_id(self, value: object) -> tuple[int, bool] | None:
        """Return what stands for a large value: its number, and whether it is bytes."""
        kind = type(value)
        if kind is bytes and len(value) >= LARGE:  # type: ignore[arg-type]
            if id(value) not in self.others:
                self._held.append(value)  # type: ignore[arg-type]
                self.others[id(value)] = Blob.of(value)  # type: ignore[arg-type]
        elif kind is Blob:
            self.others.setdefault(id(value), value)  # type: ignore[arg-type]
        else:
            return None
        return [*self.others].index(id(value)), kind is bytes


class Unpickler(pickle.Unpickler):
    """Reads an encoded value."""

    def __init__(self, payload: Payload) -> None:
        stream: bytes | memoryview
        if isinstance(payload, Large):
            stream, self._blobs = payload.stream, payload.blobs
            if not stream:
                stream, self._blobs = self._blobs[-1].frame(), self._blobs[:-1]
        else:
            stream, self._blobs = payload, ()
        self._known: dict[int, bytes] = {}
        super().__init__(io.BytesIO(stream), buffers=(blob.buffer() for blob in self._blobs))

    def persistent_load(self, pid: tuple[int, bool]) -> object:
        """Return what a pickle has a number for."""
        number, is_bytes = pid
        blob = self._blobs[-1 - number]
        if not is_bytes:
            return blob
        if number not in self._known:
            self._known[number] = blob.content()
        return self._known[number]


def _copied(content: Any) -> Blob:
    return Blob(memoryview(content).nbytes, data=content)


def _write(descriptor: int, view: memoryview) -> None:
    place = 0
    while place < view.nbytes:
        place += os.write(descriptor, view[place : place + (1 << 30)])


def _most_open() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return int(limit) // _FEW if limit != resource.RLIM_INFINITY else 1 << 16
