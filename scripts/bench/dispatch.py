"""How fast trivial calls are: ours and peers, in one run, each in a process of its own.

    python scripts/bench/dispatch.py                       # what is installed
    uv pip install distributed executorlib                 # further peers
    python scripts/bench/dispatch.py -n 1000 10000 100000 --runs 3

Every call has a future of its own; 2 workers; the pool is warm. Calls a second are the median
of the runs; the latency is that of one call after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

OURS = """
import json, sys, time
import scalems

@scalems.task
def echo(x):
    return x

@scalems.task
def add(x, y):
    return x + y

@scalems.app
def main():
    n = int(sys.argv[1])
    scalems.gather([echo(-i) for i in range(1, 9)])
    started = time.perf_counter()
    scalems.gather([echo(i) for i in range(n)])
    rate = n / (time.perf_counter() - started)
    started = time.perf_counter()
    for i in range(300):
        echo(f"again {i}").result()
    latency = (time.perf_counter() - started) / 300
    started = time.perf_counter()
    last = add(0, 0)
    for _ in range(300):
        last = add(last, 1)
    last.result()
    chain = 300 / (time.perf_counter() - started)
    print(json.dumps([rate, latency, chain]))
"""

PEER = """
import json, sys, time
{imports}

def echo(x):
    return x

if __name__ == "__main__":
    n = int(sys.argv[1])
    with {executor} as executor:
        submit = executor.submit
        for future in [submit(echo, -i{more}) for i in range(1, 9)]:
            future.result()
        started = time.perf_counter()
        for future in [submit(echo, i{more}) for i in range(n)]:
            future.result()
        rate = n / (time.perf_counter() - started)
        count = 300 if rate > 200 else 30
        started = time.perf_counter()
        for i in range(count):
            submit(echo, f"again {{i}}"{more}).result()
        print(json.dumps([rate, (time.perf_counter() - started) / count, None]))
"""

PEERS = {
    "ProcessPoolExecutor.submit": (
        "concurrent.futures",
        "from concurrent.futures import ProcessPoolExecutor",
        "ProcessPoolExecutor(2)",
        "",
    ),
    "executorlib": (
        "executorlib",
        "from executorlib import SingleNodeExecutor",
        "SingleNodeExecutor(max_workers=2, block_allocation=True)",
        "",
    ),
    "dask.distributed": (
        "distributed",
        "from distributed import Client",
        "Client(n_workers=2, threads_per_worker=1, dashboard_address=None)",
        ", pure=False",
    ),
}


def measure(argv: list[str], folder: Path) -> list[float | None]:
    """Run a benchmark in a process of its own; return what it printed."""
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{argv} ended with {done.returncode}:\n{done.stderr}")
    numbers: list[float | None] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def cases(folder: Path) -> dict[str, list[str]]:
    """Write the scripts; return the command of each, by its name."""
    (folder / "ours.py").write_text(OURS)
    ours = [sys.executable, "-m", "scalems.local", "-q", "-j", "2"]
    found = {
        "scalems.local": [*ours, "--no-store", "ours.py"],
        "scalems.local, results kept": [*ours, "--rerun", "ours.py"],
    }
    for index, (name, (module, imports, executor, more)) in enumerate(PEERS.items()):
        if find_spec(module) is None:
            continue
        path = folder / f"peer{index}.py"
        path.write_text(PEER.format(imports=imports, executor=executor, more=more))
        found[name] = [sys.executable, str(path)]
    return found


def main() -> None:
    """Measure, and print a table for each number of calls."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        commands = cases(Path(name))
        for number in options.n:
            taken: dict[str, list[list[float | None]]] = {case: [] for case in commands}
            for _ in range(options.runs):
                for case, argv in commands.items():
                    taken[case].append(measure([*argv, str(number)], Path(name)))
            table = Table(title=f"{number} calls, 2 workers ({options.runs} runs, interleaved)")
            for column in (
                "what",
                "calls/s",
                "ratio to the first",
                "one call, ms",
                "chain, calls/s",
            ):
                table.add_column(column, justify="left" if column == "what" else "right")
            first = None
            for case, runs in taken.items():
                rate, latency, chain = (
                    statistics.median(value for value in values if value is not None)
                    if None not in values
                    else None
                    for values in zip(*runs, strict=True)
                )
                assert rate is not None
                assert latency is not None
                first = first or rate
                table.add_row(
                    case,
                    f"{rate:.0f}",
                    f"{rate / first:.2f}",
                    f"{latency * 1000:.2f}",
                    "" if chain is None else f"{chain:.0f}",
                )
            console.print(table)


if __name__ == "__main__":
    main()
