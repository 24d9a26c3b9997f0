"""Writes to the database of a store, in one thread that commits what has gathered.

What is told to be written is durable when its callback is called: a commit reaches the disk
(``synchronous=FULL``), and many writes share one, so a commit costs little for each.

Rows of one kind are written many at a time by one statement: each statement gives Python's lock
away, and takes it back only when another thread has used it up.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import sqlite3
import threading
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from scalems.failpoint import failpoint
from scalems.store import database
from scalems.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_BUSY = 60.0  # seconds that somebody waits for room at most
_BATCH = 20_000  # rows in a commit: pages that several of them change are written once
_QUEUE = 20_000  # rows that wait before who brings more has to wait too
_TOGETHER = 50  # rows in a statement
_CACHE = 64  # MiB of the database that are kept in memory
_PAGES = 16_000  # of 4 KiB that are in the log before they go to their places

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Rows:
    """A kind of rows that are written together.

    Kinds are written in the order of `order`, and rows of a kind in that in which they came, or in
    that of their first values.

    :param head: SQL before the rows.
    :param columns: values of a row.
    :param tail: SQL after the rows.
    :param sort: the first values are digests, so in the order in which they came each row would go
        to another page of the database, which takes more than twice as long.
    """

    order: int
    head: str
    columns: int
    tail: str = ""
    sort: bool = False

    def sql(self, count: int) -> str:
        """Return the statement for so many rows."""
        row = f"({', '.join('?' * self.columns)})"
        return f"{self.head} {', '.join([row] * count)} {self.tail}"

    @property
    def together(self) -> int:
        """Rows that one statement takes: SQLite before 3.32 has 999 values at most."""
        return min(_TOGETHER, 999 // self.columns)


class Nowhere:
    """Writes nothing: of a store that may only be read."""

    broken = True

    def put(
        self,
        what: Rows | str,
        values: Sequence[object],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Call `then`."""
        if then is not None:
            then()

    def put_many(
        self,
        what: Rows,
        rows: Sequence[Sequence[object]],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Call `then`."""
        self.put(what, (), then)

    def close(self) -> None:
        """Do nothing."""


class Writer:
    """Writes to the database in a thread of its own.

    :param failed: told the first error, after which nothing is written any more.
    """

    def __init__(self, folder: Path, *, failed: Callable[[StoreError], None]) -> None:
        self._path = folder / database.FILE
        self._database = database.connect(folder, create=True)
        # Keys are digests, so a result may go to any page: what each costs would grow with their
        # number if pages had to be read and written for one at a time.
        self._database.execute(f"PRAGMA cache_size={-_CACHE * 1024}")
        self._database.execute(f"PRAGMA wal_autocheckpoint={_PAGES}")
        self._failed = failed
        self.broken = False
        """Whether nothing is written any more."""
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._more = 0  # rows that wait, beyond one for each thing in the queue
        self._room = threading.Event()
        self._thread = threading.Thread(target=self._write, name="scalems-store", daemon=True)
        self._thread.start()

    def put(
        self,
        what: Rows | str,
        values: Sequence[object],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write a row, or do what a statement says, soon.

        :param then: called when it is on the disk, or when it is known that it will not be.
        """
        self._put(what, values, False, then)

    def put_many(
        self,
        what: Rows,
        rows: Sequence[Sequence[object]],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write many rows soon, see :meth:`put`."""
        with self._lock:
            self._more += len(rows)
        self._put(what, rows, True, then)

    def _put(self, *entry: object) -> None:
        self._waiting.put(entry)
        # Not in its own thread, where callbacks bring more: it would wait for itself.
        full = self._waiting.qsize() + self._more > _QUEUE
        if full and threading.current_thread() is not self._thread:
            self._room.clear()
            self._room.wait(_BUSY)

    def close(self) -> None:
        """Write what is left, and close the database."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _write(self) -> None:
        last = False
        while not last:
            batch = self._gathered()
            last = None in batch
            batch = [entry for entry in batch if entry is not None]
            self._commit(batch)
            self._room.set()
            for *_, then in batch:
                if then is not None:
                    try:
                        then()
                    except Exception:
                        log.exception("what waited for the store failed")
            batch.clear()  # nothing of it is held while there is nothing to do
        self._database.close()

    def _gathered(self) -> list[Any]:
        """Wait for something to write; return it, with what else has come by then."""
        batch: list[Any] = []
        more = 0
        entry = self._waiting.get()
        with contextlib.suppress(queue.Empty):
            while True:
                batch.append(entry)
                if entry is not None and entry[2]:
                    more += len(entry[1])
                if len(batch) + more >= _BATCH:
                    break
                entry = self._waiting.get_nowait()
        with self._lock:
            self._more -= more
        return batch

    def _commit(self, batch: Sequence[Any]) -> None:
        if self.broken:
            return
        told = any(then is not None for *_, then in batch)  # somebody waits for it
        try:
            with database.errors(self._path):
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    for statement, values in _statements(batch):
                        self._database.execute(statement, values)
                    if told:
                        failpoint("store.written")
                    self._database.execute("COMMIT")
                    if told:
                        failpoint("store.committed")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        self._database.execute("ROLLBACK")
                    raise
        except StoreError as error:
            self.broken = True  # the workflow goes on without it
            self._failed(error)


def _statements(batch: Sequence[Any]) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield what is to be executed: rows by their kinds first, then all else."""
    kinds: dict[Rows, list[Sequence[object]]] = {}
    others = []
    for what, values, many, _ in batch:
        if not isinstance(what, Rows):
            others.append((what, values))
        elif many:
            kinds.setdefault(what, []).extend(values)
        else:
            kinds.setdefault(what, []).append(values)
    for kind in sorted(kinds, key=lambda kind: kind.order):
        rows, size = kinds[kind], kind.together
        if kind.sort:
            rows.sort(key=itemgetter(0))  # of those with the same one the last stays the last
        whole = len(rows) - len(rows) % size
        several, one = kind.sql(size), kind.sql(1)
        for start in range(0, whole, size):
            yield several, [*itertools.chain.from_iterable(rows[start : start + size])]
        for row in rows[whole:]:
            yield one, row
    yield from others
