"""What a store tells of former runs: which there were, what their tasks did, and why they ran."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.errors import UsageError
from scalems.host.process import lives
from scalems.store import database
from scalems.store.database import FOLDER
from scalems.workflow import ensemble, stamp
from scalems.workflow.call import hostname
from scalems.workflow.file import OBJECTS, object_path
from scalems.workflow.stamp import Stamp

_NAMED = 5  # packages that are named
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
        self._database = database.connect(folder, create=False)
        self._database.row_factory = sqlite3.Row

    @contextmanager
    def closing(self) -> Iterator[History]:
        """Close it at the end."""
        try:
            with database.errors(self.folder / database.FILE):
                yield self
        finally:
            self._database.close()

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, the oldest first, each with its numbers of tasks."""
        rows = self._rows(
            "SELECT runs.*, count(id) AS tasks, sum(tasks.state='done') AS done,"
            " sum(tasks.state='failed') AS failed, sum(tasks.reused) AS reused"
            " FROM runs LEFT JOIN tasks ON tasks.run = runs.run GROUP BY runs.run"
        )
        return [{**row, "state": _state(row), "argv": json.loads(row["argv"])} for row in rows]

    def by_environment(self) -> dict[str, tuple[int, int]]:
        """Return the number of results and their bytes, by content fingerprint."""
        rows = self._rows("SELECT env, count(*) AS n, sum(size) AS size FROM results GROUP BY env")
        return {str(row["env"]): (int(row["n"]), int(row["size"] or 0)) for row in rows}

    def run(self, number: int | None) -> dict[str, Any]:
        """Return a run; by default the last one.

        :raises UsageError: there is none of that number.
        """
        runs = self.runs()
        found = [run for run in runs if number in (None, run["run"])]
        if not found:
            there = f"the runs are 1 to {runs[-1]['run']}" if runs else "there are no runs yet"
            raise UsageError(
                f"there is no run {number} in {self.folder}: {there}", remedy="see `scalems runs`"
            )
        return found[-1]

    def tasks(self, run: int) -> list[dict[str, Any]]:
        """Return the tasks of a run, in the order of their calls."""
        return self._rows("SELECT * FROM tasks WHERE run=? ORDER BY id", run)

    def names(self, run: int) -> list[dict[str, Any]]:
        """Return the numbers of a run's tasks by their names, and the seconds that they ran.

        Tasks that were taken from a former run have taken no time in this one.
        """
        return self._rows(
            "SELECT name, count(*) AS tasks, sum(state='done') AS done, sum(reused) AS reused,"
            " sum(state='failed') AS failed, sum(state='cancelled') AS cancelled,"
            " total(CASE WHEN reused THEN 0 ELSE ended - started END) AS seconds,"
            " max(CASE WHEN reused THEN NULL ELSE ended - started END) AS longest"
            " FROM tasks WHERE run=? GROUP BY name ORDER BY min(id)",
            run,
        )

    def mixtures(self, run: int) -> dict[str, str]:
        """Return for each name of tasks in a run which were computed by what, where it differs."""
        members: dict[str, list[Stamp | None]] = {}
        for row in self.tasks(run):
            worker, software = stamp.read(row["stamp"] or "")
            done = row["state"] == "done"
            one = Stamp(env=row["env"], worker=worker, software=software) if done else None
            members.setdefault(row["name"], []).append(one)
        versions = database.environments(self._database)
        told = {name: ensemble.describe(stamps, versions) for name, stamps in members.items()}
        return {name: words for name, words in told.items() if words}

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
            found.append(Difference("what it depends on", "a task gave it another value"))
        if not found:
            found.append(Difference("nothing of it", "--rerun, or its result was removed"))
        return found

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
        rows = self._rows(
            "SELECT * FROM tasks WHERE name=? AND run<? AND state='done' AND key<>''"
            " ORDER BY run DESC, id LIMIT 10000",
            task["name"],
            task["run"],
        )
        mine = json.loads(task["args"])

        def common(row: Mapping[str, Any]) -> tuple[object, ...]:
            theirs = json.loads(row["args"])
            equal = sum(theirs.get(name) == value for name, value in mine.items())
            return (equal, row["id"] == task["id"], row["code"] == task["code"], row["run"])

        return max(rows, key=common, default=None)

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


def _software(former: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the programs of the site whose versions differ, of tasks that have run."""
    if not (former["stamp"] and task["stamp"]):
        return
    before, after = (stamp.read(row["stamp"])[1] for row in (former, task))
    for name in sorted({*before, *after}):
        was, now = before.get(name, "nothing"), after.get(name, "nothing")
        if was != now:
            yield Difference("the software of the site", f"{name}: {was} became {now}")


def _arguments(former: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = json.loads(former["args"]), json.loads(task["args"])
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
