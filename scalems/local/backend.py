"""Calls in processes of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scalems.workflow.call import ENV_VARIABLE
from scalems.workflow.pool import CallPool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scalems.env import Build
    from scalems.workflow.backend import Done
    from scalems.workflow.call import Call


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalBackend:
    """Runs calls in a pool of processes, of this Python or of a Task venv.

    :param workers: number of processes.
    :param build: the Task venv that calls run in; without it they run in this Python.
    :param label: where the calls run, for people.
    """

    name = "local"

    def __init__(self, *, workers: int, build: Build | None = None, label: str = "local") -> None:
        self.label = label
        self._workers = workers
        self._unfinished = 0
        if build is None:
            self._pool = CallPool(workers)
        else:
            self._pool = CallPool(
                workers, python=build.python, env={ENV_VARIABLE: build.content_digest}
            )

    def start(self) -> None:
        """Do nothing: processes are started as calls need them."""

    def submit(self, call: Call, done: Done) -> None:
        """Queue a call."""
        self._pool.submit(call, done)

    def cancel(self, call_id: int) -> bool:
        """Withdraw a call, or end its processes."""
        return self._pool.cancel(call_id)

    def close(self, *, abort: bool = False) -> None:
        """End all processes."""
        self._pool.close(kill=abort)

    def status(self) -> Mapping[str, str]:
        """Return the number of processes."""
        return {"processes": str(self._workers)}
