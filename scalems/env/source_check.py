"""Whether the local packages of an environment still are what was built."""

from __future__ import annotations

from collections.abc import Iterator

from scalems.env import source
from scalems.env.finding import Finding
from scalems.env.state import SyncedEnv

_NAMED = 3  # files in one finding


def check(env: SyncedEnv, *, remedy: str) -> Iterator[Finding]:
    """Compare the source files of an environment's local packages with those that were synced.

    A folder that is gone asks nothing, unless the build links to it.
    """
    for name, one in env.sources.items():
        if not one.folder.is_dir():
            if one.editable:
                yield Finding(
                    env=env.name,
                    kind="missing source of an editable package",
                    subject=f"{name}: {one.folder}",
                    remedy=remedy,
                )
            continue
        try:
            changed = source.changes(one.folder, one.table, without=env.spec.parent)
        except OSError as error:
            changed = [f"cannot be read: {error}"]
        if changed:
            more = len(changed) - _NAMED
            listed = ", ".join(changed[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            kind = "source changed since the sync"
            yield Finding(env=env.name, kind=kind, subject=f"{name}: {listed}", remedy=remedy)
