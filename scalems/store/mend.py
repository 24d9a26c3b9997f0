"""Makes a damaged database anew, of all that can still be read of it.

What is read is checked as a run checks it: a result whose checksum does not fit is left out. The
damaged files stay, in a folder beside the new one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import UsageError
from scalems.host import filelock
from scalems.host.process import lives
from scalems.store import database, salvage
from scalems.store.identity import checksum
from scalems.workflow.call import hostname

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TABLES = {
    "runs": ("run",),
    "tasks": ("run", "id"),
    "codes": ("code",),
    "results": ("key",),
    "environments": ("env",),
}
"""What is read, and the columns that it is in the order of."""
_HEADER = 100  # bytes; https://www.sqlite.org/fileformat2.html
_PAGES = slice(28, 32)  # how many there are, as the header says


@dataclass(frozen=True)
class Mended:
    """What was read of a damaged database.

    :param former: the folder that its files are in now.
    :param results: how many there were.
    :param runs: the same.
    """

    former: Path
    results: int
    runs: int


def mend(folder: Path) -> Mended:
    """Make the database of a store anew; no run may be at work with it.

    :raises UsageError: there is none, or a run is at work with it.
    :raises StoreError: the new one cannot be written.
    """
    path = folder / database.FILE
    if not path.is_file():
        raise UsageError(f"there is no store of results in {folder}")
    _refuse_at_work(path)
    with database.errors(path):
        with filelock.hold(folder / ".lock"):
            former = _put_aside(path)
        made = database.connect(folder, create=True)
        damaged = _opened(former / database.FILE, path)
        try:
            numbers = {name: _copied(damaged, made, name) for name in _TABLES}
            if not _is_readable(damaged):
                numbers["results"] = _found(former / database.FILE, made)
        finally:
            damaged.close()
            made.close()
    return Mended(former=former, results=numbers["results"], runs=numbers["runs"])


def _refuse_at_work(path: Path) -> None:
    """Let nothing be moved away from a run, as far as the damaged database can tell.

    :raises UsageError: one is at work.
    """
    with contextlib.suppress(sqlite3.Error):
        opened = sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(opened):
            rows = opened.execute("SELECT run, host, pid FROM runs WHERE ended IS NULL").fetchall()
            for run, host, pid in rows:
                if host == hostname() and pid != os.getpid() and lives(pid):
                    raise UsageError(
                        f"run {run} is at work with {path.parent}, as process {pid}",
                        remedy="wait until it has ended, or end it",
                    )


def _put_aside(path: Path) -> Path:
    """Move a database and its log to a folder of their own."""
    former = next(p for n in count(1) if not (p := path.parent / f"damaged-{n}").exists())
    former.mkdir(mode=0o700)
    for end in ("-wal", "-shm", ""):  # itself last: without it there would be nothing to mend
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{end}").rename(Path(f"{former / path.name}{end}"))
    return former


def _opened(path: Path, fresh: Path) -> sqlite3.Connection:
    """Open a damaged database, whose header is written anew if it is that which is damaged.

    :param fresh: a whole one of the same kind.
    """
    opened = sqlite3.connect(path, isolation_level=None)
    try:
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        opened.close()
        with path.open("r+b") as file, fresh.open("rb") as whole:
            header = bytearray(whole.read(_HEADER))
            size = int.from_bytes(header[16:18], "big")
            header[_PAGES] = (path.stat().st_size // size).to_bytes(4, "big")
            file.write(header)
        opened = sqlite3.connect(path, isolation_level=None)
    opened.text_factory = lambda data: data.decode("utf-8", "replace")
    return opened


def _copied(damaged: sqlite3.Connection, made: sqlite3.Connection, table: str) -> int:
    """Copy what can be read of a table; return how many rows that is."""
    there, known = (_columns(one, table) for one in (damaged, made))
    columns = [name for name in known if name in there]
    if not columns:
        return 0
    places = ", ".join("?" * len(columns))
    insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({places})"
    made.execute("BEGIN")
    for row in _rows(damaged, table, columns):
        named = dict(zip(columns, row, strict=True))
        if None in (named[key] for key in _TABLES[table]):
            continue
        if table == "results" and not _is_whole(named):
            continue
        made.execute(insert, row)
    made.execute("COMMIT")
    ((number,),) = made.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(number)


def _rows(
    damaged: sqlite3.Connection, table: str, columns: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield rows from both ends, each up to what is damaged; those of the middle may be lost."""
    for order in ("ASC", "DESC"):
        by = ", ".join(f"{name} {order}" for name in _TABLES[table])
        try:
            yield from damaged.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {by}")
            return  # all of them
        except sqlite3.Error:
            continue


def _is_readable(damaged: sqlite3.Connection) -> bool:
    """Return whether all results can be read in the usual way."""
    try:
        for _ in damaged.execute("SELECT * FROM results"):
            pass
    except sqlite3.Error:
        return False
    return True


def _found(path: Path, made: sqlite3.Connection) -> int:
    """Add the results that only a look at each page finds; return how many there are then."""
    columns = _columns(made, "results")
    places = ", ".join("?" * len(columns))
    made.execute("BEGIN")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        size = int.from_bytes(data[16:18], "big")
        for row in salvage.rows(data, 65536 if size == 1 else size):
            named = dict(zip(columns, row, strict=False))
            if len(row) == len(columns) and isinstance(named["crc"], int) and _is_whole(named):
                made.execute(f"INSERT OR IGNORE INTO results VALUES ({places})", row)
    made.execute("COMMIT")
    ((number,),) = made.execute("SELECT count(*) FROM results").fetchall()
    return int(number)


def _columns(opened: sqlite3.Connection, table: str) -> list[str]:
    try:
        return [row[1] for row in opened.execute(f"PRAGMA table_info({table})")]
    except sqlite3.Error:
        return []


def _is_whole(row: dict[str, Any]) -> bool:
    if row.get("crc") is None:
        return True  # of an older version, which had none
    try:
        found = checksum(row["key"], row["payload"], row["object"], row["files"])
    except (TypeError, AttributeError):  # a text where there are bytes
        return False
    return bool(row["crc"] == found)
