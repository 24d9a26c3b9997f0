"""RP's definitions of synced resources: are they still right, and writing them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env import layout, state
from scalems.env.finding import Finding, Severity, errors
from scalems.env.state import Synced
from scalems.env.verification import find, sync_command
from scalems.errors import ScalemsError, UsageError
from scalems.host import filelock
from scalems.resource import definition, fields
from scalems.resource.config import Project
from scalems.resource.definition import Change, DefinitionError


@dataclass(frozen=True, kw_only=True)
class DefinitionReport:
    """What a look at a definition found.

    :param environment: what RP does about the Pilot's environment.
    """

    label: str
    environment: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether RP can use it."""
        return not errors(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.label,
            "ok": self.ok,
            "environment": self.environment,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check(labels: Sequence[str] = ()) -> list[DefinitionReport]:
    """Check definitions against the installed RP, and against what was synced.

    :param labels: by default all that the user's files name.
    :raises UsageError: unknown resource; the user's file is not valid JSON.
    """
    known = fields.known_labels()
    wanted = labels or [label for label, origin in known.items() if fields.USER in origin]
    reports = []
    for label in wanted:
        effective = definition.effective(label)
        reports.append(
            DefinitionReport(
                label=label,
                environment=fields.mode(effective),
                findings=tuple(_findings(label, effective)),
            )
        )
    return reports


def write(label: str, *, dry_run: bool) -> tuple[Change, Path | None]:
    """Write the definition of a synced resource again.

    :return: what changed, and the backup of the former text.
    :raises EnvironmentNotReady: the resource was never synced.
    """
    place = layout.default()
    if not place.is_ours:
        place = layout.personal()  # of a shared folder only the definition is this user's own
    guard = place.resource(label).with_suffix(".lock")
    with filelock.hold(guard), filelock.hold(place.definition_lock):
        synced = find(label)
        change = _wanted(synced)
        backup = None
        if change.diff and not dry_run:
            backup = definition.write(change, backups=place.backups())
    return change, backup


def _wanted(synced: Synced) -> Change:
    """Work out what a sync would write; without its project, what it has written."""
    try:
        config = Project(synced.project).resource(synced.label)
    except UsageError:
        return definition.restore(synced.label, synced.fields)
    return definition.plan(config, virtenv=synced.pilot.folder / "venv")


def _findings(label: str, effective: dict[str, Any]) -> Iterator[Finding]:
    try:
        definition.validate(definition.restore(label, {}))
    except DefinitionError as error:
        yield Finding(
            env=label,
            kind="RADICAL-Pilot refuses it",
            subject=error.cause,
            remedy=error.remedy or "",
        )
    synced = state.read(layout.default(), label)
    if synced is None:
        return
    try:
        change = _wanted(synced)
    except ScalemsError as error:
        yield Finding(env=label, kind="cannot be worked out", subject=error.cause)
        return
    if change.diff:
        changed = [
            line[1:].strip().rstrip(",")
            for line in change.diff.splitlines()[2:]
            if line[:1] in "+-" and line[1:].strip()
        ]
        yield Finding(
            env=label,
            kind="stale: it is not what a sync would write now",
            subject="; ".join(changed[:6]),
            remedy=f"scalems resource write {label}",
        )
    virtenv = Path(str(effective.get("virtenv") or "/"))
    if not synced.host and not (virtenv / "bin" / "python").exists():
        yield Finding(
            env=label, kind="missing venv", subject=str(virtenv), remedy=sync_command(label)
        )
    if effective.get("virtenv_mode") != "use":
        yield Finding(
            env=label,
            kind="the Pilot venv is not static",
            subject=fields.mode(effective),
            severity=Severity.WARNING,
            remedy=sync_command(label),
        )
