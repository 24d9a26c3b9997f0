"""How fast trivial calls are: ours and peers, in one run, each in a process of its own.

    python scripts/bench/dispatch.py
    python scripts/bench/dispatch.py -n 100 1000 10000 100000 --runs 3
    python scripts/bench/dispatch.py --map -n 10000 100000 1000000

The peers are installed in a venv of their own (.venv-peers). There are 2 workers, and the pool is
warm. Each figure is the median of the runs:

- submit, map: calls a second, each with a future of its own (`map` of ProcessPoolExecutor: by the
  best of four chunk sizes, and without futures);
- fan: the same for calls that all take the value of one, and one that takes the values of all;
- chain: the same for calls that each take the value of the one before;
- one call: milliseconds for one call after the other, on average, and of the fastest tenth;
- pending: bytes that the client holds for a call that has not run, by tracemalloc, when that no
  longer falls: with results kept there are up to 20,000 rows on their way to the disk at any time,
  whatever the number of calls, of some 300 bytes each.

"finished before" are the calls of the line above it, whose results are taken from the store.

With --map it is maps only, of numbers and of texts, beside ProcessPoolExecutor's by the best of
its chunk sizes: calls a second, and the microseconds of processors that a call takes, in the
client and in the workers together, which other users of the machine hardly change.
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

import peers
from rich.console import Console
from rich.table import Table

MEASURES = """
import gc, json, sys, time, tracemalloc

def echo(x):
    return x

def add(x, y):
    return x + y

def total(values):
    return sum(values)

def nap(seconds):
    time.sleep(seconds)

def rate(count, calls):
    started = time.perf_counter()
    calls()
    return count / (time.perf_counter() - started)

def in_a_chain(submit, count):
    last = submit(add, 0, 0)
    for _ in range(count - 1):
        last = submit(add, last, 1)
    last.result()

def in_a_fan(submit, count):
    root = submit(echo, 1)
    submit(total, [submit(add, root, i) for i in range(count)]).result()

def one_by_one(submit, count):
    took = []
    for i in range(count):
        started = time.perf_counter()
        submit(echo, f"again {i}").result()
        took.append(1000 * (time.perf_counter() - started))
    return sum(took) / count, sorted(took)[count // 10]

def pending(submit, count):
    busy = [submit(nap, 3) for _ in range(2)]
    numbers = list(range(10**6, 10**6 + count))
    futures = [submit(echo, i) for i in numbers[:100]]
    gc.collect()
    tracemalloc.start()
    futures += [submit(echo, i) for i in numbers]
    gc.collect()
    size, before = tracemalloc.get_traced_memory()[0], float("inf")
    while size < 0.99 * before:
        time.sleep(0.2)
        size, before = tracemalloc.get_traced_memory()[0], size
    size /= count
    tracemalloc.stop()
    for future in [*busy, *futures]:
        future.result()
    return size

def by_chunks(executor, count):
    found = 0.0
    for parts in (2, 8, 32, 128):
        size = max(1, count // parts)
        mapped = lambda: list(executor.map(echo, range(count), chunksize=size))
        found = max(found, rate(count, mapped))
    return found

def measured(submit, together, count, graphs):
    found = {"submit": rate(count, lambda: together([submit(echo, i) for i in range(count)]))}
    some = 300 if found["submit"] > 200 else 30
    found["one call"], found["fastest tenth"] = one_by_one(submit, some)
    if graphs:
        found["chain"] = rate(some, lambda: in_a_chain(submit, some))
        found["fan"] = rate(count, lambda: in_a_fan(submit, count))
    found["pending"] = pending(submit, 2000)
    return found
"""

OURS = """
import json, sys
import scalems
from measures import echo, measured, rate

@scalems.app
def main():
    count, what = int(sys.argv[1]), sys.argv[2]
    submit, together = scalems.submit, scalems.gather
    if what == "all":
        together([submit(echo, -i) for i in range(1, 9)])
        found = measured(submit, together, count, graphs=True)
    else:
        found = {"submit": rate(count, lambda: together([submit(echo, i) for i in range(count)]))}
    items = range(-count, 0)
    found["map"] = rate(count, lambda: together(scalems.map(echo, items)))
    print(json.dumps(found))
"""

PEER = """
import json, sys
{imports}
from measures import by_chunks, echo, measured

def together(futures):
    return [future.result() for future in futures]

if __name__ == "__main__":
    with {executor} as executor:
        def submit(function, *args):
            return executor.submit(function, *args{more})
        together([submit(echo, -i) for i in range(1, 9)])
        found = measured(submit, together, int(sys.argv[1]), graphs={graphs})
        if not {graphs}:
            found["map"] = by_chunks(executor, int(sys.argv[1]))
        print(json.dumps(found))
"""

MAPS = """
import glob, json, os, sys, time
{imports}
from measures import echo

def processors():
    found = time.process_time()
    for name in glob.glob("/proc/self/task/*/children"):
        for child in open(name).read().split():
            for one in glob.glob(f"/proc/{{child}}/task/*/schedstat"):
                found += int(open(one).read().split()[0]) / 1e9
    return found

def measured(mapped, count):
    found = {{"numbers": 0.0, "texts": 0.0}}
    for _ in range({times}):
        for kind in ("numbers", "texts"):
            items = range(count) if kind == "numbers" else [str(i) for i in range(count)]
            used, started = processors(), time.perf_counter()
            values = mapped(items)
            calls = count / (time.perf_counter() - started)
            used = 1e6 * (processors() - used) / count
            assert values == list(items)
            found[kind] = max(found[kind], calls)
            found[f"{{kind}} CPU"] = min(found.get(f"{{kind}} CPU", used), used)
    return found

{body}
"""

OUR_MAPS = """
import scalems

@scalems.app
def main():
    count = int(sys.argv[1])
    scalems.gather([scalems.submit(echo, -i) for i in range(1, 9)])
    print(json.dumps(measured(lambda items: scalems.gather(scalems.map(echo, items)), count)))
"""

THEIR_MAPS = """
if __name__ == "__main__":
    count = int(sys.argv[1])
    sizes = iter([max(1, count // parts) for parts in (2, 8, 32, 128) for _ in range(2)])
    with ProcessPoolExecutor(2) as executor:
        list(executor.map(echo, range(8)))
        def mapped(items):
            return list(executor.map(echo, items, chunksize=next(sizes)))
        print(json.dumps(measured(mapped, count)))
"""

PARSL = """
import parsl
from parsl.config import Config
from parsl.dataflow.dependency_resolvers import DEEP_DEPENDENCY_RESOLVER
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

class Apps:
    def __enter__(self):
        executor = HighThroughputExecutor(
            address="127.0.0.1", max_workers_per_node=2,
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        parsl.load(Config(
            executors=[executor], dependency_resolver=DEEP_DEPENDENCY_RESOLVER,
            run_dir="parsl", initialize_logging=False,
        ))
        self.apps = {}
        return self

    def submit(self, function, *args):
        if function not in self.apps:
            self.apps[function] = parsl.python_app(function)
        return self.apps[function](*args)

    def __exit__(self, *_):
        parsl.dfk().cleanup()
"""

# Name: module, how it is imported, the executor, more arguments, whether it takes futures.
PEERS = {
    "ProcessPoolExecutor.submit": (
        "concurrent.futures",
        "from concurrent.futures import ProcessPoolExecutor",
        *("ProcessPoolExecutor(2)", "", False),
    ),
    "executorlib": (
        "executorlib",
        "from executorlib import SingleNodeExecutor",
        *("SingleNodeExecutor(max_workers=2, block_allocation=True)", "", True),
    ),
    "dask.distributed": (
        "distributed",
        "from distributed import Client",
        "Client(n_workers=2, threads_per_worker=1, dashboard_address=None)",
        *(", pure=False", True),
    ),
    "Parsl HTEX": ("parsl", PARSL, "Apps()", "", True),
}

COLUMNS = {
    "submit": "submit, calls/s",
    "map": "map, calls/s",
    "fan": "fan, calls/s",
    "chain": "chain, calls/s",
    "one call": "one call, ms",
    "fastest tenth": "fastest tenth, ms",
    "pending": "pending, bytes",
}


IN_MS = ("one call", "fastest tenth")

MAP_COLUMNS = {
    "numbers": "numbers, calls/s",
    "numbers CPU": "CPU, us/call",
    "texts": "texts, calls/s",
    "texts CPU": "CPU, us/call",
}


def measure(argv: list[str], folder: Path) -> dict[str, float]:
    """Run a benchmark in a process of its own; return what it printed."""
    # Parsl starts programs of its own by their names, and their workers look for modules here.
    path = f"{Path(argv[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        argv,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{argv} ended with {done.returncode}:\n{done.stderr}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def cases(folder: Path, count: int) -> dict[str, list[str]]:
    """Write the scripts; return the command of each, by its name, in the order to run them."""
    (folder / "measures.py").write_text(MEASURES)
    (folder / "ours.py").write_text(OURS)
    ours = [sys.executable, "-m", "scalems.local", "-q", "-j", "2"]
    found = {
        "scalems.local": [*ours, "--no-store", "ours.py", str(count), "all"],
        "scalems.local, results kept": [*ours, "--rerun", "ours.py", str(count), "all"],
        "scalems.local, finished before": [*ours, "ours.py", str(count), "again"],
    }
    for index, (name, peer) in enumerate(PEERS.items()):
        module, imports, executor, more, graphs = peer
        python = sys.executable if module == "concurrent.futures" else peers.python()
        path = folder / f"peer{index}.py"
        path.write_text(PEER.format(imports=imports, executor=executor, more=more, graphs=graphs))
        found[name] = [python, str(path), str(count)]
    return found


def maps(folder: Path, count: int) -> dict[str, list[str]]:
    """Write the scripts that map; return the command of each, by its name."""
    (folder / "measures.py").write_text(MEASURES)
    (folder / "ours.py").write_text(MAPS.format(imports="", times=4, body=OUR_MAPS))
    imports = PEERS["ProcessPoolExecutor.submit"][1]
    (folder / "theirs.py").write_text(MAPS.format(imports=imports, times=4, body=THEIR_MAPS))
    ours = [sys.executable, "-m", "scalems.local", "-q", "-j", "2"]
    return {
        "ProcessPoolExecutor.map, best chunksize": [
            *(sys.executable, str(folder / "theirs.py"), str(count))
        ],
        "scalems.local": [*ours, "--no-store", "ours.py", str(count)],
        "scalems.local, results kept": [*ours, "--rerun", "ours.py", str(count)],
    }


def table_of_maps(count: int, taken: dict[str, list[dict[str, float]]]) -> Table:
    """Return a table of the medians, beside those of the first."""
    runs = len(next(iter(taken.values())))
    table = Table(title=f"map over {count} items, 2 workers ({runs} runs, interleaved)")
    for column in ("what", *MAP_COLUMNS.values(), "ratio to the first"):
        table.add_column(column, justify="left" if column == "what" else "right")
    first = 0.0
    for case, found in taken.items():
        middle = {name: statistics.median(one[name] for one in found) for name in MAP_COLUMNS}
        first = first or middle["numbers"]
        cells = [f"{middle[name]:{'.2f' if 'CPU' in name else '.0f'}}" for name in MAP_COLUMNS]
        table.add_row(case, *cells, f"{middle['numbers'] / first:.2f}")
    return table


def table_of(count: int, taken: dict[str, list[dict[str, float]]]) -> Table:
    """Return a table of the medians."""
    runs = len(next(iter(taken.values())))
    table = Table(title=f"{count} calls, 2 workers ({runs} runs, interleaved)")
    for column in ("what", *COLUMNS.values(), "ratio to the first"):
        table.add_column(column, justify="left" if column == "what" else "right")
    first = 0.0
    for case, found in taken.items():
        middle = {
            name: statistics.median(one[name] for one in found)
            for name in COLUMNS
            if name in found[0]
        }
        first = first or middle["submit"]
        cells = [
            "" if name not in middle else f"{middle[name]:{'.2f' if name in IN_MS else '.0f'}}"
            for name in COLUMNS
        ]
        table.add_row(case, *cells, f"{middle['submit'] / first:.2f}")
    return table


def main() -> None:
    """Measure, and print a table for each number of calls."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--map", action="store_true", help="maps only")
    parser.add_argument("--only", nargs="+", help="cases whose name has one of these texts")
    options = parser.parse_args()
    console = Console(width=150)
    for number in options.n:
        with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
            commands = (maps if options.map else cases)(Path(name), number)
            if options.only:
                commands = {
                    case: argv
                    for case, argv in commands.items()
                    if any(text in case for text in options.only)
                }
            taken: dict[str, list[dict[str, float]]] = {case: [] for case in commands}
            for _ in range(options.runs):
                for case, argv in commands.items():
                    taken[case].append(measure(argv, Path(name)))
        console.print((table_of_maps if options.map else table_of)(number, taken))


if __name__ == "__main__":
    main()
