"""How the results of commands look: the only module of the environment manager that prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scalems.errors import ScalemsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from scalems.env.finding import Finding
    from scalems.env.locking import LockResult, Notify
    from scalems.env.parity import Parity
    from scalems.env.sync import SyncResult
    from scalems.env.verify import Report

_MARK = {None: "[green]same[/]", "error": "[red]differs[/]", "warning": "[yellow]warning[/]"}


def console(*, stderr: bool = False) -> Console:
    """Return a console that is plain where nobody looks."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=not stream.isatty(), width=None)


def print_json(data: Any) -> None:
    """Print data for scripts."""
    print(json.dumps(data, indent=2))


def print_error(error: ScalemsError) -> None:
    """Print an error's cause and remedy on standard error."""
    out = console(stderr=True)
    out.print("[bold red]error:[/] ", end="")
    out.print(error.cause, markup=False, soft_wrap=True)
    if error.remedy:
        out.print("[bold green]remedy:[/] ", end="")
        out.print(error.remedy, markup=False, soft_wrap=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Notify]:
    """Show what long work is doing: a spinner on a terminal, else one line a step.

    :return: a function that tells the next step.
    """
    out = console(stderr=True)
    started = time.monotonic()
    if quiet or not out.is_terminal:

        def plain(step: str, *, detail: bool = False) -> None:
            if not (quiet or detail):
                print(f"{time.monotonic() - started:6.1f} s  {step}", file=sys.stderr, flush=True)

        yield plain
        return

    from rich.markup import escape

    def tell(step: str, *, detail: bool = False) -> None:
        status.update(f"[dim]{escape(step[:100])}[/]")
        if not detail:
            seconds = time.monotonic() - started
            out.print(f"[dim]{seconds:6.1f} s[/]  {escape(step)}", soft_wrap=True)

    with out.status("[dim]looking[/]", spinner="dots") as status:
        yield tell


def print_sync(result: SyncResult, *, dry_run: bool) -> None:
    """Print what a sync did, or would do."""
    out = console()
    print_locks(result.locks, only_new=True)
    table = _table("environment", "role", "what", "seconds", "build")
    for env in result.envs:
        seconds = f"{env.seconds:.1f}" if env.seconds else "-"
        table.add_row(env.name, env.role.value, env.action, seconds, env.folder.name)
    out.print(table)
    out.print(f"builds are in {result.envs[0].folder.parent}", soft_wrap=True)
    if result.diff:
        verb = "would be changed" if dry_run else "written"
        out.print(f"RP resource definition {verb}: {result.definition}", soft_wrap=True)
        if dry_run:
            for line in result.diff.splitlines():
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
                out.print(line, style=style, markup=False, soft_wrap=True)
    if result.backup:
        out.print(f"its former text is kept in {result.backup}", soft_wrap=True)
    if dry_run:
        out.print("[yellow]dry run:[/] nothing was changed")
    else:
        out.print(f"[green]{result.label} is ready[/]")


def print_locks(locks: tuple[LockResult, ...] | list[LockResult], *, only_new: bool) -> None:
    """Print which locks were resolved anew, why, and what changed."""
    out = console()
    for one in locks:
        if not one.reason:
            if not only_new:
                out.print(f"[green]{one.name}[/]: current ({one.path})", soft_wrap=True)
            continue
        out.print(f"[bold]{one.name}[/]: resolved, for {one.reason}", soft_wrap=True)
        shown = one.changes[:12]
        for line in shown:
            style = {"+": "green", "-": "red", "~": "yellow"}[line[0]]
            out.print(f"  {line}", style=style, markup=False)
        if len(one.changes) > len(shown):
            out.print(f"  ... {len(one.changes) - len(shown)} more in {one.path}", soft_wrap=True)
        if not one.changes:
            out.print("  the same versions as before")


def print_report(report: Report) -> None:
    """Print the parity table, the builds and every finding of a check."""
    out = console()
    out.print(f"[bold]{report.label}[/]  ({report.depth.value} check)")
    out.print(parity_table(report.parity))
    builds = _table("environment", "role", "built", "with", "files", "content")
    for env in report.synced.envs:
        known = report.manifests.get(env.name)
        if known:
            builds.add_row(
                env.name,
                env.role.value,
                known.created.replace("T", " ").partition("+")[0],
                known.engine,
                f"{known.files:,}",
                known.content_digest[:16],
            )
        else:
            builds.add_row(env.name, env.role.value, "[red]not usable[/]", "", "", "")
    out.print(builds)
    print_findings(report.findings)
    if report.ok:
        out.print(f"[green]{report.label} is ready[/]")


def print_findings(findings: tuple[Finding, ...]) -> None:
    """Print findings, the worst first, then each remedy once."""
    out = console()
    shown = sorted(findings, key=lambda finding: finding.severity.value)
    for finding in shown[:50]:
        colour = "red" if finding.severity.value == "error" else "yellow"
        out.print(f"[{colour}]{finding.severity.value}[/]  ", end="")
        out.print(str(finding), markup=False, soft_wrap=True)
    if len(shown) > 50:
        out.print(f"... and {len(shown) - 50} more; --json lists them all")
    for remedy in dict.fromkeys(finding.remedy for finding in shown if finding.remedy):
        out.print("[bold green]remedy:[/] ", end="")
        out.print(remedy, markup=False, soft_wrap=True)


def parity_table(parity: Parity) -> Table:
    """Return the table of who runs what."""
    table = _table("", *parity.sides, "parity")
    for row in parity.rows:
        mark = _MARK[row.severity.value if row.severity else None]
        table.add_row(row.what, *(row.values[side] or "-" for side in parity.sides), mark)
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
