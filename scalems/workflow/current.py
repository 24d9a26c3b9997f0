"""The run that tasks belong to."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from scalems.errors import UsageError
from scalems.workflow.app import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scalems.workflow.future import Future
    from scalems.workflow.graph import Graph

_current: Graph | None = None
_offer: Callable[[], Graph] | None = None
_children: WeakKeyDictionary[Future[Any], set[Any]] = WeakKeyDictionary()


def graph(what: str) -> Graph:
    """Return the graph of the running workflow.

    :param what: what was done that needs one, for the error: "the task 'f' was called".
    :raises UsageError: if no workflow is running.
    """
    if _current is None:
        _no_workflow(what)
    return _current


def environments() -> Mapping[str, Mapping[str, str]]:
    """Return the versions in environments that results are of, by fingerprint."""
    return _current.environments() if _current is not None else {}


def why(ident: int) -> Sequence[str]:
    """Return why a task of the running workflow ran, as far as its store can tell."""
    results = _current.results if _current is not None else None
    return results.why(ident) if results is not None else ()


@contextlib.contextmanager
def activated(graph: Graph) -> Iterator[Graph]:
    """Make `graph` the one that tasks are added to, in all threads of this process."""
    global _current
    before, _current = _current, graph
    try:
        yield graph
    finally:
        _current = before


@contextlib.contextmanager
def offered(begin: Callable[[], Graph]) -> Iterator[None]:
    """Offer a graph to what a script runs while it is loaded, by :func:`scalems.run`.

    :param begin: returns the graph, the same one each time.
    """
    global _offer
    before, _offer = _offer, begin
    try:
        yield
    finally:
        _offer = before


def taken() -> Graph | None:
    """Return the graph of the running workflow, or the one that is offered; ``None`` if neither."""
    return _current if _current is not None or _offer is None else _offer()


_subgraph: contextvars.ContextVar[Future[Any] | None] = contextvars.ContextVar(
    "_subgraph", default=None
)


@contextlib.contextmanager
def within(subgraph: Future[Any]) -> Iterator[None]:
    """Make what is called in this context a part of a subgraph."""
    token = _subgraph.set(subgraph)
    try:
        yield
    finally:
        _subgraph.reset(token)


def child(future: Future[Any]) -> None:
    """Note that a task is a part of the subgraph that calls it, if one does.

    :raises concurrent.futures.CancelledError: if that was cancelled.
    """
    subgraph = _subgraph.get()
    if subgraph is None:
        return
    if subgraph.cancelled():
        raise CancelledError(f"{subgraph.name} was cancelled")
    children = _children.setdefault(subgraph, set())
    children.add(future)
    future.add_done_callback(children.discard)


def children(futures: Callable[[], Iterable[Future[Any]]]) -> None:
    """Note that tasks are parts of the subgraph that calls them, see :func:`child`.

    :param futures: asked for them if there is one.
    """
    if _subgraph.get() is not None:
        for future in futures():
            child(future)


def cancel_children(subgraph: Future[Any]) -> None:
    """Cancel the tasks that a subgraph has called and that have not ended."""
    for future in list(_children.get(subgraph, ())):
        future.cancel()


def _no_workflow(what: str) -> NoReturn:
    session = "in `with scalems.Session():`, or after `session = scalems.Session().open()`"
    script = (
        "call tasks in the function marked by @scalems.app, and run the script by:\n"
        f"    {command()}\n  or call them {session}"
    )
    prompt = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    raise UsageError(
        f"{what[:1].upper()}{what[1:]}, and no workflow is running.",
        remedy=f"call tasks {session}" if prompt else script,
    )
