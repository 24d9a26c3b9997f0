"""Run a workflow on this machine: ``python -m scalems.local script.py``.

The calls of the script's tasks run in processes of this machine, as many at a time as
there are cores. By default these run the same Python as the command; ``--venv NAME`` runs
them in a Task venv that ``scalems env sync`` built, after it was verified. The script
itself runs in this process.

.. code-block:: shell

    python -m scalems.local script.py -n 10
    python -m scalems.local --max-workers 2 --venv task script.py -n 10

Options after the script are the script's. Exit codes: 0 done, 1 the workflow failed,
2 wrong use, 3 the environments are not ready.

``parser`` is the parser of the command line, for documentation tools.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from scalems.local.command import main, make_backend, make_parser
    from scalems.local.executor import Executor

    parser: argparse.ArgumentParser

__all__ = ["Executor", "main", "make_backend", "make_parser", "parser"]


def __getattr__(name: str) -> object:
    # Loaded when asked for, so that importing this package costs nothing.
    if name == "parser":
        globals()["parser"] = made = __getattr__("make_parser")()  # type: ignore[operator]
        return made
    if name in __all__:
        module = "executor" if name == "Executor" else "command"
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
