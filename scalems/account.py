"""Tells how a run went, when it has ended: errors, numbers by the names of tasks, a last line."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from scalems import tracebacks
from scalems.errors import ExitCode, RunStopped, ScalemsError, TaskError, TaskLost
from scalems.liveview import say
from scalems.signals import Interrupted
from scalems.workflow import call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scalems.store.store import Store
    from scalems.workflow.failures import Failed
    from scalems.workflow.graph import Graph

_SHOWN = 10  # failed tasks, or names, that are told of at the end
_TOGETHER = 3  # tasks that are named of many with one reason
_FUTURE = re.compile(r"\b(Future|Part)\b(?!.*\.result\(\))", re.DOTALL)  # in others' messages
_FORGOTTEN = "a Future is not its value: .result() waits for that; tasks take the Future as it is"
_OUTPUT_SHOWN = 2000  # characters of a failed task's output


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is to be told of a run that has ended.

    :param graph: of the run; ``None`` if it did not come so far.
    :param error: what ended the app before its end.
    :param elapsed: seconds that it took.
    :param printed: calls that have printed something.
    """

    graph: Graph | None
    error: BaseException | None = None
    store: Store | None = None
    elapsed: float = 0.0
    printed: int = 0
    quiet: bool = False
    verbose: bool = False

    def tell(self) -> int:
        """Print errors, the numbers and the last line; return the exit code."""
        code = 0 if self.error is None else self._report(self.error)
        unheard = self.graph.unheard() if self.graph is not None else []
        start_error = self.graph.error if self.graph is not None else None
        if start_error is not None and start_error is not self.error:
            code = code or self._report(start_error)
        told = bool(unheard) and (self.error is None or isinstance(self.error, SystemExit))
        if told:
            self._report_unheard(unheard)
            code = code or ExitCode.FAILED
        if self.graph is not None and not self.quiet:
            for line in [*self._numbers(), *([] if told else self._reasons())]:
                print(line, file=sys.stderr)
            if self.store is not None and self.store.writes and self.store.lost:
                say(f"warning: not all results were kept: {self.store.lost}")
            say(self._last_line())
        return code

    def json(self, code: int) -> str:
        """Return the summary as JSON."""
        return json.dumps(self.summary(code), indent=2)

    def write(self, path: Path, code: int) -> int:
        """Write the summary to a file; return the exit code, which says if that failed."""
        try:
            path.write_text(self.json(code) + "\n")
        except OSError as error:
            print(f"error: the report {path} was not written: {error.strerror}", file=sys.stderr)
            return code or ExitCode.FAILED
        return code

    def summary(self, code: int) -> dict[str, object]:
        """Return how the run went, for programs."""
        graph = self.graph
        counts = graph.counts() if graph is not None else None
        stopped = graph.stopped() if graph is not None else {}
        return {
            "exit_code": int(code),
            "backend": graph.backend.name if graph is not None else None,
            "label": graph.backend.label if graph is not None else None,
            "status": dict(graph.backend.status()) if graph is not None else {},
            "elapsed": round(self.elapsed, 3),
            "tasks": {
                state: getattr(counts, state, 0)
                for state in ("done", "reused", "failed", "cancelled")
            },
            "names": [
                {"name": name, "tasks": one.tasks, **asdict(one)}
                for name, one in (graph.tally.names() if graph is not None else {}).items()
            ],
            "store": None if self.store is None else str(self.store.folder),
            "run": None if self.store is None else self.store.run or None,
            "lost": None if self.store is None else self.store.lost or None,
            "error": None if self.error is None else call.summary(self.error),
            "failures": [
                {
                    "task": failed.future.name,
                    "id": failed.future.task_id,
                    "error": call.summary(failed.error),
                    "stopped": [
                        {"task": one.name, "id": one.task_id}
                        for one in stopped.get(failed.future.task_id, ())
                    ],
                }
                for failed in self._failures()
            ],
        }

    def _failures(self) -> list[Failed]:
        """Return the failed tasks in the order of their calls."""
        failures = self.graph.failures() if self.graph is not None else []
        return sorted(failures, key=lambda failed: failed.future.task_id)

    # --- errors ---------------------------------------------------------------------------

    def _report(self, error: BaseException) -> int:
        if isinstance(error, SystemExit):
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error, Interrupted):
            return error.exit_code
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        if isinstance(error, ScalemsError) and not isinstance(error, TaskError):
            print(f"error: {error}", file=sys.stderr)
            place = tracebacks.place(error)
            if place and not self.verbose:
                print(f"  at: {place}", file=sys.stderr)
            if self.verbose:
                print(tracebacks.text(error, whole=True), file=sys.stderr)
            return error.exit_code
        print(tracebacks.text(error, whole=self.verbose), end="", file=sys.stderr)
        if isinstance(error, TypeError) and _FUTURE.search(str(error)):
            print(f"  remedy: {_FORGOTTEN}", file=sys.stderr)
        self._print_output_of(error)
        return ExitCode.FAILED

    def _print_output_of(self, error: BaseException) -> None:
        """Print the end of what the task printed that raised `error`."""
        errors = (error, error.__cause__)
        for failed in self.graph.failures() if self.graph is not None else ():
            if failed.outcome is not None and failed.error in errors:
                name = f"{failed.future.name}#{failed.future.task_id}"
                lost = isinstance(failed.error, TaskLost)  # its message has the end of stderr
                for stream in ("stdout",) if lost else ("stdout", "stderr"):
                    text = getattr(failed.outcome, stream).rstrip()[-_OUTPUT_SHOWN:]
                    if text and text not in str(error):
                        print(f"\nthe end of {stream} of {name}:\n{text}", file=sys.stderr)

    def _report_unheard(self, unheard: Sequence[Failed]) -> None:
        count = len(unheard)
        what = "1 task" if count == 1 else f"{count} tasks"
        print(f"error: {what} failed, and nobody asked for the result:", file=sys.stderr)
        for line in self._grouped(unheard):
            print(f"  {line}", file=sys.stderr)
        if self.verbose:
            for failed in unheard[:_SHOWN]:
                print(tracebacks.text(failed.error, whole=True), file=sys.stderr)
        else:
            print("  remedy: take results by .result(); -v shows tracebacks", file=sys.stderr)

    # --- numbers --------------------------------------------------------------------------

    def _numbers(self) -> Iterator[str]:
        """Yield a line for each name of tasks, if there are several."""
        assert self.graph is not None
        names = self.graph.tally.names()
        if len(names) < 2:
            return
        shown = list(names.items())[:_SHOWN]
        wide = max(len(name) for name, _ in shown)
        for name, one in shown:
            parts = [f"{one.done} done" + (f" ({one.reused} reused)" if one.reused else "")]
            parts += [f"{one.failed} failed"] if one.failed else []
            parts += [f"{one.not_run} not run"] if one.not_run else []
            parts += [f"{one.cancelled} cancelled"] if one.cancelled else []
            parts += [f"{one.seconds:.1f} s"] if one.seconds else []
            yield f"  {name:{wide}}  {', '.join(parts)}"
        if len(names) > _SHOWN:
            yield f"  … and {len(names) - _SHOWN} more names of tasks: scalems show --names"

    def _reasons(self) -> Iterator[str]:
        """Yield why tasks failed, and what they stopped; not if that was told with the app's."""
        assert self.graph is not None
        failures = self._failures()
        known = (self.error, getattr(self.error, "__cause__", None))
        if len(failures) == 1 and (
            failures[0].error in known or isinstance(self.error, RunStopped)
        ):
            return
        for line in self._grouped(failures):
            yield f"  {line}"

    def _grouped(self, failures: Sequence[Failed]) -> Iterator[str]:
        """Yield a line for all tasks of one name that failed by the same reason."""
        assert self.graph is not None
        stopped = self.graph.stopped()
        groups: dict[tuple[str, str], list[int]] = {}
        for failed in failures:
            key = failed.future.name, call.summary(failed.error)
            groups.setdefault(key, []).append(failed.future.task_id)
        for (name, reason), ids in list(groups.items())[:_SHOWN]:
            which = ", ".join(f"{name}#{ident}" for ident in ids[:_TOGETHER])
            more = f" and {len(ids) - _TOGETHER} more" if len(ids) > _TOGETHER else ""
            names = Counter(one.name for ident in ids for one in stopped.get(ident, ()))
            after = "".join(f"; stopped {count} {name}" for name, count in names.items())
            yield f"{which}{more}: {reason}{after}"
        if len(groups) > _SHOWN:
            yield f"… and {len(groups) - _SHOWN} other reasons: scalems show --failed"

    def _last_line(self) -> str:
        assert self.graph is not None
        counts = self.graph.counts()
        done = f"{counts.done} done"
        if counts.reused:
            done += f" ({counts.reused} in a former run)"
        not_run = sum(one.not_run for one in self.graph.tally.names().values())
        parts = [f"{done}, {counts.failed - not_run} failed"]
        if not_run:
            parts.append(f"{not_run} not run")
        if counts.cancelled:
            parts.append(f"{counts.cancelled} cancelled")
        line = f"{', '.join(parts)} in {self.elapsed:.1f} s on {self.graph.backend.label}"
        if isinstance(self.error, Interrupted):
            line = f"ended by {self.error}: {line}"
        elif self.error is not None and not isinstance(self.error, SystemExit):
            line = f"the app failed: {line}"
        if self.printed and not self.verbose:
            line += f" ({self.printed} printed something: -v shows it)"
        return line
