"""How fast calls are on RADICAL-Pilot: scalems.radical beside a bare RP raptor script and peers.

    python scripts/bench/radical.py
    python scripts/bench/radical.py -n 10000 --runs 3 --peers VENV   # with parsl, distributed

Two workers each, all warm; every call of the first column has a future of its own. The bare script
sends 200 calls, as it takes minutes for more. Each case is printed as soon as it is measured.
The environments are synced in a home that is
removed. Needs a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timing import SCALEMS, command

LABEL = "local.localhost"
COLUMNS = {
    "submit": "calls/s by submit",
    "map": "calls/s by map",
    "latency": "one call, ms",
    "argument": "50 MB there, s",
    "result": "50 MB back, s",
    "busy": "100 ms calls, % busy",
}

MEASURE = """
def echo(x):
    return x

def pause(seconds):
    import time
    time.sleep(seconds)

def measure(submit, n, mapped=None, count=200, large=True):
    import json, time
    def timed(run):
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    def many(calls):
        for future in [submit(*call) for call in calls]:
            future.result()
    many([(echo, -i) for i in range(1, 9)])
    found = {"submit": n / timed(lambda: many([(echo, i) for i in range(n)]))}
    if mapped is not None:
        found["map"] = 10 * n / timed(lambda: mapped(range(10 * n)))
    def ask():
        for i in range(count):
            submit(echo, f"again {i}").result()
    found["latency"] = timed(ask) / count * 1000
    if large:
        data = bytes(50_000_000)
        found["argument"] = timed(lambda: submit(len, data).result())
        found["result"] = timed(lambda: submit(bytes, 50_000_000).result())
    found["busy"] = 100 * 20 * 0.1 / timed(lambda: many([(pause, 0.1 + i * 1e-9)
                                                          for i in range(40)]))
    print(json.dumps(found))
"""

OURS = (
    MEASURE
    + """
import sys
import scalems

@scalems.app
def main():
    def mapped(items):
        for future in scalems.map(echo, items):
            future.result()
    measure(scalems.submit, int(sys.argv[1]), mapped)
"""
)

POOL = (
    MEASURE
    + """
import sys
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        measure(pool.submit, int(sys.argv[1]), lambda items: list(pool.map(echo, items)))
"""
)

DASK = (
    MEASURE
    + """
import sys
from functools import partial

if __name__ == "__main__":
    from distributed import Client
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        measure(partial(client.submit, pure=False), int(sys.argv[1]), count=30)
"""
)

PARSL = (
    MEASURE
    + """
import sys
import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

if __name__ == "__main__":
    executor = HighThroughputExecutor(
        label="htex", max_workers_per_node=2, cores_per_worker=1, address="127.0.0.1",
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    with parsl.load(Config(executors=[executor], usage_tracking=0)):
        apps = {}
        def submit(function, *args):
            if function not in apps:
                apps[function] = parsl.python_app(function)
            return apps[function](*args)
        measure(submit, int(sys.argv[1]), count=50, large=False)
"""
)

BARE = """
import json, sys, time
import radical.pilot as rp

@rp.pythontask
def echo(x):
    return x

@rp.pythontask
def pause(seconds):
    import time
    time.sleep(seconds)

session = rp.Session()
try:
    pilots, tasks = rp.PilotManager(session=session), rp.TaskManager(session=session)
    tasks.add_pilots(pilots.submit_pilots(rp.PilotDescription(
        {"resource": "local.localhost", "cores": 3, "runtime": 60})))
    raptor = tasks.submit_raptors(rp.TaskDescription({"mode": rp.RAPTOR_MASTER}))[0]
    raptor.submit_workers(rp.TaskDescription({
        "mode": rp.RAPTOR_WORKER, "raptor_class": "DefaultWorker", "cores_per_rank": 2,
        "pre_exec": ["unset PYTHONPATH", f". {sys.argv[2]}/bin/activate"]}))

    def run(functions):
        started = time.perf_counter()
        made = raptor.submit_tasks([rp.TaskDescription(
            {"mode": rp.TASK_FUNCTION, "function": function}) for function in functions])
        tasks.wait_tasks([task.uid for task in made], timeout=900)
        assert {task.state for task in made} == {"DONE"}
        return time.perf_counter() - started

    run([echo(-i) for i in range(8)])
    found = {"submit": 200 / run([echo(i) for i in range(200)])}
    found["latency"] = sum(run([echo(i)]) for i in range(10)) * 100
    found["busy"] = 100 * 20 * 0.1 / run([pause(0.1) for _ in range(40)])
    print(json.dumps(found))
finally:
    session.close(download=False)
"""


def measure(argv: list[str], folder: Path, env: dict[str, str]) -> dict[str, float]:
    """Run a benchmark in a process and a home of its own; return what it printed."""
    home = tempfile.mkdtemp(dir=folder)
    done = subprocess.run(
        argv,
        env={**os.environ, "HOME": home, **env},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.exit(f"{argv} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    numbers: dict[str, float] = json.loads(lines[-1])
    return numbers


def cases(folder: Path, n: int, peers: str | None) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Sync the environments; return the command of each case, and its variables."""
    synced = {"SCALEMS_HOME": str(folder / "state"), "RADICAL_CONFIG_USER_DIR": str(folder)}
    command([SCALEMS, "env", "sync", "--resource", LABEL], env=synced)()
    os.environ.update(synced)
    from scalems import env

    venv = env.verify(LABEL, tasks=["task"]).tasks["task"].venv
    texts = {"ours": OURS, "bare": BARE, "pool": POOL, "dask": DASK, "parsl": PARSL}
    for name, text in texts.items():
        (folder / f"way_{name}.py").write_text(text)
    ours = [sys.executable, "-m", "scalems.radical", "--resource", LABEL, "--venv", "task"]
    ours += ["--no-store", "--pilot", "new", "-q", "-j", "2"]
    activated = {
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    found = {
        "bare RP raptor": (
            [sys.executable, str(folder / "way_bare.py"), str(n), str(venv)],
            {**synced, **activated},
        ),
        "scalems.radical": ([*ours, str(folder / "way_ours.py"), str(n)], synced),
        "ProcessPoolExecutor": ([sys.executable, str(folder / "way_pool.py"), str(n)], {}),
    }
    if peers is not None:
        python = Path(peers).resolve() / "bin" / "python"
        path = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        for name, script in (("dask.distributed", "dask"), ("Parsl HTEX", "parsl")):
            found[name] = ([str(python), str(folder / f"way_{script}.py"), str(n)], path)
    return found


def main() -> None:
    """Measure all in turn, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000, help="calls (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peers", help="a venv that parsl and distributed are installed in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-", ignore_cleanup_errors=True) as name:
        commands = cases(Path(name), options.n, options.peers)
        taken: dict[str, list[dict[str, float]]] = {case: [] for case in commands}
        for _ in range(options.runs):
            for case, (argv, env) in commands.items():
                taken[case].append(measure(argv, Path(name), env))
                print(f"{case}: {taken[case][-1]}", file=sys.stderr, flush=True)
    table = Table(title=f"{options.n} calls, 2 workers (medians of {options.runs} runs)")
    table.add_column("what")
    for column in ("ratio", *COLUMNS.values()):
        table.add_column(column, justify="right")
    first = None
    for case, runs in taken.items():
        median = {
            key: statistics.median(run[key] for run in runs) for key in COLUMNS if key in runs[0]
        }
        first = first or median["submit"]
        cells = [f"{median[key]:.4g}" if key in median else "" for key in COLUMNS]
        table.add_row(case, f"{median['submit'] / first:.1f}", *cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
