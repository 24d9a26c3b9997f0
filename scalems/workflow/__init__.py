"""Tasks, their futures, and the graph between them.

Only names that scripts use are exported here, and only when they are asked for: the
far side imports this package too, and has few of the client's dependencies.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalems.workflow.app import App, app
    from scalems.workflow.executable import Completed, ExecutableError, executable
    from scalems.workflow.future import Future, gather
    from scalems.workflow.graph import DependencyError
    from scalems.workflow.task import Task, task

__all__ = [
    "App",
    "Completed",
    "DependencyError",
    "ExecutableError",
    "Future",
    "Task",
    "app",
    "executable",
    "gather",
    "task",
]

_MODULES = {
    "App": "app",
    "Completed": "executable",
    "DependencyError": "graph",
    "ExecutableError": "executable",
    "Future": "future",
    "Task": "task",
    "gather": "future",
}


def __getattr__(name: str) -> object:
    # `app`, `task` and `executable` name a module and the decorator or function in it:
    # importing the module binds its name here, so the public name is bound after it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
