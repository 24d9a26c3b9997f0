"""Time commands against each other, interleaved, and print medians and ratios.

pyperf and hyperfine were weighed: neither prepares a fresh home before each run of several
commands in turn, which is what makes figures of a noisy machine comparable.
"""

from __future__ import annotations

import os
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
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of all runs, in seconds."""
        return statistics.median(self.seconds)


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
            started = time.perf_counter()
            case.run()
            case.seconds.append(time.perf_counter() - started)
    Console(width=110).print(table(title, cases, runs=runs))


def table(title: str, cases: Sequence[Case], *, runs: int) -> Table:
    """Return a table of medians; the first case is the one that ratios refer to."""
    made = Table(title=f"{title} ({runs} runs each, interleaved)", title_justify="left")
    for column in ("what", "median s", "min", "max", "ratio to the first"):
        made.add_column(column, justify="left" if column == "what" else "right")
    for case in cases:
        made.add_row(
            case.name,
            f"{case.median:.3f}",
            f"{min(case.seconds):.3f}",
            f"{max(case.seconds):.3f}",
            f"{case.median / cases[0].median:.2f}",
        )
    return made
