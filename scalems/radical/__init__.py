"""Run a workflow on RADICAL-Pilot: ``python -m scalems.radical --resource R --venv V script.py``.

The calls of the script's tasks run in a Task venv of the resource, through a pilot, a
raptor master and Workers of RADICAL-Pilot. Before anything is launched the environments
are verified, and before the first call the Worker proves that it is what was verified.
The script itself runs in this process, on this machine.

.. code-block:: shell

    python -m scalems.radical --resource local.localhost --venv task script.py -n 10
    python -m scalems.radical --resource lab.slurm --venv task --nodes 2 --runtime 30 \\
        --queue short --project abc script.py

The environments are built by ``scalems env sync --resource LABEL``. The venv of this
command need not be activated. RADICAL-Pilot prints nothing to the terminal; its logs are
in a private folder of the run, which every failure names.

Options after the script are the script's. Exit codes: 0 done, 1 the workflow failed,
2 wrong use, 3 the environments are not ready.

``parser`` is the parser of the command line, for documentation tools.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from scalems.radical.command import (
        main,
        make_backend,
        make_parser,
        make_settings,
        show_request,
    )
    from scalems.radical.executor import Executor

    parser: argparse.ArgumentParser

__all__ = [
    "Executor",
    "main",
    "make_backend",
    "make_parser",
    "make_settings",
    "parser",
    "show_request",
]


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
