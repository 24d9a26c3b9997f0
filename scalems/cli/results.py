"""Former runs and their results: ``scalems runs``, ``show``, ``why`` and ``clean``."""

from __future__ import annotations

import argparse
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scalems.store.history import History, Which

_LISTED = 1000  # tasks that `show` lists unless it is told more
_SHOWN = 20  # tasks that `why` looks at unless it is told more
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def configure_runs(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scalems runs``."""
    _common(
        parser,
        _runs,
        "  scalems runs\n  scalems runs --tag 300K\n  scalems runs --store project/.scalems --json",
    )
    _tag(parser, "those with a task of this tag only")


def configure_show(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scalems show``."""
    _common(
        parser,
        _show,
        "  scalems show            the tasks of the last run\n"
        "  scalems show 3          those of run 3\n"
        "  scalems show 3 --all    however many there are\n"
        "  scalems show --names    how many there were of each name, and how long they took\n"
        "  scalems show --names --tag 300K    the same of the tasks with a tag\n"
        "  scalems show 3 12       all of task 12 in it, with what it printed",
    )
    parser.add_argument("numbers", nargs="*", type=int, metavar="RUN [TASK]")
    _tag(parser, "those with this tag only")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--failed", action="store_true", help="those that failed only")
    which.add_argument("--names", action="store_true", help="numbers and seconds by name")
    parser.add_argument(
        "--all", action="store_true", help=f"all tasks, not only {_LISTED:,} (--json: always all)"
    )


def configure_why(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scalems why``."""
    _common(
        parser,
        _why,
        "  scalems why             why tasks of the last run were not taken from a former one\n"
        "  scalems why 3           the same of run 3\n"
        "  scalems why 3 12        why task 12 of run 3 ran",
    )
    parser.add_argument("numbers", nargs="*", type=int, metavar="RUN [TASK]")
    parser.add_argument("--all", action="store_true", help=f"all tasks, not only {_SHOWN}")


def configure_clean(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scalems clean``."""
    _common(
        parser,
        _clean,
        "  scalems clean --unused 30d --dry-run   what no run has used for 30 days\n"
        "  scalems clean --unused 30d             remove it\n"
        "  scalems clean --all                    all results; the record of runs stays\n"
        "  scalems clean --mend                   make a damaged store anew, when no run uses it",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--unused", metavar="AGE", help="what no run has made or taken for so long: 12h, 30d, 4w"
    )
    which.add_argument("--all", action="store_true", help="all results")
    which.add_argument(
        "--mend", action="store_true",
        help="make a damaged store anew, of all that can still be read of it",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show it, remove nothing")


def _tag(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--tag", metavar="WORD", help=words)


def _common(parser: argparse.ArgumentParser, run: Any, examples: str) -> None:
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="the store (default: the nearest .scalems)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is run")
    parser.epilog = f"examples:\n{examples}"
    parser.set_defaults(run=run)


@contextmanager
def _history(options: argparse.Namespace) -> Iterator[History]:
    from scalems.store import history

    with history.History(history.find(options.store)).closing() as opened:
        yield opened


def _runs(options: argparse.Namespace) -> int:
    from scalems.cli import render

    with _history(options) as history:
        runs = history.runs()
        if options.tag is not None:
            tagged = history.tagged(options.tag)
            runs = [run for run in runs if run["run"] in tagged]
    if options.json:
        render.print_json(runs)
        return ExitCode.DONE
    rows = [
        {
            "run": str(run["run"]),
            "script": " ".join([Path(run["script"]).name, *run["argv"]])[:60],
            "on": run["label"],
            "begun": _time(run["started"]),
            "took": _took(run["started"], run["ended"]),
            "tasks": str(run["tasks"]),
            "reused": str(run["reused"] or ""),
            "failed": str(run["failed"] or ""),
            "state": run["state"] + (", not all kept" if run["lost"] else ""),
        }
        for run in runs
    ]
    render.print_rows(rows, empty="no runs yet")
    return ExitCode.DONE


def _numbers(options: argparse.Namespace) -> tuple[int | None, int | None]:
    if len(options.numbers) > 2:
        raise UsageError("too many numbers", remedy="give a run, or a run and a task of it")
    run, task = (*options.numbers, None, None)[:2]
    return run, task


def _show(options: argparse.Namespace) -> int:
    from scalems.cli import render

    number, ident = _numbers(options)
    with _history(options) as history:
        run = history.run(number)
        if ident is not None:
            return _show_task(history.task(run["run"], ident), as_json=options.json)
        which: Which = "failed" if options.failed else "all"
        tag = options.tag
        names = history.names(run["run"], tag=tag)
        mixtures = history.mixtures(run["run"])
        if options.json:
            tasks = None if options.names else history.tasks(run["run"], which, tag=tag)
            _print_run({**run, "names": names, "mixed": mixtures}, tasks)
            return ExitCode.DONE
        if options.names:
            render.print_rows([_by_name(row) for row in names], empty="no tasks")
            return ExitCode.DONE
        most = None if options.all else _LISTED
        rows = [_listed(task, run) for task in history.tasks(run["run"], which, tag=tag, most=most)]
        left = history.count(run["run"], which, tag=tag) - len(rows)
    render.print_rows(rows, empty="no tasks")
    if left > 0:
        print(f"… and {left:,} more tasks; --all shows them, --names how many of each name")
    for name, words in mixtures.items():
        print(f"{name} is mixed: {words}")
    if run["lost"]:
        print(f"not all results of this run were kept: {run['lost']}")
    return ExitCode.DONE


def _print_run(run: dict[str, Any], tasks: Iterator[dict[str, Any]] | None) -> None:
    """Print a run in JSON, its tasks one by one: there may be a million."""
    if tasks is None:
        print(json.dumps(run, indent=2))
        return
    # "tasks" is their number in a run, and they themselves here.
    head = json.dumps({key: value for key, value in run.items() if key != "tasks"}, indent=2)
    print(head.removesuffix("\n}") + ',\n  "tasks": [', end="")
    for number, task in enumerate(tasks):
        print("," * (number > 0) + "\n    " + json.dumps(task), end="")
    print("\n  ]\n}")


def _listed(task: dict[str, Any], run: dict[str, Any]) -> dict[str, str]:
    from scalems.workflow import stamp

    return {
        "task": str(task["id"]),
        "call": f"{task['name']}({task['shown']})"[:70],
        "state": _ended_how(task, run),
        "took": _took(task["started"], task["ended"]),
        "host": task["host"] or "",
        "worker": stamp.read(task["stamp"] or "")[0],
        "environment": task["env"][:12],
        "error": (task["error"] or "").partition("\n")[0][:60],
    }


def _by_name(row: dict[str, Any]) -> dict[str, str]:
    counted = ("done", "reused", "failed", "cancelled")
    ran = row["longest"] is not None
    return {
        "name": row["name"],
        "tasks": str(row["tasks"]),
        **{state: str(row[state] or "") for state in counted},
        "took together": f"{row['seconds']:.2f} s" if ran else "",
        "the longest": f"{row['longest']:.2f} s" if ran else "",
    }


def _ended_how(task: dict[str, Any], run: dict[str, Any]) -> str:
    if task["reused"]:
        return "reused"
    if task["state"] == "waiting" and run["lost"]:
        return "not recorded"
    if task["state"] == "waiting" and run["state"] != "running":
        return "not finished"
    return str(task["state"])


def _show_task(task: dict[str, Any], *, as_json: bool) -> int:
    from scalems.cli import render
    from scalems.workflow import stamp

    if as_json:
        render.print_json(task)
        return ExitCode.DONE
    worker, software = stamp.read(task["stamp"] or "")
    print(f"{task['name']}({task['shown']})")
    for key, value in (
        ("state", "from a former run" if task["reused"] else task["state"]),
        ("host", f"{task['host']}, process {task['pid']}" if task["host"] else ""),
        ("began", _time(task["started"])),
        ("took", _took(task["started"], task["ended"])),
        ("worker", worker),
        ("software", ", ".join(f"{name} {version}" for name, version in software.items())),
        ("environment", task["env"]),
        ("key", task["key"]),
        ("tags", (task["tags"] or "").replace(",", ", ")),
        ("not kept", task["unstable"]),
    ):
        if value:
            print(f"  {key + ':':13} {value}")
    for key in ("error", "stdout", "stderr"):
        if task[key]:
            print(f"{key}:")
            print("\n".join(f"  {line}" for line in task[key].splitlines()))
    return ExitCode.DONE


def _why(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from scalems.cli import render

    number, ident = _numbers(options)
    with _history(options) as history:
        run = history.run(number)
        if ident is not None:
            count, ran = 1, [history.task(run["run"], ident)]
        else:
            most = None if options.all else _SHOWN
            count = history.count(run["run"], "ran")
            ran = list(history.tasks(run["run"], "ran", most=most))
        found = [(task, history.why(task)) for task in ran]
    if options.json:
        render.print_json(
            [
                {"task": task["id"], "name": task["name"], "reused": bool(task["reused"]),
                 "why": [asdict(one) for one in why]}
                for task, why in found
            ]
        )  # fmt: skip
    elif not found:
        print(f"all {run['tasks']} tasks of run {run['run']} were taken from former runs")
    else:
        for task, why in found:
            print(f"{task['name']}#{task['id']} ({task['shown']})")
            for one in why:
                print(f"  {one.what}: {one.detail}")
            if task["reused"]:
                print("  it was taken from a former run")
        if count > len(found):
            print(f"… and {count - len(found)} more tasks; --all shows them")
    return ExitCode.DONE


def _clean(options: argparse.Namespace) -> int:
    from scalems.cli import render

    if options.mend:
        return _mend(options)
    age = 0.0 if options.all else _age(options.unused)
    with _history(options) as history:
        leavings = history.leavings(unused=age, runs=False)
        if not options.dry_run:
            history.remove(leavings)
        folder = history.folder
    if options.json:
        render.print_json(
            {
                "store": str(folder),
                "removed": not options.dry_run,
                "results": len(leavings.results),
                "files": len(leavings.objects),
                "bytes": leavings.size,
            }
        )
    else:
        what = "would remove" if options.dry_run else "removed"
        print(
            f"{what} {len(leavings.results)} results and {len(leavings.objects)} files, "
            f"{leavings.size / 1e6:.1f} MB, of {folder}"
        )
    return ExitCode.DONE


def _mend(options: argparse.Namespace) -> int:
    from scalems.cli import render
    from scalems.store import history, mend

    folder = history.find(options.store)
    if options.dry_run:
        raise UsageError("--mend cannot be tried: it keeps the damaged files anyway")
    done = mend.mend(folder)
    if options.json:
        render.print_json(
            {"store": str(folder), "former": str(done.former), "results": done.results,
             "runs": done.runs}
        )  # fmt: skip
    else:
        print(
            f"{done.results} results and {done.runs} runs could be read, and are kept in {folder}; "
            f"the damaged files are in {done.former}"
        )
    return ExitCode.DONE


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise UsageError(
            f"{text!r} is not an age", remedy="write a number and a unit: 12h, 30d, 4w"
        )
    return float(match[1]) * _UNITS[match[2]]


def _time(seconds: float | None) -> str:
    import time

    return "" if seconds is None else time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))


def _took(started: float | None, ended: float | None) -> str:
    return "" if started is None or ended is None else f"{ended - started:.2f} s"
