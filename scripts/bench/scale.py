"""What a task costs as there are more of them: seconds and memory, to a million tasks.

    python scripts/bench/scale.py                        # 1,000, 10,000 and 100,000 tasks
    python scripts/bench/scale.py -n 100000 1000000      # takes minutes
    python scripts/bench/scale.py --map                  # by scalems.map

Each number runs twice, with 2 workers and a store of its own: first every task is computed and
its result kept, then all results are taken from the store. Figures are microseconds of a task,
and bytes of a task at the peak of the client's resident memory, beyond what it had before.
The last column compares a task's whole cost with that of the line above: 1.0 is linear.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

SCRIPT = """
import json, resource, sys, time
import scalems

def echo(x):
    return x

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

@scalems.app
def main():
    count = int(sys.argv[1])
    scalems.gather(scalems.map(echo, range(-8, 0)))
    before, started = peak(), time.perf_counter()
    if sys.argv[2] == "map":
        futures = scalems.map(echo, range(count))
    else:
        futures = [scalems.submit(echo, number) for number in range(count)]
    submitted = time.perf_counter()
    assert sum(scalems.gather(futures)) == sum(range(count))
    ended = time.perf_counter()
    figures = [submitted - started, ended - started, peak() - before]
    print(json.dumps([figure / count for figure in figures]))
"""


def run(folder: Path, count: int, how: str) -> list[float]:
    """Run the script; return the seconds to submit, those to the end, and the bytes, of a task."""
    command = [sys.executable, "-m", "scalems.local", "-q", "-j", "2", "scale.py", str(count), how]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stderr}")
    figures: list[float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--map", action="store_true", help="by scalems.map, not scalems.submit")
    options = parser.parse_args()
    how = "map" if options.map else "submit"
    table = Table(title=f"scalems.{how}, 2 workers, results kept")
    for column in ("tasks", "run", "submit, µs", "submit to result, µs", "bytes", "to the former"):
        table.add_column(column, justify="left" if column == "run" else "right")
    former: dict[str, float] = {}
    for count in options.n:
        with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
            (Path(name) / "scale.py").write_text(SCRIPT)
            for what in ("computed", "taken from the store"):
                submit, whole, size = run(Path(name), count, how)
                ratio = f"{whole / former[what]:.2f}" if what in former else ""
                former[what] = whole
                figures = (f"{submit * 1e6:.0f}", f"{whole * 1e6:.0f}", f"{size:.0f}", ratio)
                table.add_row(str(count), what, *figures)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
