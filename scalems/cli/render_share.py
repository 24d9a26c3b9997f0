"""How bundles look, and what is told of keys and plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalems.cli.render import console, print_rows, size

if TYPE_CHECKING:
    from scalems.env.bundle import BundleResult
    from scalems.env.keys import KeyDifference


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
    out.print(f"sha256 {result.sha256}", soft_wrap=True)
    out.print("there, without scalems:  ", end="")
    out.print(f"python3 {result.path.name} --venv .venv", markup=False)
    out.print("there, with it:          ", end="")
    out.print(f"scalems env sync --bundle {result.path.name} --offline", markup=False)


def print_key_difference(difference: KeyDifference) -> None:
    """Print why two fingerprints differ."""
    out = console()
    one, other = difference.sides
    if difference.same:
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
