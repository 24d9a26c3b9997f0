"""The executor of the local backend."""

from __future__ import annotations

import os

from scalems import executor
from scalems.executor import given
from scalems.local.command import make_backend, make_parser
from scalems.workflow.policy import FailurePolicy, OnError


class Executor(executor.Executor):
    """Runs calls in processes of this machine; see :class:`scalems.executor.Executor`.

    :param max_workers: calls at a time; by default the number of cores.
    :param venv: name of the Task venv to run them in; without it, this Python.
    :param resource: label of the resource that the Task venv belongs to.
    :param pin: ``always``, ``never`` or ``auto``: whether each call has CPUs of its own.
    :param store: folder where results are kept; without it they are not.
    :param on_error: when a call fails, ``continue`` with the others, or ``stop`` all.
    :param retries: how often a call that failed is run again, if it does not say so itself.
    :raises UsageError: there is no such resource or Task venv.
    :raises EnvironmentNotReady: the Task venv is not what was built.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        venv: str | None = None,
        resource: str | None = None,
        pin: str = "auto",
        store: str | os.PathLike[str] | None = None,
        on_error: OnError = "continue",
        retries: int = 0,
    ) -> None:
        options = {"max_workers": max_workers, "venv": venv, "resource": resource, "pin": pin}
        policy = FailurePolicy(on_error=on_error, retries=retries)
        super().__init__(make_parser(), make_backend, given(options), store, policy=policy)
