"""The command ``python -m scalems.local``: its options, and the backend that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from scalems.local.backend import LocalBackend
    from scalems.local.inline import InlineBackend
    from scalems.workflow.backend import Notify


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
        "--inline",
        action="store_true",
        help="run the calls in this process, one after the other: for debuggers; no live view",
    )
    group.add_argument(
        "--venv",
        metavar="NAME",
        help="run the calls in this Task venv, after verifying it; or in the venv /PATH",
    )
    group.add_argument(
        "--resource",
        metavar="LABEL",
        default="local.localhost",
        help="the resource that the Task venv belongs to (default: %(default)s)",
    )
    options.add_pin(group)
    options.add_policies(group)
    return new


def make_backend(options: argparse.Namespace, notify: Notify) -> LocalBackend | InlineBackend:
    """Return the backend that the options ask for; nothing is started.

    :raises UsageError: if there is no such resource or Task venv.
    :raises EnvironmentNotReady: if the Task venv is not what was built.
    """
    from scalems.errors import UsageError
    from scalems.local.backend import LocalBackend, cores
    from scalems.local.inline import InlineBackend
    from scalems.workflow import shipping

    shipping.far_side_has(None)
    if options.inline:
        if options.venv is not None:
            raise UsageError(
                "--inline runs the calls in this process, and --venv in another Python",
                remedy="use one of them",
            )
        return InlineBackend()
    workers = options.max_workers or cores()
    if options.venv is None:
        return LocalBackend(workers=workers, pin=options.pin)
    from scalems import invocation

    resource = invocation.verify(options.resource, options.venv, options, pilot=False)
    if resource.host:
        raise UsageError(
            f"the Task venv {options.venv!r} of {options.resource} is on {resource.host.name}, "
            "and scalems.local runs on this machine",
            remedy=f"python -m scalems.radical --resource {options.resource} "
            f"--venv {options.venv} SCRIPT, or name a resource of this machine",
        )
    build = resource.tasks[options.venv]
    shipping.far_side_has(build.top_level)
    return LocalBackend(
        workers=workers,
        pin=options.pin,
        build=build,
        label=f"local {options.venv}"
        if "/" in options.venv
        else f"local {options.resource}/{options.venv}",
        environment=invocation.environment(resource, options.venv),
    )


def main() -> int:
    """Run the command; return its exit code."""
    from scalems import invocation

    def prepared(options: argparse.Namespace, notify: Notify) -> LocalBackend | InlineBackend:
        backend = make_backend(options, notify)
        backend.prepare()
        return backend

    return invocation.main(make_parser(), prepared)
