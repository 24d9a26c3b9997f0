"""What a run shows while it is at work: a live line on a terminal, else plain lines."""

from __future__ import annotations

import builtins
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from scalems.workflow import call

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from scalems.workflow.graph import Graph
    from scalems.workflow.tally import Counts

INTERVAL = 5.0
"""Seconds between plain lines."""


class LiveView:
    """Shows a run on the standard error, as long as the context is open.

    :param quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.began = time.monotonic()
        self._quiet = quiet
        self._graph: Graph | None = None
        self._message = ""
        self._live: Live | None = None
        self._printer: threading.Thread | None = None
        self._ended = threading.Event()
        self._input: Any = input

    def notify(self, message: str) -> None:
        """Show a change of the backend's state."""
        self._message = message
        if not self._quiet and self._live is None:
            say(message)

    def watch(self, graph: Graph) -> None:
        """Show the tasks of this graph and the state of its backend from now on."""
        self._graph = graph

    @property
    def elapsed(self) -> float:
        """Seconds since the view was made."""
        return time.monotonic() - self.began

    def __enter__(self) -> LiveView:
        if self._quiet:
            return self
        if sys.stderr.isatty():
            self._live = self._make_live()
            self._live.start()
            self._input, builtins.input = builtins.input, self._ask
        else:
            self._printer = threading.Thread(target=self._print, name="scalems-view", daemon=True)
            self._printer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the view away; what was printed before stays."""
        self._ended.set()
        live, self._live = self._live, None
        if live is not None:
            builtins.input = self._input
            live.stop()
        if self._printer is not None:
            self._printer.join()

    # --- on a terminal --------------------------------------------------------------------

    def _ask(self, prompt: object = "") -> str:
        """Stand in for :func:`input`, which debuggers use too: nothing moves meanwhile."""
        live = self._live
        if live is None or threading.current_thread() is not threading.main_thread():
            return str(self._input(prompt))
        live.stop()
        try:
            return str(self._input(prompt))
        finally:
            self._live = self._make_live()  # the old one would wipe out the answer
            self._live.start()

    def _make_live(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        return Live(
            console=console,
            get_renderable=lambda: self._render(console),
            refresh_per_second=8,
            transient=True,
            # What goes to a file or a pipe must not come to the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )

    def _render(self, console: Console) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        if self._graph is None or not self._graph.counts().total:
            return Text("")
        counts = self._graph.counts()
        if not hasattr(self, "_spinner"):
            self._spinner = Spinner("dots", style="cyan")
        head = Table.grid(padding=(0, 1))
        facts = [Text(self._graph.backend.label, "bold"), Text(clock(self.elapsed), "cyan")]
        status = self._graph.backend.status()
        facts += [
            Text.assemble((f"{key} ", "dim"), value, overflow="ellipsis", no_wrap=True)
            for key, value in status.items()
        ]
        head.add_row(self._spinner, *facts)
        tasks = Table.grid(padding=(0, 1))
        width = max(10, min(30, console.width - 60))
        bar = ProgressBar(
            total=counts.total, completed=counts.ended, width=width, complete_style="green"
        )
        tasks.add_row(
            " ", bar, Text(f"{counts.ended}/{counts.total}", "bold"), Text.assemble(*_parts(counts))
        )
        failure = last_failure(self._graph)
        # What the backend said last is of interest until the first task has ended.
        note, style = (failure, "red") if counts.ended else (self._message, "dim")
        lines = [Text(f"  {note}", style, overflow="ellipsis", no_wrap=True)] if note else []
        return Group(head, tasks, *lines)

    # --- elsewhere ------------------------------------------------------------------------

    def _print(self) -> None:
        before = ""
        while not self._ended.wait(INTERVAL):
            if self._graph is None:
                continue
            counts = self._graph.counts()
            line = "".join(text for text, _ in _parts(counts))
            if counts.total and line != before:
                failure = last_failure(self._graph)
                say(
                    f"{clock(self.elapsed)}  {counts.ended}/{counts.total} tasks: {line}"
                    + (f"; {failure}" if failure else "")
                )
                before = line


def _parts(counts: Counts) -> list[tuple[str, str]]:
    """Return the states that have tasks, each with its style."""
    parts = [
        (counts.waiting, "waiting", "dim"),
        (counts.submitted, "submitted", "cyan"),
        (counts.done, "done", "green"),
        (counts.failed, "failed", "bold red"),
        (counts.cancelled, "cancelled", "yellow"),
    ]
    shown = [(f"{number} {word}", style) for number, word, style in parts if number]
    return [part for text, style in shown for part in ((", ", "dim"), (text, style))][1:]


def last_failure(graph: Graph) -> str:
    """Return one line about the task that failed last; empty if none did."""
    failures = graph.failures()
    if not failures:
        return ""
    failed = failures[-1]
    reason = (call.summary(failed.error).splitlines() or [""])[0]
    return f"last failure: {failed.future.name}#{failed.future.task_id}: {reason}"


def clock(seconds: float) -> str:
    """Return a time as ``0:00:12``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def say(text: str) -> None:
    """Print a line of ours on the standard error."""
    print(f"scalems: {text}", file=sys.stderr, flush=True)
