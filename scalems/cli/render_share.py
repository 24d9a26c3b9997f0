"""How bundles look, and what is told of keys and plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalems.cli.render import console, print_rows, size

if TYPE_CHECKING:
    from scalems.env.bundle import BundleResult
    from scalems.env.keys import KeyDifference
    from scalems.env.plan import UpgradePlan


def print_bundle(result: BundleResult) -> None:
    """Print what is in a bundle, and what to do with it."""
    out = console()
    omitted = f", {result.omitted} more that are there already" if result.omitted else ""
    out.print(
        f"[green]{result.path.name}[/]: {size(result.bytes)}, {result.files - result.omitted} "
        f"files{omitted}, for {', '.join(result.targets)}",
        soft_wrap=True,
    )
    for name in sorted(result.built):
        out.print(f"  built here, from its source: {name}", soft_wrap=True)
    if result.python:
        _print_python(result)
    out.print(f"sha256 {result.sha256}", soft_wrap=True)
    if result.python:
        out.print(f"there, without Python:    sh {result.path.name} --venv .venv", markup=False)
    out.print("there, without scalems:  ", end="")
    out.print(f"python3 {result.path.name} --venv .venv", markup=False)
    out.print("there, with it:          ", end="")
    out.print(f"scalems env sync --bundle {result.path.name} --offline", markup=False)


def _print_python(result: BundleResult) -> None:
    """Print which Python comes along, and what it asks of the target."""
    if result.libraries is None:
        needs = "not run here, which is no such machine"
    else:
        needs = f"loads of its system: {', '.join(result.libraries) or 'nothing but the C library'}"
    console().print(f"  with Python {result.python}, {needs}", soft_wrap=True, markup=False)


def print_key_difference(difference: KeyDifference) -> None:
    """Print why two fingerprints differ."""
    out = console()
    one, other = difference.sides
    for side in difference.sides:
        if side.stale:
            name = side.name.partition(":")[2]
            out.print(
                f"[yellow]{name}: a sync would resolve its lock first,[/] for {side.stale}\n"
                f"what is known now is below; to know all: scalems env lock {name}",
                soft_wrap=True,
            )
    if one.digest == other.digest:
        out.print(f"[green]the same fingerprint:[/] {one.digest[:16]}", soft_wrap=True)
        return
    columns = [f"{side.name} ({side.digest[:8]})" for side in difference.sides]
    if columns[0] == columns[1]:
        columns[1] += " "
    rows = [
        {"": item, columns[0]: left or "-", columns[1]: right or "-"}
        for item, (left, right) in difference.items.items()
    ]
    print_rows(rows, empty="nothing that is known of them differs")
    for name in difference.files[:20]:
        out.print(f"  scalems differs in {name}", markup=False, soft_wrap=True)
    if len(difference.files) > 20:
        out.print(f"  ... and {len(difference.files) - 20} more files of scalems")
    if not (one.complete and other.complete):
        out.print(
            "[yellow]an older scalems made one of them and did not record its hashes:[/] "
            "what differs may be these"
        )


def print_plan(
    plan: UpgradePlan, pilots: Sequence[Mapping[str, str]], results: Mapping[str, Any]
) -> None:
    """Print what an upgrade would touch, and in which order it is done."""
    out = console()
    if plan.client:
        out.print("[bold]the client's own venv[/]")
        _print_changes(plan.client)
    shown: dict[str, str] = {}
    for one in plan.resources:
        for env in one.envs:
            where = f"{one.label}/{env.name}"
            state = _impact(env.affected, env.in_use, built=env.build is not None)
            out.print(f"[bold]{where}[/]: ", end="")
            out.print("[red]cannot have it[/]" if env.problem else state, soft_wrap=True)
            if env.name in shown:
                if env.affected:
                    out.print(f"  its lock is that of {shown[env.name]}")
                continue
            shown[env.name] = where
            _print_changes(env.changes)
            if env.problem:
                out.print(env.problem, markup=False, soft_wrap=True)
    for pilot in pilots:
        out.print(f"the warm pilot {pilot['name']} stays as it is: ", end="")
        out.print(f"scalems pilot stop {pilot['name']}, and start it again", soft_wrap=True)
    for one in results["envs"]:
        out.print(
            f"{one['results']} results of {one['env']} ({size(one['bytes'])}) are kept in "
            f"{one['store']}, but the new environment computes its own",
            soft_wrap=True,
        )
    if not plan.steps and not plan.problems:
        out.print("[green]nothing would change[/]")
    for number, (command, why) in enumerate(plan.steps, start=1):
        out.print(f"[bold]{number}.[/] {why}")
        out.print(f"   {command}", markup=False, soft_wrap=True)


def _impact(affected: bool, in_use: bool | None, *, built: bool) -> str:
    if not affected:
        return "[green]not affected[/]"
    if in_use is None:
        return "[yellow]built anew[/], on its host"
    if in_use:
        return "[yellow]built anew[/]; a run uses the present build, and keeps it"
    return "[yellow]built anew[/]" if built else "[yellow]not built yet[/]"


def _print_changes(changes: Sequence[str]) -> None:
    out = console()
    for line in changes[:12]:
        out.print(
            f"  {line}", style={"+": "green", "-": "red"}.get(line[0], "yellow"), markup=False
        )
    if len(changes) > 12:
        out.print(f"  ... {len(changes) - 12} more; --json lists them all")
