"""The executor of the local backend."""

from __future__ import annotations

import os

from scalems import executor
from scalems.local.command import make_backend, make_parser


class Executor(executor.Executor):
    """Runs calls in processes of this machine; see :class:`scalems.executor.Executor`.

    :param max_workers: calls at a time; by default the number of cores.
    :param venv: name of the Task venv to run them in; without it, this Python.
    :param resource: label of the resource that the Task venv belongs to.
    :param store: folder where results are kept; without it they are not.
    :raises UsageError: there is no such resource or Task venv.
    :raises EnvironmentNotReady: the Task venv is not what was built.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        venv: str | None = None,
        resource: str | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        options = {"max_workers": max_workers, "venv": venv, "resource": resource}
        super().__init__(make_parser(), make_backend, options, store)
