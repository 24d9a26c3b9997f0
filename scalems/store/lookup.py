"""Finds results of former runs by their keys, with few statements.

Each statement gives Python's lock away, and a busy program gets it back late: so whether there may
be a result at all is known without one, and what the same script is likely to ask for next, as it
did in its last run, is read ahead. While another run works in the same store, its results are
looked for each time.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from scalems.host.process import lives
from scalems.workflow.call import hostname

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

RESULT = "payload, object, stdout, stderr, host, pid, started, ended, env, files, stamp, crc"

_AHEAD = 500  # results that are read together
_SMALL = 10_000  # bytes of those that are read ahead
_LOOK = 1.0  # seconds between two looks whether another run is at work
_BITS = 24  # of a place in the filter: 2 MB; of a million keys it takes 1 in 500 for known
_MASK = (1 << _BITS) - 1


class Filter:
    """A set of keys that takes few others for its own (a Bloom filter).

    A key is a digest, so its own digits say where its four bits are.
    """

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_BITS - 3))
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Add a key: a hexadecimal number of 24 digits and more."""
        number, bits = int(key[:24], 16), self._bits
        with self._lock:
            for _ in range(4):
                bits[(number & _MASK) >> 3] |= 1 << (number & 7)
                number >>= _BITS

    def __contains__(self, key: str) -> bool:
        number, bits = int(key[:24], 16), self._bits
        for _ in range(4):
            if not bits[(number & _MASK) >> 3] & 1 << (number & 7):
                return False
            number >>= _BITS
        return True


class Lookup:
    """Reads results. Used by one thread at a time.

    :param database: of the store.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._known: Filter | None = None
        self._ahead: dict[str, Sequence[Any]] = {}
        self._used = 0
        self._run, self._next = 0, 0
        self._own = 0
        self._looked, self._alone = 0.0, False

    def begin(self, run: int, script: str) -> None:
        """Say which run this is."""
        self._own = run
        row = self._database.execute(
            "SELECT max(run) FROM runs WHERE run<? AND script=?", (run, script)
        ).fetchone()
        self._run = row[0] or 0

    def kept(self, *keys: str) -> None:
        """Note that there are results by now; in any thread."""
        known = self._known
        if known is not None:
            for key in keys:
                known.add(key)

    def find(self, key: str) -> Sequence[Any] | None:
        """Return the columns of :data:`RESULT` for a key; ``None`` if there are none.

        :raises sqlite3.Error: the database cannot be read.
        """
        row = self._ahead.pop(key, None)
        if row is not None:
            self._used += 1
            return row
        if not self.may_have(key):
            return None
        row = self._one(key)
        if row is not None and self._run:
            self._read_ahead()
        return row

    def find_many(self, keys: Sequence[str]) -> list[Sequence[Any]]:
        """Return the key and the columns of :data:`RESULT` for those keys that have a result.

        :raises sqlite3.Error: the database cannot be read.
        """
        keys = [key for key in keys if self.may_have(key)]
        found: list[Sequence[Any]] = []
        for start in range(0, len(keys), _AHEAD):
            some = keys[start : start + _AHEAD]
            marks = ", ".join("?" * len(some))
            found += self._database.execute(
                f"SELECT key, {RESULT} FROM results WHERE key IN ({marks})", some
            )
        return found

    def may_have(self, key: str) -> bool:
        """Return whether there may be a result for a key.

        :raises sqlite3.Error: the database cannot be read.
        """
        if time.monotonic() - self._looked > _LOOK:
            self._look()
        if not self._alone:
            return True
        if self._known is None:
            self._known = Filter()
            for (known,) in self._database.execute("SELECT key FROM results"):
                self._known.add(known)
        return key in self._known

    def _look(self) -> None:
        others = self._database.execute(
            "SELECT host, pid FROM runs WHERE ended IS NULL AND run<>?", (self._own,)
        ).fetchall()
        here = hostname()
        alone = not any(host != here or lives(pid) for host, pid in others)
        if alone and not self._alone:
            self._known = None  # others may have kept results meanwhile
        self._looked, self._alone = time.monotonic(), alone

    def _one(self, key: str) -> Sequence[Any] | None:
        row: Sequence[Any] | None = self._database.execute(
            f"SELECT {RESULT} FROM results WHERE key=?", (key,)
        ).fetchone()
        return row

    def _read_ahead(self) -> None:
        """Read what the next tasks of the last run had as results."""
        if self._next and self._used < _AHEAD // 10:
            self._run = 0  # this run asks for other things
            self._ahead.clear()
            return
        columns = ", ".join(f"results.{name}" for name in RESULT.split(", "))
        rows = self._database.execute(
            f"SELECT tasks.id, results.key, {columns} FROM tasks JOIN results USING (key)"
            " WHERE run=? AND id>? AND size<? ORDER BY id LIMIT ?",
            (self._run, self._next, _SMALL, _AHEAD),
        ).fetchall()
        self._used = 0
        self._ahead = {key: row for _, key, *row in rows}
        if rows:
            self._next = rows[-1][0]
        else:
            self._run = 0
