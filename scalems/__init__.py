"""Verified Python environments and fast ensembles of simulations on RADICAL-Pilot.

A script marks its functions with :func:`task` and its entry point with
:func:`app`; ``python -m scalems.local`` or ``python -m scalems.radical`` runs it.
The environment manager is the ``scalems env`` command.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalems.workflow.app import app
    from scalems.workflow.executable import Completed, ExecutableError, executable
    from scalems.workflow.future import Future, gather
    from scalems.workflow.graph import DependencyError
    from scalems.workflow.task import task

__all__ = [
    "Completed",
    "DependencyError",
    "ExecutableError",
    "Future",
    "app",
    "executable",
    "gather",
    "task",
]

_MODULES = {
    "Completed": "executable",
    "DependencyError": "graph",
    "ExecutableError": "executable",
    "Future": "future",
    "app": "app",
    "executable": "executable",
    "gather": "future",
    "task": "task",
}


def __getattr__(name: str) -> object:
    # Nothing is loaded before it is used: `scalems --help` must stay instant.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.workflow.{_MODULES[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
