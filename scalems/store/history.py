"""What a store tells of former runs: which there were, what their tasks did, and why they ran."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalems.errors import UsageError
from scalems.host.process import lives
from scalems.store import database
from scalems.store.database import FOLDER
from scalems.store.identity import KNOWN
from scalems.workflow import ensemble, stamp
from scalems.workflow.call import hostname
from scalems.workflow.file import OBJECTS, object_path
from scalems.workflow.stamp import Stamp

_NAMED = 5  # packages that are named
Which = Literal["all", "failed", "ran"]
"""Tasks of a run: all, those that failed, those that were not taken from a former run."""

_WHICH = {"all": "1", "failed": "state='failed'", "ran": "NOT reused"}
_TAGGED = "(?2 IS NULL OR instr(',' || coalesce(tags, '') || ',', ',' || ?2 || ','))"
_STALE = 3600.0  # seconds after which a part of a file belongs to nobody


@dataclass(frozen=True)
class Difference:
    """Why a task ran.

    :param what: the code, an argument, the environment.
    :param detail: which, and how.
    """

    what: str
    detail: str


@dataclass(frozen=True)
class Leavings:
    """What `clean` removes.

    :param results: keys of results.
    :param objects: files of large values.
    :param size: bytes of both.
    """

    results: tuple[str, ...]
    objects: tuple[Path, ...]
    size: int


def find(folder: Path | None) -> Path:
    """Return the folder of a store: the one named, or the nearest ``.scalems``.

    :raises UsageError: there is none.
    """
    if folder is not None:
        return folder
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / FOLDER / database.FILE).is_file():
            return place / FOLDER
    raise UsageError(
        f"neither {here} nor a folder above it has a store of results ({FOLDER})",
        remedy="run a workflow first, or name its store with --store FOLDER",
    )


class History:
    """Reads a store.

    :param folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = database.connect_to_read(folder)
        self._database.row_factory = sqlite3.Row
        self._former: dict[
            tuple[str, int], list[tuple[int, int, str, Mapping[str, str]]]
        ] = {}  # by name and run

    @contextmanager
    def closing(self) -> Iterator[History]:
        """Close it at the end."""
        try:
            with database.errors(self.folder / database.FILE):
                yield self
        finally:
            self._database.close()

    def runs(self, number: int | None = None) -> list[dict[str, Any]]:
        """Return all runs, the oldest first, each with its numbers of tasks; or one of them."""
        rows = self._rows(
            "SELECT runs.*, count(id) AS tasks, sum(tasks.state='done') AS done,"
            " sum(tasks.state='failed') AS failed, sum(tasks.reused) AS reused"
            " FROM runs LEFT JOIN tasks ON tasks.run = runs.run"
            " WHERE runs.run=?1 OR ?1 IS NULL GROUP BY runs.run",
            number,
        )
        return [
            {
                **row,
                "state": _state(row),
                "argv": json.loads(row["argv"]),
                "lost": row.get("lost"),  # a store of an older version that may only be read
            }
            for row in rows
        ]

    def by_environment(self) -> dict[str, tuple[int, int]]:
        """Return the number of results and their bytes, by content fingerprint."""
        rows = self._rows("SELECT env, count(*) AS n, sum(size) AS size FROM results GROUP BY env")
        return {str(row["env"]): (int(row["n"]), int(row["size"] or 0)) for row in rows}

    def run(self, number: int | None) -> dict[str, Any]:
        """Return a run; by default the last one.

        :raises UsageError: there is none of that number.
        """
        ((last,),) = self._database.execute("SELECT max(run) FROM runs").fetchall()
        found = self.runs(number or last) if last else []
        if not found:
            there = f"the runs are 1 to {last}" if last else "there are no runs yet"
            raise UsageError(
                f"there is no run {number} in {self.folder}: {there}", remedy="see `scalems runs`"
            )
        return found[0]

    def tasks(
        self, run: int, which: Which = "all", *, tag: str | None = None, most: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the tasks of a run, in the order of their calls; there may be very many.

        :param tag: those that have it only.
        :param most: so many at most.
        """
        rows = self._database.execute(
            f"SELECT * FROM tasks WHERE run=?1 AND {_WHICH[which]} AND {_TAGGED}"
            " ORDER BY id LIMIT ?3",
            (run, tag, -1 if most is None else most),
        )
        return map(dict, rows)

    def count(self, run: int, which: Which = "all", *, tag: str | None = None) -> int:
        """Return the number of tasks of a run, or of those that have a tag."""
        rows = self._rows(
            f"SELECT count(*) AS number FROM tasks WHERE run=?1 AND {_WHICH[which]} AND {_TAGGED}",
            run,
            tag,
        )
        return int(rows[0]["number"])

    def tagged(self, tag: str) -> set[int]:
        """Return the runs that have tasks with a tag."""
        rows = self._rows(f"SELECT DISTINCT run FROM tasks WHERE {_TAGGED}", None, tag)
        return {int(row["run"]) for row in rows}

    def names(self, run: int, *, tag: str | None = None) -> list[dict[str, Any]]:
        """Return the numbers of a run's tasks by their names, and the seconds that they ran.

        Tasks that were taken from a former run have taken no time in this one.
        """
        return self._rows(
            "SELECT name, count(*) AS tasks, sum(state='done') AS done, sum(reused) AS reused,"
            " sum(state='failed') AS failed, sum(state='cancelled') AS cancelled,"
            " total(CASE WHEN reused THEN 0 ELSE ended - started END) AS seconds,"
            " max(CASE WHEN reused THEN NULL ELSE ended - started END) AS longest"
            f" FROM tasks WHERE run=?1 AND {_TAGGED} GROUP BY name ORDER BY min(id)",
            run,
            tag,
        )

    def mixtures(self, run: int) -> dict[str, str]:
        """Return for each name of tasks in a run which were computed by what, where it differs."""
        several = self._rows(
            "SELECT name, min(env || ' ' || coalesce(stamp, '')) AS first,"
            " max(env || ' ' || coalesce(stamp, '')) AS last FROM tasks"
            " WHERE run=? AND state='done' GROUP BY name HAVING first<>last",
            run,
        )
        versions = database.environments(self._database)
        found = {}
        for row in several:
            rows = self._database.execute(
                "SELECT state='done', env, coalesce(stamp, '') FROM tasks"
                " WHERE run=? AND name=? ORDER BY id",
                (run, row["name"]),
            )
            stamps = (_stamp(env, text) if done else None for done, env, text in rows)
            found[row["name"]] = ensemble.describe(stamps, versions)
        return {name: words for name, words in found.items() if words}

    def task(self, run: int, ident: int) -> dict[str, Any]:
        """Return a task.

        :raises UsageError: there is none.
        """
        rows = self._rows("SELECT * FROM tasks WHERE run=? AND id=?", run, ident)
        if not rows:
            raise UsageError(f"run {run} has no task {ident}", remedy=f"see `scalems show {run}`")
        return rows[0]

    def why(self, task: Mapping[str, Any]) -> list[Difference]:
        """Return why a task ran rather than be taken from a former run; nothing if it was taken."""
        if task["reused"]:
            return []
        if task["unstable"]:
            return [Difference("it cannot be known again", task["unstable"])]
        if not task["env"]:
            return [Difference("the environment", "it is not what was verified, or not known")]
        former = self._nearest(task)
        if former is None:
            return [Difference("it is new", f"no task {task['name']!r} has finished before")]
        found = [*self._code(former, task), *_arguments(former, task)]
        if former["env"] != task["env"]:
            found.append(Difference("the environment", self._environment(former, task)))
        found += _software(former, task)
        if not found and former["key"] != task["key"] and task["key"]:
            found.append(Difference("what it depends on", self._given(former, task)))
        if not found:
            found.append(Difference("nothing of it", "--rerun, or its result was removed"))
        return found

    def _given(self, former: Mapping[str, Any], task: Mapping[str, Any]) -> str:
        """Return which of the tasks that a task depends on gave it another value than before."""
        before, after = (
            [part.split(":") for part in (one["given"] or "").split()] for one in (former, task)
        )
        if len(before) != len(after):
            return "a task gave it another value"
        changed = [
            int(now) for (_, was), (now, is_) in zip(before, after, strict=True) if was != is_
        ]
        if not changed:  # e.g. a record of an older version
            return "a task gave it another value"
        told = []
        for ident in dict.fromkeys(changed[:_NAMED]):
            row = self.task(task["run"], ident) if ident else {"name": "a future of yours"}
            told.append(f"{row['name']}#{ident} ({row['shown']})" if ident else row["name"])
        more = f", and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        return f"{', '.join(told)}{more} gave another value"

    def _environment(self, former: Mapping[str, Any], task: Mapping[str, Any]) -> str:
        """Return how the environments of two tasks differ: by their packages, if it is known."""
        versions = database.environments(self._database)
        before, after = (versions.get(one["env"], {}) for one in (former, task))
        told = [
            f"{name} {before.get(name, 'nothing')} became {after.get(name, 'nothing')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        if not (told and before and after):
            return f"{_short(former['env'])} became {_short(task['env'])}"
        more = f", and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        return ", ".join(told[:_NAMED]) + more

    def _nearest(self, task: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the finished task of a former run that it has most in common with."""
        mine = _digests(task["args"])

        def common(row: tuple[int, int, str, Mapping[str, str]]) -> tuple[object, ...]:
            run, ident, own_code, theirs = row
            equal = sum(theirs.get(name) == value for name, value in mine.items())
            return (equal, ident == task["id"], own_code == task["code"], run)

        found = max(self._candidates(task), key=common, default=None)
        return self.task(found[0], found[1]) if found is not None else None

    def _candidates(self, task: Mapping[str, Any]) -> list[tuple[int, int, str, Mapping[str, str]]]:
        """Return run, id, code and arguments of tasks that have finished in former runs.

        They are those of the same number, and of the last 10,000 of its name.
        """
        chosen = "SELECT run, id, code, args FROM tasks WHERE name=? AND run<? AND"
        chosen += " state='done' AND key<>''"
        of_name = (task["name"], task["run"])
        if of_name not in self._former:
            rows = self._database.execute(f"{chosen} ORDER BY run DESC, id LIMIT 10000", of_name)
            self._former[of_name] = [(*row[:3], _digests(row[3])) for row in map(tuple, rows)]
        same = self._database.execute(f"{chosen} AND id=?", (*of_name, task["id"]))
        return [
            *((*row[:3], _digests(row[3])) for row in map(tuple, same)),
            *self._former[of_name],
        ]

    def _code(self, former: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Difference]:
        if former["code"] == task["code"]:
            return
        parts = {
            row["code"]: json.loads(row["parts"])
            for row in self._rows(
                "SELECT * FROM codes WHERE code IN (?, ?)", former["code"], task["code"]
            )
        }
        before, after = parts.get(former["code"], {}), parts.get(task["code"], {})
        names = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]
        yield Difference("the code", ", ".join(names) or "of the function")

    # --- cleaning -------------------------------------------------------------------------

    def leavings(self, *, unused: float | None, runs: bool) -> Leavings:
        """Return what can be removed.

        :param unused: results that no run has made or taken for this many seconds; all, if 0.
        :param runs: those that no task of a recorded run has as its result, too.
        """
        rows: dict[str, dict[str, Any]] = {}
        if unused is not None:
            limit = database.now() - unused
            found = self._rows("SELECT key, object, size FROM results WHERE used<=?", limit)
            rows.update((row["key"], row) for row in found)
        if runs:
            found = self._rows(
                "SELECT key, object, size FROM results WHERE key NOT IN (SELECT key FROM tasks"
                " WHERE key IS NOT NULL)"
            )
            rows.update((row["key"], row) for row in found)
        needed = {name for key, names in self._needed() if key not in rows for name in names}
        objects = tuple(path for name, path in self._objects() if name not in needed)
        inside = sum(row["size"] or 0 for row in rows.values() if row["object"] is None)
        return Leavings(
            results=tuple(rows),
            objects=objects,
            size=inside + sum(path.stat().st_size for path in objects),
        )

    def remove(self, leavings: Leavings) -> None:
        """Remove results, and files that no result needs any more."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(
            "DELETE FROM results WHERE key=?", [(key,) for key in leavings.results]
        )
        self._database.execute("COMMIT")
        for path in leavings.objects:
            path.unlink(missing_ok=True)
        self._database.execute("VACUUM")

    def _needed(self) -> Iterator[tuple[str, list[str]]]:
        """Yield for each result the names of the files that it needs."""
        rows = self._rows(
            "SELECT key, object, files FROM results WHERE object IS NOT NULL OR files<>''"
        )
        for row in rows:
            yield row["key"], [*(row["object"] or "").split(), *(row["files"] or "").split()]

    def _objects(self) -> Iterator[tuple[str, Path]]:
        """Yield the files of large values that nobody is about to refer to."""
        limit = time.time() - _STALE
        known = {name for _, names in self._needed() for name in names}
        for path in (self.folder / OBJECTS).glob("*/*"):
            name = path.parent.name + path.name
            # One without a result may be of a run that writes it just now.
            if name in known or path.stat().st_mtime < limit:
                assert name not in known or path == object_path(self.folder / OBJECTS, name)
                yield name, path

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        return [dict(row) for row in self._database.execute(query, values)]


@functools.lru_cache(maxsize=1000)
def _stamp(env: str, text: str) -> Stamp:
    worker, software = stamp.read(text)
    return Stamp(env=env, worker=worker, software=software)


def _software(former: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the programs of the site whose versions differ, of tasks that have run."""
    if not (former["stamp"] and task["stamp"]):
        return
    before, after = (stamp.read(row["stamp"])[1] for row in (former, task))
    for name in sorted({*before, *after}):
        was, now = before.get(name, "nothing"), after.get(name, "nothing")
        if was != now:
            yield Difference("the software of the site", f"{name}: {was} became {now}")


def _digests(text: str) -> dict[str, str]:
    """Return the recorded digests of arguments; former versions wrote whole ones."""
    return {name: digest[:KNOWN] for name, digest in json.loads(text).items()}


def _arguments(former: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = _digests(former["args"]), _digests(task["args"])
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if not names:
        return
    how = f"({former['shown']}) became ({task['shown']})"
    if former["shown"] == task["shown"]:
        how = "the content is another one"
    yield Difference("the arguments", f"{', '.join(names)}: {how}")


def _state(run: Mapping[str, Any]) -> str:
    """Return how a run is, in one word; one that left no end was killed."""
    if run["ended"] is not None:
        return "done" if run["exit_code"] == 0 else f"failed ({run['exit_code']})"
    if run["host"] != hostname():
        return f"running on {run['host']}?"
    return "running" if lives(run["pid"]) else "killed"


def _short(digest: str) -> str:
    return digest[:12] or "(unknown)"
