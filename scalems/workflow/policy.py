"""What becomes of a run when a task fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from scalems.errors import RunStopped, UsageError
from scalems.workflow.pickling import summary

if TYPE_CHECKING:
    from scalems.workflow.future import Future
    from scalems.workflow.options import TaskOptions

OnError = Literal["continue", "stop"]
"""Go on with all that does not depend on it, or end the run at once."""


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """What holds for tasks that do not say otherwise.

    :raises UsageError: a value cannot be what was meant.
    """

    on_error: OnError = "continue"
    retries: int = 0
    """How often a task that failed is run again."""

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise UsageError(f"on_error is 'continue' or 'stop', not {self.on_error!r}.")
        if type(self.retries) is not int or self.retries < 0:
            raise UsageError(f"retries is a whole number of at least 0, not {self.retries!r}.")

    def of(self, options: TaskOptions) -> TaskOptions:
        """Return the options of a task, with what it does not say itself."""
        if self.retries and options.retries is None:
            return options.replaced(retries=self.retries)
        return options

    def stops(self, options: TaskOptions) -> bool:
        """Return whether the failure of a task ends the run."""
        return (options.on_error or self.on_error) == "stop"


GO_ON = FailurePolicy()


def stopped(future: Future[Any], error: BaseException) -> RunStopped:
    """Return the error of a run that a failed task has ended."""
    return RunStopped(
        f"The run was stopped, since {future.name}#{future.task_id} failed: {summary(error)}",
        remedy="run it again: what has finished is kept; or let it go on: --on-error continue, "
        "on_error='continue' of the task or the session",
    )
