"""Who may change the environments of a resource: one command at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from scalems.host import filelock

if TYPE_CHECKING:
    from scalems.env.layout import Layout
    from scalems.env.locking import Notify


@contextlib.contextmanager
def changing(place: Layout, label: str, *, notify: Notify) -> Iterator[None]:
    """Be the only one that changes a resource, while no build is removed.

    Lock, build, switch and definition belong together. What is written meanwhile can be read
    by whoever may enter the state folder, however the user's umask is.

    :param notify: told whom it waits for, if it must.
    """
    guard = place.resource(label).with_suffix(".lock")
    with (
        filelock.hold(
            place.sync_lock,
            shared=True,
            on_wait=waiting(notify, "builds are being removed"),
        ),
        filelock.hold(guard, on_wait=waiting(notify, f"another sync of {label} is running")),
    ):
        former = os.umask(0o022)
        try:
            yield
        finally:
            os.umask(former)


def waiting(notify: Notify, why: str) -> Callable[[str], None]:
    """Return what tells for whom a command waits."""
    return lambda who: notify(f"{why}; waiting for {who}")
