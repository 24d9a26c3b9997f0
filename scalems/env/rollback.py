"""`env rollback`: return to an earlier generation of a resource's environments."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalems.env import guard, layout, state
from scalems.env.check import Depth
from scalems.env.finding import Finding, not_ready
from scalems.env.locking import Notify
from scalems.env.state import Synced, SyncedEnv
from scalems.env.verification import find, see
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.failpoint import failpoint
from scalems.host import filelock
from scalems.resource import definition


@dataclass(frozen=True, kw_only=True)
class RollbackResult:
    """A resource after a rollback.

    :param diff: what changed in RP's resource file, as a unified diff.
    :param backup: the former text of that file.
    """

    before: Synced
    after: Synced
    diff: str
    backup: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.after.label,
            "from": self.before.generation,
            "to": self.after.generation,
            "envs": [{"name": new.name, "folder": str(new.folder)} for new in self.after.envs],
            "definition": {
                "path": str(self.after.definition),
                "diff": self.diff,
                "backup": str(self.backup) if self.backup else None,
            },
        }


def rollback(
    label: str, *, to: int | None = None, dry_run: bool = False, notify: Notify
) -> RollbackResult:
    """Use the builds of an earlier generation again, and tell RP of them.

    They stay in use until the next `env sync`, which makes what the specs say.

    :param to: number of the generation; by default the one before that in use.
    :raises UsageError: there is no such generation.
    :raises EnvironmentNotReady: a build of it is gone or has changed; nothing was changed.
    """
    place = layout.default()
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(guard.changing(place, label, notify=notify))
        before = find(label)
        after = _chosen(before, state.generations(place, label), to)
        notify(f"checking generation {after.generation}")
        _prove(after)
        failpoint("rollback.proved")
        backup = None
        if not dry_run:
            stack.enter_context(filelock.hold(place.definition_lock))
        change = definition.restore(label, after.fields)
        if not dry_run:
            backup = definition.write(change, backups=place.backups()) if change.diff else None
            failpoint("rollback.defined")
            if after.host:
                from scalems.env.remote import far  # most resources are of this machine

                far.record(after)
            state.write(place, _pinned(after))
    return RollbackResult(before=before, after=after, diff=change.diff, backup=backup)


def _chosen(used: Synced, known: list[Synced], to: int | None) -> Synced:
    others = [one for one in known if one.generation != used.generation]
    if to is None:
        older = [one for one in others if one.generation < used.generation]
        if older:
            return older[-1]
        cause = f"{used.label} has no generation before number {used.generation}, which is in use"
    else:
        for one in others:
            if one.generation == to:
                return one
        here = "is in use already" if to == used.generation else "does not exist, or was removed"
        cause = f"generation {to} of {used.label} {here}"
    numbers = ", ".join(str(one.generation) for one in others)
    raise UsageError(
        cause,
        remedy=f"choose one of: {numbers}; see `scalems env list`"
        if numbers
        else "there is none to return to; `scalems env sync` makes them",
    )


def _prove(synced: Synced) -> None:
    findings: list[Finding] = []
    for seen in see(synced, synced.builds, depth=Depth.NORMAL):
        # What RP is told is of the present generation.
        findings += [one for one in seen.findings if not one.kind.startswith("RP resource")]
    if findings:
        problem = not_ready(synced.label, findings)
        raise EnvironmentNotReady(
            f"generation {synced.generation} cannot be used:\n{problem.cause}",
            remedy="choose another generation (`scalems env list`); nothing was changed",
        )


def _pinned(synced: Synced) -> Synced:
    """Let a check accept the specs as they are now, and the next sync look at all again."""
    return replace(synced, envs=tuple(map(_as_now, synced.envs)), key="")


def _as_now(env: SyncedEnv) -> SyncedEnv:
    base = _as_now(env.base) if env.base else None
    return replace(env, spec_digest=state.file_digest(env.spec), base=base)
