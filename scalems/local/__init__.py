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

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from scalems.local.backend import LocalBackend
    from scalems.workflow.backend import Notify

    parser: argparse.ArgumentParser

__all__ = ["main", "make_backend", "make_parser", "parser"]


def make_parser() -> argparse.ArgumentParser:
    """Return a new parser of this command's options."""
    from scalems import invocation, options

    new = invocation.base_parser(
        "python -m scalems.local",
        "Run a workflow on this machine. The calls of its tasks run in processes of their own.",
        examples=[
            ("python -m scalems.local script.py -n 10", "run script.py with its own option -n 10"),
            ("python -m scalems.local -j 2 script.py", "two calls at a time"),
            ("python -m scalems.local --venv task script.py", "calls run in the Task venv 'task'"),
        ],
    )
    group = new.add_argument_group("local options")
    group.add_argument(
        "--venv", metavar="NAME", help="run the calls in this Task venv, after verifying it"
    )
    group.add_argument(
        "--resource",
        metavar="LABEL",
        default="local.localhost",
        help="the resource that the Task venv belongs to (default: %(default)s)",
    )
    options.add_policies(group)
    return new


def make_backend(options: argparse.Namespace, notify: Notify) -> LocalBackend:
    """Return the backend that the options ask for; nothing is started.

    :raises UsageError: if there is no such resource or Task venv.
    :raises EnvironmentNotReady: if the Task venv is not what was built.
    """
    from scalems.local.backend import LocalBackend, cores

    workers = options.max_workers or cores()
    if options.venv is None:
        return LocalBackend(workers=workers)
    from scalems import invocation

    resource = invocation.verify(options.resource, options.venv, options)
    build = resource.tasks[options.venv]
    return LocalBackend(
        workers=workers,
        build=build,
        label=f"local {options.resource}/{options.venv}",
        environment=invocation.environment(resource, options.venv),
    )


def main() -> int:
    """Run the command; return its exit code."""
    from scalems import invocation

    return invocation.main(make_parser(), make_backend)


def __getattr__(name: str) -> object:
    # Made when asked for, so that importing this package costs nothing.
    if name == "parser":
        globals()["parser"] = made = make_parser()
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
