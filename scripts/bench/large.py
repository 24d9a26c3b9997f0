"""Large values: a call that takes one of 100 MB and returns it, ours and peers, in one run.

    python scripts/bench/large.py
    python scripts/bench/large.py --size 500 --runs 5

There is one worker process, and it is warm. Of each kind of value: milliseconds from the call to
the value in the client, and the client's peak of resident memory beyond what it had with the
argument, in units of the value's size. `chain` takes the value through three calls without asking
for it in between; who knows no futures as arguments passes the values.
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
import json, sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np

@dataclass
class Box:
    name: str
    content: bytes
    array: object

def echo(value):
    return value

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024

def forget():
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, proc(5)
    return peak()

def values(size):
    yield "array", np.ones(size // 8)
    yield "bytes", b"x" * size
    yield "dataclass", Box("one", b"x" * (size // 2), np.ones(size // 16))
    try:
        import pandas
        yield "frame", pandas.DataFrame({"a": np.ones(size // 16), "b": np.arange(size // 16)})
    except ImportError:
        pass

def measured(submit, size, graphs):
    found = {}
    for _, value in values(4096):
        submit(echo, value).result()  # it has loaded what it needs
    for name, value in values(size):
        before, started = forget(), time.perf_counter()
        back = submit(echo, value).result()
        found[name] = (time.perf_counter() - started, (peak() - before) / size)
        del back, value
    value = np.ones(size // 8)
    before, started = forget(), time.perf_counter()
    for _ in range(3):
        value = submit(echo, value)
        if not graphs:
            value = value.result()
    if graphs:
        submit(len, value).result()
    found["chain"] = (time.perf_counter() - started, (peak() - before) / size)
    return found
"""

OURS = """
import json, sys
import scalems
from measures import measured

@scalems.app
def main():
    print(json.dumps(measured(scalems.submit, int(sys.argv[1]), graphs=True)))
"""

PEER = """
import json, sys
{imports}
from measures import measured

if __name__ == "__main__":
    with {executor} as executor:
        def submit(function, *args):
            return executor.submit(function, *args{more})
        print(json.dumps(measured(submit, int(sys.argv[1]), graphs={graphs})))
"""

PEERS = {
    "ProcessPoolExecutor": (
        "from concurrent.futures import ProcessPoolExecutor",
        *("ProcessPoolExecutor(1)", "", False),
    ),
    "executorlib": (
        "from executorlib import SingleNodeExecutor",
        *("SingleNodeExecutor(max_workers=1, block_allocation=True)", "", True),
    ),
    "dask.distributed": (
        "from distributed import Client",
        "Client(n_workers=1, threads_per_worker=1, dashboard_address=None)",
        *(", pure=False", True),
    ),
}


def cases(folder: Path, size: int) -> dict[str, list[str]]:
    """Write the scripts; return the command of each, by its name."""
    (folder / "measures.py").write_text(MEASURES)
    (folder / "ours.py").write_text(OURS)
    ours = [sys.executable, "-m", "scalems.local", "-q", "-j", "1"]
    found = {
        "scalems.local": [*ours, "--no-store", "ours.py", str(size)],
        "scalems.local, results kept": [*ours, "--rerun", "ours.py", str(size)],
    }
    for index, (name, peer) in enumerate(PEERS.items()):
        imports, executor, more, graphs = peer
        path = folder / f"peer{index}.py"
        path.write_text(PEER.format(imports=imports, executor=executor, more=more, graphs=graphs))
        found[name] = [peers.python(), str(path), str(size)]
    return found


def measure(argv: list[str], folder: Path) -> dict[str, tuple[float, float]]:
    """Run a benchmark in a process of its own; return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{argv} ended with {done.returncode}:\n{done.stderr}")
    numbers: dict[str, tuple[float, float]] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100, help="megabytes")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        commands = cases(Path(name), options.size * 1_000_000)
        taken: dict[str, list[dict[str, tuple[float, float]]]] = {case: [] for case in commands}
        for _ in range(options.runs):
            for case, argv in commands.items():
                taken[case].append(measure(argv, Path(name)))
    table = Table(title=f"{options.size} MB there and back ({options.runs} runs, interleaved)")
    kinds = list(taken["scalems.local"][0])
    for column in ("what", *(f"{kind}, ms (memory)" for kind in kinds)):
        table.add_column(column, justify="left" if column == "what" else "right")
    for case, found in taken.items():
        cells = []
        for kind in kinds:
            some = [one[kind] for one in found if kind in one]
            seconds, memory = (statistics.median(part) for part in zip(*some, strict=True))
            cells.append(f"{seconds * 1000:.0f} ({memory:.1f}x)")
        table.add_row(case, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
