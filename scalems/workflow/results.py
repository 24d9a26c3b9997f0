"""The port through which a workflow takes results of former runs, and keeps its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.call import Outcome
    from scalems.workflow.options import TaskOptions


class Results(Protocol):
    """What a graph needs of a store of results. Its methods may be called from any thread."""

    def identify(
        self,
        function: Callable[..., Any],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        matters: Mapping[str, object],
    ) -> Any:
        """Return what a call is; futures in its arguments are slots.

        :param matters: options of the task that its value may depend on.
        """
        ...

    def submitted(
        self,
        ident: int,
        name: str,
        call: Any,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        tags: Sequence[str] = (),
    ) -> None:
        """Record a task of this run.

        :param call: what it is; ``None`` if its result is not to be kept.
        """
        ...

    def find(
        self, ident: int, call: Any, values: Sequence[bytes], givers: Sequence[int] = ()
    ) -> tuple[str, Outcome | None]:
        """Return the key of a call, and the outcome that it had in a former run, if any.

        :param values: what the futures in its arguments gave, as it travels.
        :param givers: the numbers of the tasks that gave them; 0 for what is none of this run.
        """
        ...

    def begin_many(
        self,
        function: Callable[..., Any],
        name: str,
        ids: Sequence[int],
        items: Sequence[tuple[object, ...]],
        options: TaskOptions,
    ) -> tuple[list[str], dict[int, Outcome]]:
        """Record tasks that call one function, and look all of them up.

        :param ids: their numbers.
        :param items: the arguments of each; there are no futures in them.
        :return: the key of each, and the outcomes that some had in a former run, by their
            places; these are recorded as being used again.
        """
        ...

    def finished_many(
        self,
        name: str,
        ids: Sequence[int],
        keys: Sequence[str],
        answers: Answers,
        places: Sequence[int],
        then: Callable[[], None],
    ) -> None:
        """Keep what items of a block have given.

        :param ids: of the tasks.
        :param keys: of the calls; empty ones are not kept for later runs.
        :param places: of the tasks in the block.
        :param then: called when all of it is durable.
        """
        ...

    def reused(self, key: str, outcome: Outcome) -> None:
        """Record that a result was taken from a former run."""
        ...

    def finished(
        self, name: str, key: str, outcome: Outcome, error: str, then: Callable[[], None]
    ) -> None:
        """Keep an outcome.

        :param key: of the call; empty if its result is not kept for later runs.
        :param error: why the task failed; empty if it did not.
        :param then: called when it is durable.
        """
        ...

    def why(self, ident: int) -> Sequence[str]:
        """Return why a task of this run ran rather than be taken from a former run, in words."""
        ...

    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """Return the versions in environments of results, by fingerprint."""
        ...

    def ended(self, ident: int, state: str, error: str) -> None:
        """Record that a task ended without an outcome: cancelled, or never run."""
        ...
