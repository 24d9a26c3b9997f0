"""The database of a store: SQLite, written by one thread that commits what has gathered.

What is told to be written is durable when its callback is called: a commit reaches the disk
(``synchronous=FULL``), and many writes share one, so a commit costs little for each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import ScalemsError, UsageError
from scalems.host import filelock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMAT = 3
FILE = "results.sqlite"
FOLDER = ".scalems"

_BUSY = 60.0  # seconds to wait for another process that writes
_BATCH = 2000  # writes in a commit
_QUEUE = 20_000  # writes that wait before who brings more has to wait too
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "fuse", "afs", "ceph", "pvfs")

_SCHEMA = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT, script TEXT, argv TEXT, backend TEXT, label TEXT,
    env TEXT, host TEXT, pid INTEGER, started REAL, ended REAL, exit_code INTEGER
);
CREATE TABLE tasks (
    run INTEGER, id INTEGER, name TEXT, state TEXT, key TEXT, code TEXT, args TEXT, env TEXT,
    shown TEXT, unstable TEXT, reused INTEGER, host TEXT, pid INTEGER, submitted REAL,
    started REAL, ended REAL, stdout TEXT, stderr TEXT, error TEXT, stamp TEXT,
    PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE INDEX tasks_by_name ON tasks (name, run);
CREATE TABLE codes (code TEXT PRIMARY KEY, parts TEXT) WITHOUT ROWID;
CREATE TABLE results (
    key TEXT PRIMARY KEY, payload BLOB, object TEXT, size INTEGER, name TEXT, stdout TEXT,
    stderr TEXT, host TEXT, pid INTEGER, started REAL, ended REAL, env TEXT, used REAL,
    files TEXT, stamp TEXT
) WITHOUT ROWID;
CREATE TABLE environments (env TEXT PRIMARY KEY, versions TEXT) WITHOUT ROWID;
"""

log = logging.getLogger(__name__)


class StoreError(ScalemsError):
    """The store cannot be read, or cannot be written."""


def connect(folder: Path, *, create: bool) -> sqlite3.Connection:
    """Open the database of a store; it may be used by any thread, one at a time.

    :raises UsageError: there is none, or it is of a newer version of scalems.
    :raises StoreError: it is damaged, or cannot be opened.
    """
    path = folder / FILE
    if not create and not path.is_file():
        raise UsageError(
            f"there is no store of results in {folder}",
            remedy="run a workflow first, or name its store with --store FOLDER",
        )
    with errors(path):
        made = not path.is_file()
        if made:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(
            path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        with filelock.hold(folder / ".lock"):  # SQLite does not wait when two change the mode
            # WAL needs shared memory, which network file systems have not.
            # https://www.sqlite.org/wal.html
            database.execute(f"PRAGMA journal_mode={'DELETE' if _is_remote(folder) else 'WAL'}")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("BEGIN IMMEDIATE")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
            if version == 1:  # results had no files
                database.execute("ALTER TABLE results ADD COLUMN files TEXT")
            if version in (1, 2):  # what computed a result was its environment alone
                for table in ("tasks", "results"):
                    database.execute(f"ALTER TABLE {table} ADD COLUMN stamp TEXT")
                database.execute(
                    "CREATE TABLE environments (env TEXT PRIMARY KEY, versions TEXT) WITHOUT ROWID"
                )
            if version < FORMAT:
                database.execute(f"PRAGMA user_version={FORMAT}")
            database.execute("COMMIT")
        if version > FORMAT:
            database.close()
            raise UsageError(
                f"the store in {folder} was written by a newer version of scalems",
                remedy="use that version, or another folder with --store FOLDER",
            )
    return database


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Tell SQLite's and the system's errors in our words.

    :raises StoreError: for each of them.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        remedy = "run with --no-store, or with another folder: --store FOLDER"
        if "malformed" in text or "not a database" in text:
            remedy = f"it is damaged: move {path.parent} away; finished tasks will run again"
        elif "full" in text:
            remedy = "free some space; what had finished before is kept"
        raise StoreError(f"the store {path}: {text}", remedy=remedy) from error
    except OSError as error:
        raise StoreError(
            f"the store {error.filename or path}: {error.strerror or error}",
            remedy="run with --no-store, or with another folder: --store FOLDER",
        ) from error


def environments(database: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Return the versions in environments that runs have used, by fingerprint."""
    rows = database.execute("SELECT env, versions FROM environments")
    return {env: json.loads(versions) for env, versions in rows}


class _Rows(tuple[Sequence[Any], ...]):
    """Values for one statement that is executed for each of them."""


class Writer:
    """Writes to the database in a thread of its own.

    :param failed: told the first error, after which nothing is written any more.
    """

    def __init__(self, folder: Path, *, failed: Callable[[StoreError], None]) -> None:
        self._path = folder / FILE
        self._database = connect(folder, create=True)
        self._failed = failed
        self._broken = False
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Event()
        self._thread = threading.Thread(target=self._write, name="scalems-store", daemon=True)
        self._thread.start()

    def put(
        self,
        statement: str,
        values: Sequence[object],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write something soon.

        :param then: called when it is on the disk, or when it is known that it will not be.
        """
        self._waiting.put((statement, values, then))
        # Not in its own thread, where callbacks bring more: it would wait for itself.
        if self._waiting.qsize() > _QUEUE and threading.current_thread() is not self._thread:
            self._room.clear()
            self._room.wait(_BUSY)

    def put_many(
        self,
        statement: str,
        rows: Sequence[Sequence[object]],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write many rows soon, by one statement, see :meth:`put`."""
        self.put(statement, _Rows(rows), then)

    def close(self) -> None:
        """Write what is left, and close the database."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _write(self) -> None:
        last = False
        while not last:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._waiting.get_nowait())
            last = None in batch
            batch = [entry for entry in batch if entry is not None]
            self._commit(batch)
            self._room.set()
            for _, _, then in batch:
                if then is not None:
                    try:
                        then()
                    except Exception:
                        log.exception("what waited for the store failed")
        self._database.close()

    def _commit(self, batch: Sequence[tuple[str, Sequence[object], object]]) -> None:
        if self._broken:
            return
        try:
            with errors(self._path):
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    for statement, values, _ in batch:
                        if isinstance(values, _Rows):
                            self._database.executemany(statement, values)
                        else:
                            self._database.execute(statement, values)
                    self._database.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        self._database.execute("ROLLBACK")
                    raise
        except StoreError as error:
            self._broken = True  # the workflow goes on without it
            self._failed(error)


def _is_remote(folder: Path) -> bool:
    """Whether a folder is on a network file system, by the mount table (proc(5))."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    place = str(folder.resolve())
    inside = [
        (place_of, kind)
        for place_of, kind in mounts
        if place == place_of or place.startswith(place_of.rstrip("/") + "/")
    ]
    kind = max(inside, key=lambda mount: len(mount[0]), default=("", ""))[1]
    return kind.startswith(_NETWORK)


def now() -> float:
    """Return the time, in seconds since the epoch."""
    return time.time()
