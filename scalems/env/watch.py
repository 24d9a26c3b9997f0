"""`env watch`: tell when environments drift, and when they are well again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from scalems.env.check import Depth
from scalems.env.finding import Finding
from scalems.env.verification import examine
from scalems.errors import ScalemsError


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A resource at a moment when something of it had changed.

    :param time: UTC, ISO 8601.
    :param appeared: findings that were not there before.
    :param gone: those that no longer are.
    :param error: why it could not be looked at.
    """

    label: str
    time: str
    ok: bool
    appeared: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.label,
            "time": self.time,
            "ok": self.ok,
            "appeared": [finding.to_dict() for finding in self.appeared],
            "gone": [finding.to_dict() for finding in self.gone],
            "error": self.error,
        }


def changes(labels: Sequence[str], *, every: float) -> Iterator[Watched]:
    """Look at resources again and again; yield each at first, then whenever something changes.

    :param every: seconds between two looks.
    """
    known: dict[str, Watched | None] = dict.fromkeys(labels)
    findings: dict[str, tuple[Finding, ...]] = dict.fromkeys(labels, ())
    pause = threading.Event()
    while True:
        for label in labels:
            seen, found = _look(label, findings[label])
            before = known[label]
            if before is None or seen.appeared or seen.gone or seen.error != before.error:
                yield seen
            known[label], findings[label] = seen, found
        pause.wait(every)


def _look(label: str, before: tuple[Finding, ...]) -> tuple[Watched, tuple[Finding, ...]]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        report = examine(label, depth=Depth.NORMAL)
    except ScalemsError as error:  # such as a spec that is being edited
        return Watched(label=label, time=now, ok=False, error=error.cause), before
    appeared = tuple(one for one in report.findings if one not in before)
    gone = tuple(one for one in before if one not in report.findings)
    seen = Watched(label=label, time=now, ok=report.ok, appeared=appeared, gone=gone)
    return seen, report.findings
