"""The database of a store: SQLite. See ``scalems.store.writer`` for what writes to it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import ScalemsError, UsageError
from scalems.host import filelock

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 6
_READABLE = 5  # the oldest format that can be read without being brought up to date
FILE = "results.sqlite"
FOLDER = ".scalems"

_BUSY = 60.0  # seconds to wait for another process that writes
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "fuse", "afs", "ceph", "pvfs")

_SCHEMA = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT, script TEXT, argv TEXT, backend TEXT, label TEXT,
    env TEXT, host TEXT, pid INTEGER, started REAL, ended REAL, exit_code INTEGER,
    lost TEXT
);
CREATE TABLE tasks (
    run INTEGER, id INTEGER, name TEXT, state TEXT, key TEXT, code TEXT, args TEXT, env TEXT,
    shown TEXT, unstable TEXT, reused INTEGER, host TEXT, pid INTEGER, submitted REAL,
    started REAL, ended REAL, stdout TEXT, stderr TEXT, error TEXT, stamp TEXT, tags TEXT,
    given TEXT, PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE INDEX tasks_by_name ON tasks (name, run);
CREATE TABLE codes (code TEXT PRIMARY KEY, parts TEXT) WITHOUT ROWID;
CREATE TABLE results (
    key TEXT PRIMARY KEY, payload BLOB, object TEXT, size INTEGER, name TEXT, stdout TEXT,
    stderr TEXT, host TEXT, pid INTEGER, started REAL, ended REAL, env TEXT, used REAL,
    files TEXT, stamp TEXT, crc INTEGER
) WITHOUT ROWID;
CREATE TABLE environments (env TEXT PRIMARY KEY, versions TEXT) WITHOUT ROWID;
"""


_ENVIRONMENTS = "CREATE TABLE IF NOT EXISTS environments (env TEXT PRIMARY KEY, versions TEXT)"
_ADDED = {
    "runs": ("lost TEXT",),
    "results": ("files TEXT", "stamp TEXT", "crc INTEGER"),
    "tasks": ("stamp TEXT", "tags TEXT", "given TEXT"),
}
"""What tables have got since the first format."""


_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_ELSEWHERE = "run with --no-store, or with another folder: --store FOLDER"
_FULL = "free some space; what had finished before is kept"


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
            elif version < FORMAT:
                _renew(database)
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


def connect_to_read(folder: Path) -> sqlite3.Connection:
    """Open the database of a store, also one that may not be written, or on a full disk.

    :raises UsageError: there is none, or it is of a newer version of scalems.
    :raises StoreError: it is damaged, or cannot be opened.
    """
    try:
        return connect(folder, create=False)
    except StoreError as error:
        if not only_unwritable(error):
            raise
    path = folder / FILE
    with errors(path):
        database, version = _opened_to_read(path)
    if not _READABLE <= version <= FORMAT:
        database.close()
        raise UsageError(
            f"the store in {folder} is of another version of scalems, and may not be written",
            remedy="use that version, or copy the folder to where it can be brought up to date",
        )
    return database


def _opened_to_read(path: Path) -> tuple[sqlite3.Connection, int]:
    """Open a database without writing anything; return it and its format.

    :raises sqlite3.Error: it cannot be read.
    """
    # A log of others' can only be read with shared memory, for which there must be a file.
    shared = Path(f"{path}-shm").exists()
    for how in ("mode=ro", "immutable=1") if shared else ("immutable=1",):
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            return database, int(version)
        except sqlite3.Error as error:
            database.close()
            failed = error
    raise failed


def only_unwritable(error: StoreError) -> bool:
    """Return whether a store that has failed can perhaps be read all the same."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in (*_READ_ONLY, *_NO_ROOM)
    # "disk I/O error" is what SQLite says if there is no room for its shared memory.
    return isinstance(cause, sqlite3.OperationalError) and bool(
        re.search("readonly|full|disk I/O", str(cause))
    )


def _renew(database: sqlite3.Connection) -> None:
    """Give the tables of an older format what they have not."""
    database.execute(f"{_ENVIRONMENTS} WITHOUT ROWID")
    for table, columns in _ADDED.items():
        there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for column in columns:
            if column.partition(" ")[0] not in there:
                database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Tell SQLite's and the system's errors in our words.

    :raises StoreError: for each of them.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        remedy = _ELSEWHERE
        if "full" in text:
            remedy = _FULL
        elif isinstance(error, sqlite3.OperationalError) and not _DAMAGED.search(text):
            pass
        else:
            remedy = _damaged(path)
        raise StoreError(f"the store {path}: {text}", remedy=remedy) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # of what was read from it
        raise StoreError(
            f"the store {path} holds what scalems has not written: {error}", remedy=_damaged(path)
        ) from error
    except OSError as error:
        raise told(error, path) from error


def told(error: OSError, path: Path) -> StoreError:
    """Return what is told of an error of the system.

    :param path: what it is of, if it does not say so.
    """
    remedy = _ELSEWHERE
    if error.errno in _NO_ROOM:
        remedy = _FULL
    return StoreError(
        f"the store {error.filename or path}: {error.strerror or error}", remedy=remedy
    )


def _damaged(path: Path) -> str:
    return (
        f"it is damaged: `scalems clean --mend --store {shlex.quote(str(path.parent))}` keeps what "
        "can be read of it"
    )


_DAMAGED = re.compile("malformed|not a database|decode|no such (table|column)")


def environments(database: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Return the versions in environments that runs have used, by fingerprint."""
    rows = database.execute("SELECT env, versions FROM environments")
    return {env: json.loads(versions) for env, versions in rows}


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
