"""The one exception tree of scalems.

Every error that a user can meet names its cause and, where there is one, the
command or the edit that mends it.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes shared by every scalems command line."""

    DONE = 0
    """All done."""
    FAILED = 1
    """The workflow, or the operation asked for, failed."""
    USAGE = 2
    """Wrong use: options, specs, configs or scripts that cannot be what was meant."""
    NOT_READY = 3
    """The environments are not ready: missing, changed, or different from each other."""


class ScalemsError(Exception):
    """Base of all errors raised by scalems.

    :param cause: what is wrong, in one or more plain sentences.
    :param remedy: the command or edit that mends it, if there is one.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, cause: str, *, remedy: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        if self.remedy:
            return f"{self.cause}\n  remedy: {self.remedy}"
        return self.cause


class UsageError(ScalemsError):
    """The command line, a spec, a config or a script is not what it must be."""

    exit_code = ExitCode.USAGE


class EnvironmentNotReady(ScalemsError):
    """An environment is missing, was changed, or differs from its peers."""

    exit_code = ExitCode.NOT_READY


class BackendError(ScalemsError):
    """A backend could not start, or was lost while work was in flight."""


class RunStopped(ScalemsError):
    """The run was stopped, since a task failed and ``--on-error stop`` says so."""


class TaskError(ScalemsError):
    """A task ended without a result that could be brought back as it was."""


class TaskTimeout(TaskError, TimeoutError):
    """A task has run for longer than its ``timeout``; its processes were ended."""


class TaskLost(TaskError):
    """The process that ran a task ended before the task did (killed, exited, out of memory)."""


class SerializationError(UsageError):
    """A function, an argument or a result cannot be sent to another process."""
