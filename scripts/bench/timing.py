"""Time commands against each other, interleaved, and print medians and ratios.

pyperf and hyperfine were weighed: neither prepares a fresh home before each run of several
commands in turn, which is what makes figures of a noisy machine comparable.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
SCALEMS = str(Path(sys.executable).with_name("scalems"))


@dataclass
class Case:
    """One thing to time.

    :param run: does it once.
    :param prepare: called before each run, not timed.
    :param cpu: seconds of processors that each run took, of this process and of commands that
        have ended; what others do on the machine hardly changes them.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of all runs, in seconds."""
        return statistics.median(self.seconds)

    @property
    def median_cpu(self) -> float:
        """Median of what all runs took of processors, in seconds."""
        return statistics.median(self.cpu)


def command(
    argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path = ROOT
) -> Callable[[], None]:
    """Return a function that runs a command; what it prints is shown only if it fails."""

    def run() -> None:
        done = subprocess.run(
            [str(word) for word in argv],
            env={**os.environ, **env},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{argv} ended with {done.returncode}:\n{done.stdout}")

    return run


def compare(title: str, cases: Sequence[Case], *, runs: int) -> None:
    """Time all cases in turn, several times; the first is the one that ratios refer to."""
    for _ in range(runs):
        for case in cases:
            case.prepare()
            used, started = processors(), time.perf_counter()
            case.run()
            case.seconds.append(time.perf_counter() - started)
            case.cpu.append(processors() - used)
    Console(width=120).print(table(title, cases, runs=runs))


def processors() -> float:
    """Return the seconds of processors that this process and its ended children have taken."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def table(title: str, cases: Sequence[Case], *, runs: int) -> Table:
    """Return a table of medians; the first case is the one that ratios refer to."""
    made = Table(title=f"{title} ({runs} runs each, interleaved)", title_justify="left")
    for column in ("what", "median s", "min", "max", "ratio to the first", "CPU s", "ratio"):
        made.add_column(column, justify="left" if column == "what" else "right")
    for case in cases:
        made.add_row(
            case.name,
            f"{case.median:.3f}",
            f"{min(case.seconds):.3f}",
            f"{max(case.seconds):.3f}",
            f"{case.median / cases[0].median:.2f}",
            *_of_processors(case, cases[0]),
        )
    return made


def _of_processors(case: Case, first: Case) -> tuple[str, str]:
    """Return the seconds of processors that a case took, and their ratio to those of another."""
    if not (case.cpu and first.cpu):
        return "", ""
    return f"{case.median_cpu:.3f}", f"{case.median_cpu / max(first.median_cpu, 1e-9):.2f}"
