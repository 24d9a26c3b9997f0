"""Verified Python environments and fast ensembles of simulations on RADICAL-Pilot.

A script marks its functions with :func:`task` and its entry point with
:func:`app`; ``python -m scalems.local`` or ``python -m scalems.radical`` runs it.
The environment manager is the ``scalems env`` command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalems.workflow import Future, app, executable, gather, task

__all__ = ["Future", "app", "executable", "gather", "task"]


def __getattr__(name: str) -> object:
    # Nothing is loaded before it is used: `scalems --help` must stay instant.
    if name in __all__:
        import scalems.workflow

        return getattr(scalems.workflow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
