"""The executor of the radical backend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from scalems import executor
from scalems.executor import given
from scalems.radical.command import make_backend, make_parser
from scalems.workflow.policy import FailurePolicy, OnError


class Executor(executor.Executor):
    """Runs calls on RADICAL-Pilot; see :class:`scalems.executor.Executor`.

    :param resource: where to run, such as ``local.localhost``; several for a pilot on each.
    :param venv: name of the Task venv that calls run in.
    :param cores: cores to run calls on.
    :param nodes: nodes to use, evenly; as few as the cores need by default.
    :param runtime: minutes after which the pilot ends.
    :param queue: queue or partition of the batch system.
    :param project: project that the time is booked on.
    :param pilots: how many pilots there are at a time, on the resources in turn.
    :param max_pilots: how many pilots there may be, one after the other.
    :param pilot: ``auto``, ``new``, ``warm`` or the name of a warm pilot.
    :param pilot_option: fields of RP's PilotDescription.
    :param store: folder where results are kept; without it they are not.
    :param on_error: when a call fails, ``continue`` with the others, or ``stop`` all.
    :param retries: how often a call that failed is run again, if it does not say so itself.
    :raises UsageError: there is no such resource, Task venv, pilot or pilot option.
    :raises EnvironmentNotReady: the environments are not what was built.
    """

    def __init__(
        self,
        resource: str | Sequence[str],
        venv: str,
        *,
        cores: int | None = None,
        nodes: int | None = None,
        runtime: int | None = None,
        queue: str | None = None,
        project: str | None = None,
        pilots: int | None = None,
        max_pilots: int | None = None,
        pilot: str | None = None,
        pilot_option: Mapping[str, object] | None = None,
        store: str | os.PathLike[str] | None = None,
        on_error: OnError = "continue",
        retries: int = 0,
    ) -> None:
        resources = [resource] if isinstance(resource, str) else list(resource)
        options = {
            **{"resource": resources, "venv": venv, "cores": cores, "nodes": nodes},
            **{"runtime": runtime, "queue": queue, "project": project},
            **{"pilots": pilots, "max_pilots": max_pilots},
            **{"pilot": pilot, "pilot_option": dict(pilot_option or {})},
        }
        policy = FailurePolicy(on_error=on_error, retries=retries)
        super().__init__(make_parser(), make_backend, given(options), store, policy=policy)
