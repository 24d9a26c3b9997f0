"""How the results of commands look; with its siblings the only modules that print them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.cli import plain
from scalems.errors import ScalemsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from scalems.doctor import Diagnosis
    from scalems.env.compare import Difference
    from scalems.env.explain import Explanation
    from scalems.env.finding import Finding
    from scalems.env.initialize import Initialized
    from scalems.env.inventory import Collection, Kept
    from scalems.env.locking import LockResult, Notify
    from scalems.env.outcome import SyncResult
    from scalems.env.parity import Parity
    from scalems.env.redefine import DefinitionReport
    from scalems.env.rollback import RollbackResult
    from scalems.env.verification import Report
    from scalems.env.watch import Watched
    from scalems.resource.definition import Change

_MARK = {None: ("same", "green"), "error": ("differs", "red"), "warning": ("warning", "yellow")}


def console(*, stderr: bool = False) -> Console:
    """Return a console that is plain where nobody looks."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=not stream.isatty(), width=None)


def print_json(data: Any) -> None:
    """Print data for scripts."""
    print(json.dumps(data, indent=2))


def print_json_line(data: Any) -> None:
    """Print data for scripts that read a line at a time."""
    print(json.dumps(data), flush=True)


def print_error(error: ScalemsError) -> None:
    """Print an error's cause and remedy on standard error."""
    out = sys.stderr
    print(plain.styled("error:", "bold red", stream=out), error.cause, file=out)
    if error.remedy:
        print(plain.styled("remedy:", "bold green", stream=out), error.remedy, file=out)


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
            _print_diff(result.diff)
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
    print(f"{plain.styled(report.label, 'bold')}  ({report.depth.value} check)")
    print(parity_table(report.parity))
    builds: list[list[str | tuple[str, str]]] = []
    for env in report.synced.envs:
        row: list[str | tuple[str, str]] = [env.name, env.role.value]
        if known := report.manifests.get(env.name):
            row += [_when(known.created), known.engine, f"{known.files:,}"]
            row.append(known.content_digest[:16])
        else:
            row += [("not usable", "red"), "", "", ""]
        builds.append(row)
    print(plain.table(("environment", "role", "built", "with", "files", "content"), builds))
    print_findings(report.findings)
    if report.ok:
        print(plain.styled(f"{report.label} is ready", "green"))


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings, the worst first, then each remedy once."""
    shown = sorted(findings, key=lambda finding: finding.severity.value)
    for finding in shown[:50]:
        colour = "red" if finding.severity.value == "error" else "yellow"
        print(f"{plain.styled(finding.severity.value, colour)}  {finding}")
    if len(shown) > 50:
        print(f"... and {len(shown) - 50} more; --json lists them all")
    for remedy in dict.fromkeys(finding.remedy for finding in shown if finding.remedy):
        print(plain.styled("remedy:", "bold green"), remedy)


def parity_table(parity: Parity) -> str:
    """Return the table of who runs what."""
    return plain.table(
        ("", *parity.sides, "parity"),
        [
            [
                row.what,
                *(row.values.get(side) or "-" for side in parity.sides),
                _MARK[row.severity.value if row.severity else None],
            ]
            for row in parity.rows
        ],
    )


def print_initialized(result: Initialized) -> None:
    """Print what `env init` wrote, and what comes next."""
    out = console()
    for path in result.written:
        out.print(f"[green]written[/]  {path}", soft_wrap=True)
    for path in result.kept:
        out.print(f"[yellow]kept[/]     {path}", soft_wrap=True)
    if result.wanted.source:
        count = len(result.wanted.dependencies) + len(result.wanted.packages)
        out.print(f"{count} dependencies taken from {result.wanted.source}", soft_wrap=True)
    for line in result.wanted.left:
        out.print("[yellow]not taken:[/] ", end="")
        out.print(line, markup=False, soft_wrap=True)
    out.print(f"edit them, then: scalems env sync --resource {result.label}")


def print_builds(builds: Sequence[Kept], folder: Path) -> None:
    """Print all builds that are there."""
    out = console()
    if not builds:
        out.print(f"there are no builds in {folder}", soft_wrap=True)
        return
    table = _table("build", "Python", "built (UTC)", "size", "used by")
    for column in table.columns[:4]:
        column.no_wrap = True
    for one in builds:
        known = one.manifest
        table.add_row(
            one.folder.name,
            known.interpreter["version"] if known else "[red]not usable[/]",
            _when(known.created)[:-3] if known else "",
            size(one.bytes),
            "\n".join(_users(one)) or "[dim]nothing[/]",
        )
    out.print(table)
    out.print(f"{size(sum(one.bytes for one in builds))} in {folder}", soft_wrap=True)


def print_description(described: Mapping[str, Any]) -> None:
    """Print all that is known of an environment."""
    out = console()
    known = dict(described)
    distributions = known.pop("distributions")
    known["bytes"] = size(known["bytes"])
    for key, value in known.items():
        lines = (
            [f"{name}: {inner}" for name, inner in value.items()]
            if isinstance(value, dict)
            else value
            if isinstance(value, list)
            else [("yes" if value else "no") if isinstance(value, bool) else value]
        )
        for index, line in enumerate(lines):
            out.print(f"[bold]{'' if index else key:<17}[/] ", end="")
            out.print(str(line), markup=False, soft_wrap=True)
    out.print(f"[bold]{'distributions':<17}[/] {len(distributions)}")
    table = _table("distribution", "version")
    for name, version in distributions.items():
        table.add_row(name, version)
    out.print(table)


def print_difference(difference: Difference) -> None:
    """Print what differs between two sides."""
    out = console()
    if difference.same:
        out.print(
            f"[green]the same:[/] {' and '.join(difference.sides)} "
            f"({difference.common} distributions)",
            soft_wrap=True,
        )
        return
    table = _table("", *difference.sides)
    for rows in (difference.facts, difference.distributions, difference.files):
        for name, (one, other) in rows.items():
            table.add_row(name, one or "[red]-[/]", other or "[red]-[/]")
    out.print(table)
    out.print(f"{difference.common} distributions are the same")


def print_explanation(explained: Explanation) -> None:
    """Print why a package is where it is."""
    out = console()
    for reason in explained.reasons:
        locked = reason.locked or "not in its lock"
        out.print(f"[bold]{reason.env}[/]: {explained.package} {locked}", soft_wrap=True)
        for what, values in (
            ("asked for by", reason.asked),
            ("comes with", [" > ".join(reason.chain)] if len(reason.chain) > 1 else []),
            ("limited by", reason.limits),
        ):
            for value in values:
                out.print(f"  {what:<13}", end="")
                out.print(value, markup=False, soft_wrap=True)
    table = _table("installed in", "version")
    for where, version in explained.installed.items():
        table.add_row(where, version)
    out.print(table)


def print_rollback(result: RollbackResult, report: Report | None) -> None:
    """Print which generation is in use now, or would be, and whether a run can start."""
    out = console()
    label, number = result.after.label, result.after.generation
    table = _table("environment", f"generation {result.before.generation}", f"{number}")
    before = {env.name: env.folder.name for env in result.before.envs}
    after = {env.name: env.folder.name for env in result.after.envs}
    for name in sorted(before.keys() | after.keys()):
        table.add_row(name, before.get(name, "-"), after.get(name, "-"))
    out.print(table)
    if report is None:
        _print_diff(result.diff)
        out.print("[yellow]dry run:[/] nothing was changed")
        return
    print_findings(report.findings)
    if report.ok:
        out.print(f"[green]{label} is ready[/], at generation {number}, until the next sync")


def print_collection(result: Collection, *, dry_run: bool) -> None:
    """Print which builds were removed, or would be."""
    out = console()
    for one in result.builds:
        out.print(f"  {one.folder.name}  {size(one.bytes)}", soft_wrap=True)
    for synced in result.forgotten:
        out.print(f"  generation {synced.generation} of {synced.label}", soft_wrap=True)
    count = len(result.builds)
    builds = "1 build" if count == 1 else f"{count} builds"
    verb = "would be removed" if dry_run else "removed"
    out.print(f"{builds} {verb}, {size(result.bytes)}")


def print_watched(change: Watched) -> None:
    """Print what has changed of a resource that is watched."""
    out = console()
    state = "[green]ready[/]" if change.ok else "[red]not ready[/]"
    out.print(f"{_when(change.time)}  [bold]{change.label}[/] {state}")
    if change.error:
        out.print(change.error, markup=False, soft_wrap=True)
    print_findings(change.appeared)
    for finding in change.gone:
        out.print("[green]mended[/]  ", end="")
        out.print(str(finding), markup=False, soft_wrap=True)


def print_rows(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print a table of values by column."""
    out = console()
    if not rows:
        out.print(empty, markup=False)
        return
    table = _table(*rows[0])
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    out.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "[green]yes[/]" if value else ""
    return _plain(str(value))


def print_resource(data: Mapping[str, Any]) -> None:
    """Print the fields of a definition, and what a pilot would ask for."""
    out = console()
    out.print(f"[bold]{data['resource']}[/]: {data['environment']}", soft_wrap=True)
    table = _table("field", "value", "set by", "RP's own")
    for field in data["fields"]:
        colour = {"scalems": "green", "the user's file": "yellow"}.get(field["origin"], "dim")
        table.add_row(
            field["key"],
            _plain(field["value"]),
            f"[{colour}]{field['origin']}[/]",
            "" if field["shipped"] is None else _plain(field["shipped"]),
        )
    out.print(table)
    if request := data["request"]:
        out.print(
            f"a pilot would ask for {request['nodes']} nodes, {request['cores']} cores and "
            f"{request['gpus']} GPUs"
        )


def print_definition_report(report: DefinitionReport) -> None:
    """Print what a look at a definition found."""
    out = console()
    mark = "[green]good[/]" if report.ok else "[red]not ready[/]"
    out.print(f"[bold]{report.label}[/]  {mark}  {report.environment}", soft_wrap=True)
    print_findings(report.findings)


def print_change(change: Change, backup: Path | None, *, dry_run: bool) -> None:
    """Print the diff of a definition."""
    out = console()
    if not change.diff:
        out.print(f"{change.label} is written as it must be: {change.path}", soft_wrap=True)
        return
    _print_diff(change.diff)
    verb = "would be changed" if dry_run else "written"
    out.print(f"RP resource definition {verb}: {change.path}", soft_wrap=True)
    if backup:
        out.print(f"its former text is kept in {backup}", soft_wrap=True)


def _print_diff(diff: str) -> None:
    out = console()
    for line in diff.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.print(line, style=style, markup=False, soft_wrap=True)


def _plain(value: Any) -> str:
    from rich.markup import escape

    return escape(value if isinstance(value, str) else json.dumps(value))


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what one check of the doctor found."""
    out = console()
    colour = {"good": "green", "warning": "yellow", "error": "red"}[diagnosis.verdict.value]
    out.print(f"[{colour}]{diagnosis.verdict.value:<8}[/] [bold]{diagnosis.subject}[/]: ", end="")
    out.print(diagnosis.detail, markup=False, soft_wrap=True)
    if diagnosis.remedy:
        out.print("         [green]remedy:[/] ", end="")
        out.print(diagnosis.remedy, markup=False, soft_wrap=True)


def print_verdict(found: Sequence[Diagnosis]) -> None:
    """Print the last line of the doctor."""
    verdicts = [diagnosis.verdict.value for diagnosis in found]
    counts = {name: verdicts.count(name) for name in ("error", "warning")}
    if not any(counts.values()):
        console().print("[green]nothing was found[/] that makes runs fail")
        return
    told = [f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n]
    console().print(f"{' and '.join(told)}; runs {'fail' if counts['error'] else 'may fail'}")


def _users(one: Kept) -> Iterator[str]:
    """Yield who uses a build now, then whose generations it is kept for."""
    numbers: dict[str, list[str]] = {}
    for generation in one.generations:
        label, _, number = generation.rpartition("#")
        numbers.setdefault(label, []).append(f"#{number}")
    if one.leased:
        yield "[cyan]a run[/]"
    for label in one.current:
        yield f"[green]{label}[/] {' '.join(numbers.pop(label, []))}"
    for label, found in numbers.items():
        yield f"[dim]kept: {label} {' '.join(found)}[/]"


def _when(created: str) -> str:
    return created.replace("T", " ").partition("+")[0]


def size(count: int) -> str:
    """Return a number of bytes as people write it."""
    from rich.filesize import decimal

    return decimal(count)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
