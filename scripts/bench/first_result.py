"""From the command to the first result: scalems.radical beside bare RADICAL-Pilot.

    python scripts/bench/first_result.py                  twice each
    python scripts/bench/first_result.py --no-create      without RP's own way to make a venv

All do the same call. The first three use the same Pilot and Task venvs, built by
`scalems env sync`, and the second a pilot that was started by `scalems pilot start` before; the
last lets RP make its venv (virtenv_mode=create) from the package index, as it does for a resource
that has none. Needs a package index. Also shown: when each
step of ours begins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timing import SCALEMS, Case, command, table

LABEL = "local.localhost"
RESOURCE = ["--resource", LABEL, "--venv", "task"]
NOTE = "scalems: "

SCRIPT = """
import os, time
from pathlib import Path
import scalems

@scalems.task
def where():
    import sys
    return sys.prefix

@scalems.app
def main():
    print(where().result())
    Path(os.environ["MARK"]).write_text(str(time.time()))
"""

BARE = """
import os, sys, time
from pathlib import Path
import radical.pilot as rp

@rp.pythontask
def where():
    import sys
    return sys.prefix

def wait(tasks, task):
    tasks.wait_tasks(task.uid, timeout=600)  # Task.wait never returns by itself
    if task.state != "DONE":
        sys.exit(f"{task.uid} {task.state}: {task.exception} {task.stderr}")

venv = sys.argv[1]
session = rp.Session()
try:
    pilots = rp.PilotManager(session=session)
    tasks = rp.TaskManager(session=session)
    pilot = pilots.submit_pilots(rp.PilotDescription(
        {"resource": "local.localhost", "cores": 3, "runtime": 30}))
    tasks.add_pilots(pilot)
    raptor = tasks.submit_raptors(rp.TaskDescription({"mode": rp.RAPTOR_MASTER}))[0]
    worker = {"mode": rp.RAPTOR_WORKER, "raptor_class": "DefaultWorker", "cores_per_rank": 2}
    if venv:
        worker["pre_exec"] = ["unset PYTHONPATH", f". {venv}/bin/activate"]
    raptor.submit_workers(rp.TaskDescription(worker))
    task = raptor.submit_tasks(rp.TaskDescription(
        {"mode": rp.TASK_FUNCTION, "function": where()}))[0]
    wait(tasks, task)
    print(task.return_value)
    Path(os.environ["MARK"]).write_text(str(time.time()))
finally:
    session.close()
"""


class FirstResult:
    """A command that leaves the time of its first result in a file.

    :param env: changes of the environment.
    """

    def __init__(self, name: str, argv: list[str], folder: Path, env: dict[str, str]) -> None:
        self.first = Case(name, self.run)
        self.end = Case(name, self.run)
        self.name = name
        self.steps: dict[str, list[float]] = {}
        self._argv = argv
        self._folder = folder
        self._env = env

    def run(self) -> None:
        """Run it in a home of its own, and note both times, and when it printed each line."""
        home = Path(tempfile.mkdtemp(dir=self._folder))
        mark = home / "mark"
        env = {"HOME": str(home), "MARK": str(mark), **self._env}
        lines: list[tuple[float, str]] = []
        started = time.time()
        with subprocess.Popen(
            self._argv,
            env={**os.environ, **env},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                lines.append((time.time() - started, line))
        ended = time.time()
        if process.returncode or not mark.exists():
            printed = "".join(line for _, line in lines)
            sys.exit(f"{self._argv} ended with {process.returncode}:\n{printed}")
        for when, line in lines:
            if line.startswith(NOTE):
                self.steps.setdefault(line[len(NOTE) :].strip(), []).append(when)
        self.first.seconds.append(float(mark.read_text()) - started)
        self.end.seconds.append(ended - float(mark.read_text()))


def main() -> None:
    """Build the environments, then run all in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--no-create", action="store_true", help="leave out virtenv_mode=create")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-", ignore_cleanup_errors=True) as name:
        ways = _ways(Path(name), create=not options.no_create)
        command([SCALEMS, "pilot", "start", *RESOURCE, "--cores", "2"], env=os.environ)()
        try:
            for _ in range(options.runs):
                for way in ways:
                    way.run()
        finally:
            command([SCALEMS, "pilot", "stop"], env=os.environ)()
    console = Console(width=110)
    for title, part in (("command to first result", "first"), ("first result to the end", "end")):
        console.print(table(title, [getattr(way, part) for way in ways], runs=options.runs))
    console.print(_steps(ways[0], options.runs))


def _steps(way: FirstResult, runs: int) -> Table:
    """Return a table of when each step began, of those that all runs had."""
    made = Table(title=f"{way.name}: when each step begins (medians)", title_justify="left")
    made.add_column("s", justify="right")
    made.add_column("step")
    known = {step: times for step, times in way.steps.items() if len(times) == runs}
    for step, times in sorted(known.items(), key=lambda one: statistics.median(one[1])):
        made.add_row(f"{statistics.median(times):.2f}", step)
    return made


def _ways(folder: Path, *, create: bool) -> list[FirstResult]:
    # One resource file for all, wherever their home is.
    synced = {"SCALEMS_HOME": str(folder / "state"), "RADICAL_CONFIG_USER_DIR": str(folder)}
    synced["XDG_STATE_HOME"] = str(folder / "runs")
    command([SCALEMS, "env", "sync", "--resource", LABEL], env=synced)()
    os.environ.update(synced)
    from scalems import env

    venv = env.verify(LABEL, tasks=["task"]).tasks["task"].venv
    ours, bare = folder / "ours.py", folder / "bare.py"
    ours.write_text(SCRIPT)
    bare.write_text(BARE)
    radical = [sys.executable, "-m", "scalems.radical", *RESOURCE, "--no-store"]
    # RP needs its venv to be activated.
    activated = {
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    python = sys.executable
    ways = [
        FirstResult(
            "scalems.radical", [*radical, "--pilot", "new", "-j", "2", str(ours)], folder, synced
        ),
        FirstResult(
            "scalems.radical, warm pilot", [*radical, "--pilot", "warm", str(ours)], folder, synced
        ),
        FirstResult(
            "bare RP raptor, same venvs",
            [python, str(bare), str(venv)],
            folder,
            {**synced, **activated},
        ),
    ]
    if create:
        configs = folder / "create" / ".radical" / "pilot" / "configs"
        configs.mkdir(parents=True)
        definition = {"localhost": {"virtenv_mode": "create", "rp_version": "release"}}
        (configs / "resource_local.json").write_text(json.dumps(definition))
        plain = {**activated, "RADICAL_CONFIG_USER_DIR": str(folder / "create")}
        ways.append(
            FirstResult("bare RP, virtenv_mode=create", [python, str(bare), ""], folder, plain)
        )
    return ways


if __name__ == "__main__":
    main()
