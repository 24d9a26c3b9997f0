"""Opens the store of a run: to read and to write, or to read only where it may not be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalems.errors import ScalemsError
from scalems.store import database
from scalems.store.database import StoreError
from scalems.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scalems.workflow.backend import Backend


def opened(
    folder: Path,
    backend: Backend,
    *,
    script: str,
    argv: Sequence[str],
    rerun: bool,
    warn: Callable[[str], None],
) -> Store:
    """Return the store in a folder, in which a run has begun.

    If it may not be written, or the disk is full, it is read only, and `warn` is told so.

    :param rerun: take nothing out of it.
    :raises StoreError: it cannot be used.
    :raises UsageError: it was written by a newer version.
    """

    def begun(*, writes: bool) -> Store:
        store = Store(folder.absolute(), rerun=rerun, warn=warn, writes=writes)
        try:
            store.begin(
                script=script,
                argv=argv,
                backend=backend.name,
                label=backend.label,
                env=backend.environment,
                environments=backend.environments,
            )
        except BaseException:
            store.close()
            raise
        return store

    try:
        return begun(writes=True)
    except StoreError as error:
        if rerun or not database.only_unwritable(error):
            raise
        try:
            store = begun(writes=False)
        except ScalemsError:
            raise error from None
        store.lost = error.cause
        warn(f"warning: {error.cause}: results are taken from it, but new ones are not kept there")
        return store
