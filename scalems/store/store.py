"""The store of a run: takes finished results out, puts new ones in."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from scalems.errors import ScalemsError
from scalems.store import database, digest, identity, objects, shown
from scalems.store.database import FOLDER as FOLDER
from scalems.store.database import StoreError, now
from scalems.store.identity import Identity, as_json, checksum
from scalems.store.lookup import RESULT, Lookup
from scalems.store.reserve import Reserve
from scalems.store.writer import Nowhere, Rows, Writer
from scalems.workflow import pickler
from scalems.workflow.call import Outcome, hostname
from scalems.workflow.large import Blob, Large

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.large import Payload
    from scalems.workflow.options import TaskOptions

_LARGE = 100_000  # bytes above which a value is a file of its own
_FIELDS = RESULT.split(", ")[2:-1]
_COLUMNS = "run, id, name, state, code, args, env, shown, unstable, reused, submitted, tags"
_HOW = "key, stdout, stderr, host, pid, started, ended, stamp"
_ENDED = (
    "state, key, env, reused, host, pid, started, ended, stdout, stderr, error, stamp, given,"
    " run, id"
)
_TASK = Rows(0, f"INSERT OR REPLACE INTO tasks ({_COLUMNS}) VALUES", 12)
_USED = Rows(0, f"INSERT OR REPLACE INTO tasks ({_COLUMNS}, {_HOW}) VALUES", 20)
_KEEP = Rows(1, "INSERT OR REPLACE INTO results VALUES", 16, sort=True)
_TOUCH = Rows(
    2,
    "UPDATE results SET used=(julianday('now') - 2440587.5) * 86400.0 WHERE key IN (VALUES",
    1,
    ")",
)
_END = Rows(
    3,
    f"INSERT INTO tasks ({_ENDED}) VALUES",
    15,
    "ON CONFLICT (run, id) DO UPDATE SET "
    + ", ".join(f"{name}=excluded.{name}" for name in _ENDED.split(", ")[:-2]),
)


class Store:
    """Results of former runs, and the record of this one.

    :param folder: of the store.
    :param rerun: take nothing out, only put in.
    :param warn: told, once, that the store cannot be written any more.
    :param writes: if not, only take out.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rerun: bool = False,
        warn: Callable[[str], None] = print,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self.writes = writes
        self._rerun = rerun
        self._warn = warn
        self._lock = threading.RLock()
        self._codes: set[str] = set()
        self._given: dict[int, str] = {}  # of tasks that run: what others gave them
        self._writer: Writer | Nowhere
        if writes:
            self._writer = Writer(folder, failed=self._lose)
            self._reader = database.connect(folder, create=False)
        else:
            self._reader = database.connect_to_read(folder)
            self._writer = Nowhere()
        self._lookup = Lookup(self._reader)
        self._reserve = Reserve(folder)
        pickler.know_classes_by(digest.of_class)
        self.run = 0
        """Number of the run; 0 if it is not recorded."""
        self.lost = ""
        """Why results are not kept any more, or not at all; empty if they are."""
        self._environment = ""

    def begin(
        self,
        *,
        script: str,
        argv: Sequence[str],
        backend: str,
        label: str,
        env: str,
        environments: Mapping[str, Mapping[str, str]] = {},
    ) -> int:
        """Record that a run begins, if the store is written; return its number, or 0.

        :param env: content fingerprint of the environment that computes.
        :param environments: the versions in this one, and in others that may compute.
        """
        self._environment = env
        with database.errors(self.folder / database.FILE), self._lock:
            if not self.writes:
                self._lookup.begin(0, shown.plain(script))
                return 0
            cursor = self._reader.execute(
                "INSERT INTO runs (script, argv, backend, label, env, host, pid, started)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    shown.plain(script),
                    json.dumps([*argv]),
                    backend,
                    label,
                    env,
                    hostname(),
                    os.getpid(),
                    now(),
                ),
            )
            self.run = int(cursor.lastrowid or 0)
            for digest, versions in environments.items():
                self._reader.execute(
                    "INSERT OR IGNORE INTO environments VALUES (?, ?)",
                    (digest, json.dumps(dict(versions))),
                )
            self._lookup.begin(self.run, shown.plain(script))
            self._reserve.make()
        return self.run

    def end(self, exit_code: int) -> None:
        """Record the end of the run, and close the store."""
        ending = ("UPDATE runs SET ended=?, exit_code=? WHERE run=?", (now(), exit_code, self.run))
        self._writer.put(*ending)
        self._writer.close()
        if self.lost and self.writes:
            self._note_loss()
            self._try(*ending)
        self._reader.close()

    def close(self) -> None:
        """Close the store of a run that has not begun."""
        self._writer.close()
        self._reader.close()

    # --- calls ----------------------------------------------------------------------------

    def identify(
        self,
        function: Callable[..., Any],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        matters: Mapping[str, object] = MappingProxyType({}),
    ) -> Identity:
        """Return what a call is; futures in its arguments are slots.

        :param matters: options of the task that its value may depend on.
        """
        code = self._code(function)
        if isinstance(code, Identity):
            return code
        options = identity.options(matters) if matters else {}
        return identity.of_arguments(code, args, kwargs, options)

    def _code(self, function: Callable[..., Any]) -> digest.Code | Identity:
        """Return what a function does, which is recorded; or what its calls are if it has none."""
        try:
            code = digest.of_function(function)
        except digest.Unstable as error:
            return Identity("", {}, f"the function uses {error}")
        if code.digest not in self._codes:
            self._codes.add(code.digest)
            self._writer.put(
                "INSERT OR IGNORE INTO codes VALUES (?, ?)", (code.digest, json.dumps(code.parts))
            )
        return code

    def submitted(
        self,
        ident: int,
        name: str,
        call: Identity | None,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        tags: Sequence[str] = (),
    ) -> None:
        """Record a task of this run.

        :param call: what it is; ``None`` if its result is not to be kept.
        """
        row = self._row(ident, name, call, args, kwargs, tags)
        self._writer.put(_TASK, row)

    def _row(
        self,
        ident: int,
        name: str,
        call: Identity | None,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        tags: Sequence[str],
    ) -> tuple[object, ...]:
        """Return the values of :data:`_COLUMNS` for a task that waits."""
        written = shown.arguments(args, kwargs)
        code, digests, unstable = "", "{}", "it is not cached"
        if call is not None:
            code, unstable = call.code, call.unstable
            digests = as_json(call.args)
        return (
            *(self.run, ident, name, "waiting", code, digests, self._environment),
            *(written, unstable, 0, now(), ",".join(tags)),
        )

    def find(
        self, ident: int, call: Identity, values: Sequence[bytes], givers: Sequence[int] = ()
    ) -> tuple[str, Any]:
        """Return the key of a call, and the outcome that it had before, if it had one."""
        given = identity.given(values)
        key = call.key(self._environment, given)
        if givers:
            self._given[ident] = identity.recorded(givers, given)
        if not key or self._rerun:
            return key, None
        with self._lock:
            try:
                row = self._lookup.find(key)
            except sqlite3.Error as error:
                self._unreadable(error)
                return key, None
        return key, None if row is None else self._outcome(ident, key, row)

    def _outcome(self, ident: int, key: str, row: Sequence[Any]) -> Outcome | None:
        """Return the outcome that was kept; ``None`` if a part of it is gone, or was changed."""
        *row, crc = row
        if crc is not None and crc != checksum(key, row[0], row[1], row[9]):
            return None  # SQLite does not see a bit that has changed in a value
        payload: Payload = row[0] or b""
        if row[1] is not None:
            blobs = [objects.find(self.folder, name) for name in row[1].split()]
            if None in blobs:
                return None
            payload = Large(row[0] or b"", [one for one in blobs if one is not None])
        fields = dict(zip(_FIELDS, row[2:], strict=True))
        fields["stamp"] = fields["stamp"] or ""
        fields["files"] = tuple((fields["files"] or "").split())
        if not all(objects.is_whole(self.folder, name) for name in fields["files"]):
            return None  # removed or changed by hand
        if not self.writes:
            objects.lend(self.folder, fields["files"])
        return Outcome(id=ident, ok=True, payload=payload, **fields)

    def begin_many(
        self,
        function: Callable[..., Any],
        name: str,
        ids: Sequence[int],
        items: Sequence[tuple[object, ...]],
        options: TaskOptions,
    ) -> tuple[list[str], dict[int, Outcome]]:
        """Record tasks that call one function; return their keys, and outcomes of former runs."""
        identities: list[Identity | None] = [None] * len(items)
        if options.cache:
            code = self._code(function)
            if isinstance(code, Identity):
                identities = [code] * len(items)
            else:
                matters = identity.options(options.matters)
                identities = [identity.of_arguments(code, args, {}, matters) for args in items]
        keys = [one.key(self._environment) if one is not None else "" for one in identities]
        outcomes = self._find_many(keys, ids)
        fresh, used, reused = [], [], {}
        for place, (ident, call, args) in enumerate(zip(ids, identities, items, strict=True)):
            key = keys[place]
            row = self._row(ident, name, call, args, {}, options.tags)
            outcome = outcomes.get(key)
            if outcome is None:
                fresh.append(row)
            else:
                reused[place] = outcome
                stdout, stderr, host, pid, started, ended, env = _stamp(outcome)
                used.append(
                    (
                        *(*row[:3], "done", *row[4:6], env or row[6], *row[7:9], 1, *row[10:]),
                        *(key, stdout, stderr, host, pid, started, ended, outcome.stamp),
                    )
                )
        self._writer.put_many(_TASK, fresh)
        if used:
            self._writer.put_many(_USED, used)
            self._writer.put_many(_TOUCH, [(row[12],) for row in used])
        return keys, reused

    def _find_many(self, keys: Sequence[str], numbers: Sequence[int]) -> dict[str, Outcome]:
        """Return the outcomes that calls had in former runs, by their keys."""
        found: dict[str, Outcome] = {}
        ids = {key: ident for key, ident in zip(keys, numbers, strict=True) if key}
        if self._rerun:
            return found
        with self._lock:
            try:
                rows = self._lookup.find_many([*ids])
            except sqlite3.Error as error:
                self._unreadable(error)
                return found
        for key, *row in rows:
            outcome = self._outcome(ids[key], key, row)
            if outcome is not None:
                found[key] = outcome
        return found

    def finished_many(
        self,
        name: str,
        ids: Sequence[int],
        keys: Sequence[str],
        answers: Answers,
        places: Sequence[int],
        then: Callable[[], None],
    ) -> None:
        """Keep what items of a block have given; `then` is called when it is durable."""
        results, ended = [], []
        host, pid, env, moment = answers.host, answers.pid, answers.env, now()
        mark = answers.stamp
        for ident, key, place in zip(ids, keys, places, strict=True):
            payload, times = answers.payload(place), answers.times(place)
            if len(payload) > _LARGE:
                outcome = replace(answers.outcome(place), id=ident)
                self.finished(name, key, outcome, "", _nothing)
                continue
            if key:
                stamp = ("", "", host, pid, *times, env)
                crc = checksum(key, payload, None, "")
                row = (key, payload, None, len(payload), name, *stamp, moment, "", mark, crc)
                results.append(row)
            given = env or self._environment
            end = (host, pid, *times, "", "", "", mark, "", self.run, ident)
            ended.append(("done", key, given, 0, *end))
        self._lookup.kept(*(row[0] for row in results))
        self._writer.put_many(_KEEP, results)
        self._writer.put_many(_END, ended, then)

    def reused(self, key: str, outcome: Outcome) -> None:
        """Record that a result was taken from the store."""
        self._writer.put(_TOUCH, (key,))
        self._ended(key, outcome, "done", "", reused=1, then=None)

    def finished(
        self, name: str, key: str, outcome: Outcome, error: str, then: Callable[[], None]
    ) -> None:
        """Keep an outcome.

        :param key: of the call; empty if its result is not kept for later runs.
        :param error: why the task failed; empty if it did not.
        :param then: called when it is durable.
        """
        state = "failed" if error else "done"
        if outcome.ok and key and self.writes:
            try:
                payload, names = self._keep(outcome)
            except OSError as failure:
                self._lose(database.told(failure, self.folder))
            else:
                self._lookup.kept(key)
                files = " ".join(outcome.files)
                self._writer.put(
                    _KEEP,
                    (
                        *(key, payload, names, len(outcome.payload), name, *_stamp(outcome)),
                        *(now(), files, outcome.stamp, checksum(key, payload, names, files)),
                    ),
                )
        self._ended(key, outcome, state, shown.plain(error), reused=0, then=then)

    def why(self, ident: int) -> Sequence[str]:
        """Return why a task of this run ran rather than be taken from a former run."""
        from scalems.store.history import History  # which reads what this writes

        try:
            with History(self.folder).closing() as history:
                found = history.why(history.task(self.run, ident))
        except ScalemsError:  # for messages only: it is not written yet, or cannot be read
            return ()
        return [f"{one.what}: {one.detail}" for one in found]

    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """Return the versions in environments of results, by fingerprint."""
        with self._lock:
            try:
                return database.environments(self._reader)
            except sqlite3.Error:  # for messages only
                return {}

    def ended(self, ident: int, state: str, error: str) -> None:
        """Record that a task ended without an outcome: cancelled, or never run."""
        self._given.pop(ident, None)
        self._writer.put(
            "UPDATE tasks SET state=?, ended=?, error=? WHERE run=? AND id=?",
            (state, now(), shown.plain(error), self.run, ident),
        )

    def _ended(
        self,
        key: str,
        outcome: Outcome,
        state: str,
        error: str,
        *,
        reused: int,
        then: Callable[[], None] | None,
    ) -> None:
        stdout, stderr, host, pid, started, ended, env = _stamp(outcome)
        env = env or self._environment
        self._writer.put(
            _END,
            (
                *(state, key, env, reused, host, pid, started, ended, stdout, stderr, error),
                *(outcome.stamp, self._given.pop(outcome.id, ""), self.run, outcome.id),
            ),
            then,
        )

    # --- large values ---------------------------------------------------------------------

    def _keep(self, outcome: Outcome) -> tuple[bytes, str | None]:
        """Return a value as the database has it: its pickle, and the files of what is large.

        The outcome gives the memory back that large ones take: they are read when they are asked
        for.
        """
        payload = outcome.payload
        if not isinstance(payload, Large):
            if len(payload) <= _LARGE:
                return payload, None
            payload = Large(b"", [Blob.of(payload)])
        names = [objects.keep(self.folder, blob) for blob in payload.blobs]
        object.__setattr__(outcome, "payload", payload)  # for all who hold it
        return payload.stream, " ".join(names)

    def _unreadable(self, error: sqlite3.Error) -> None:
        try:
            with database.errors(self.folder / database.FILE):
                raise error
        except StoreError as told:
            self._lose(told)

    def _lose(self, error: StoreError) -> None:
        if not self.lost:
            self.lost = error.cause
            how = f" ({error.remedy})" if error.remedy else ""
            self._warn(f"warning: {error.cause}; results are no longer kept{how}")
            self._reserve.give_back()
            self._note_loss()

    def _note_loss(self) -> None:
        """Record that the run does not keep its results any more, if that can be recorded."""
        self._try("UPDATE runs SET lost=? WHERE run=?", (shown.plain(self.lost), self.run))

    def _try(self, statement: str, values: Sequence[object]) -> None:
        with contextlib.suppress(sqlite3.Error), self._lock:
            self._reader.execute(statement, values)


def _nothing() -> None:
    """Do nothing."""


def _stamp(outcome: Outcome) -> tuple[object, ...]:
    one = outcome
    return (one.stdout, one.stderr, one.host, one.pid, one.started, one.ended, one.env)
