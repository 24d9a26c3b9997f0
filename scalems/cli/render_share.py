"""How bundles look, and what is told of keys and plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalems.cli.render import console, size

if TYPE_CHECKING:
    from scalems.env.bundle import BundleResult


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
