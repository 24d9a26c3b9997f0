"""The main job of scalems, each step by the command that a user would type."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "peptide" / "ensemble.py"
RESOURCE = "local.localhost"
console = Console(highlight=False)


@dataclass
class Step:
    """A command, what it is for, and how it went."""

    what: str
    argv: list[str]
    seconds: float = 0.0
    where: str = "client venv"


def main() -> int:
    """Run all steps; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="for figures")
    parser.add_argument(
        "script_options", nargs="*", help="for the example, after --, such as -- --steps 5000"
    )
    options = parser.parse_args()
    output: Path = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    steps = plan(output, options.script_options)
    for number, step in enumerate(steps, start=1):
        console.print(f"\n[bold cyan]{number}/{len(steps)}[/] [bold]{step.what}[/]")
        console.print(f"[dim]$ {shlex.join(shown(step.argv))}[/]", soft_wrap=True)
        started = time.monotonic()
        code = subprocess.run(step.argv, cwd=ROOT, check=False).returncode
        step.seconds = time.monotonic() - started
        if code:
            console.print(f"[red]this step ended with exit code {code}[/]")
            return code
    table(steps, output)
    return 0


def plan(output: Path, script_options: list[str]) -> list[Step]:
    """Return the commands of the demo."""
    python = sys.executable
    scalems = [str(Path(python).with_name("scalems"))]
    # Each its own store: else the second would find all done by the first.
    local = [python, "-m", "scalems.local", "--venv", "task"]
    local += ["--store", str(output / "local-results"), str(EXAMPLE)]
    radical = [python, "-m", "scalems.radical", "--resource", RESOURCE, "--venv", "task"]
    radical += ["--store", str(output / "radical-results"), str(EXAMPLE)]
    return [
        Step(
            "make the environments what their specs say",
            [*scalems, "env", "sync", "--resource", RESOURCE],
        ),
        Step("prove that they are, and that all run the same", [*scalems, "env", "check"]),
        Step(
            "an ensemble of molecular dynamics, on this machine's processes",
            [*local, *script_options, "--output", str(output / "local.png")],
            where="Task venv",
        ),
        Step(
            "the same script, through RADICAL-Pilot's raptor",
            [*radical, *script_options, "--output", str(output / "radical.png")],
            where="Task venv",
        ),
    ]


def shown(argv: list[str]) -> list[str]:
    """Return a command as a user would type it."""
    short = [word.replace(str(ROOT) + "/", "") for word in argv]
    return [word.replace(".venv/bin/", "") for word in short]


def table(steps: list[Step], output: Path) -> None:
    """Print what ran where and how long it took."""
    console.print()
    result = Table(title="what ran where", title_justify="left")
    for column in ("step", "where", "result", "seconds"):
        result.add_column(column, justify="right" if column == "seconds" else "left")
    for step in steps:
        result.add_row(step.what, step.where, outcome(step, output), f"{step.seconds:.1f}")
    console.print(result)
    console.print(f"figures: {output}/local.png and {output}/radical.png", soft_wrap=True)


def outcome(step: Step, output: Path) -> str:
    """Say in a few words what a step gave, from what it wrote."""
    for name in ("local", "radical"):
        numbers = output / f"{name}.json"
        if any(word.endswith(f"{name}.png") for word in step.argv) and numbers.is_file():
            data = json.loads(numbers.read_text())
            members = data["members"]
            hosts = {member["host"] for member in members}
            return f"{len(members)} simulations on {', '.join(sorted(hosts))}"
    return "done"


if __name__ == "__main__":
    sys.exit(main())
