"""The run that tasks belong to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

from scalems.errors import UsageError
from scalems.workflow.app import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scalems.workflow.graph import Graph

_current: Graph | None = None


def graph(what: str) -> Graph:
    """Return the graph of the running workflow.

    :param what: what was done that needs one, for the error: "the task 'f' was called".
    :raises UsageError: if no workflow is running.
    """
    if _current is None:
        _no_workflow(what)
    return _current


@contextlib.contextmanager
def activated(graph: Graph) -> Iterator[Graph]:
    """Make `graph` the one that tasks are added to, in all threads of this process."""
    global _current
    before, _current = _current, graph
    try:
        yield graph
    finally:
        _current = before


def _no_workflow(what: str) -> NoReturn:
    raise UsageError(
        f"{what[:1].upper()}{what[1:]}, and no workflow is running.",
        remedy="call tasks in the function marked by @scalems.app, and run the script by:\n"
        f"    {command()}",
    )
