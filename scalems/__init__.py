"""Verified Python environments and fast ensembles of simulations on RADICAL-Pilot.

A script marks its functions with :func:`task` and its entry point with
:func:`app`; ``python -m scalems.local`` or ``python -m scalems.radical`` runs it.
The environment manager is the ``scalems env`` command.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as of typing, which takes longer to load than all the rest of this
if TYPE_CHECKING:
    from scalems.errors import RunStopped, TaskError, TaskLost, TaskTimeout
    from scalems.session import Session, run
    from scalems.workflow.app import app
    from scalems.workflow.calls import map, reduce, starmap, submit
    from scalems.workflow.executable import Completed, ExecutableError, executable
    from scalems.workflow.file import File, FileError, file
    from scalems.workflow.future import Future
    from scalems.workflow.gathering import as_completed, gather, wait
    from scalems.workflow.graph import DependencyError
    from scalems.workflow.service import Address, Service, ServiceError, service
    from scalems.workflow.subgraph import poll, subgraph, while_loop
    from scalems.workflow.task import task

__all__ = [
    "Address",
    "Completed",
    "DependencyError",
    "ExecutableError",
    "File",
    "FileError",
    "Future",
    "RunStopped",
    "Service",
    "ServiceError",
    "Session",
    "TaskError",
    "TaskLost",
    "TaskTimeout",
    "app",
    "as_completed",
    "executable",
    "file",
    "gather",
    "map",
    "poll",
    "reduce",
    "run",
    "service",
    "starmap",
    "subgraph",
    "submit",
    "task",
    "wait",
    "while_loop",
]

_MODULES = {
    "Address": "workflow.service",
    "Completed": "workflow.executable",
    "DependencyError": "workflow.graph",
    "ExecutableError": "workflow.executable",
    "File": "workflow.file",
    "FileError": "workflow.file",
    "Future": "workflow.future",
    "RunStopped": "errors",
    "Session": "session",
    "run": "session",
    "Service": "workflow.service",
    "ServiceError": "workflow.service",
    "TaskError": "errors",
    "TaskLost": "errors",
    "TaskTimeout": "errors",
    "app": "workflow.app",
    "as_completed": "workflow.gathering",
    "executable": "workflow.executable",
    "file": "workflow.file",
    "gather": "workflow.gathering",
    "map": "workflow.calls",
    "poll": "workflow.subgraph",
    "reduce": "workflow.calls",
    "service": "workflow.service",
    "starmap": "workflow.calls",
    "subgraph": "workflow.subgraph",
    "submit": "workflow.calls",
    "task": "workflow.task",
    "wait": "workflow.gathering",
    "while_loop": "workflow.subgraph",
}


def __getattr__(name: str) -> object:
    # Nothing is loaded before it is used: `scalems --help` must stay instant.
    if name in ("local", "radical"):  # scalems.local.Executor, without an import of its own
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
