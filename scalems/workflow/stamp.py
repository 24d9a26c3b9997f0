"""What computed a result: environment, host, Worker, and the versions of the site's software.

Every outcome carries it as two short texts that its process was given when it was started, so
it costs nothing per call. The far side imports this module.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scalems.workflow.answers import Answers
    from scalems.workflow.call import Outcome

VARIABLE = "SCALEMS_STAMP"
"""Names the Worker and its software to the call processes."""


@lru_cache(maxsize=1)
def hostname() -> str:
    """Return the name of this host; in a job of Slurm, the name that Slurm has for the node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What computed a result.

    :param env: content fingerprint of the environment; empty if it is not managed.
    :param software: versions of programs that are not Python packages, by name.
    """

    env: str = ""
    host: str = ""
    worker: str = ""
    software: Mapping[str, str] = field(default_factory=dict)


def text(worker: str, software: Mapping[str, str]) -> str:
    """Return the text that stands for a Worker and its software."""
    return json.dumps([worker, dict(sorted(software.items()))], separators=(",", ":"))


def here() -> str:
    """Return the text that this process was given."""
    return os.environ.get(VARIABLE, "")


def of(outcome: Outcome | Answers) -> Stamp:
    """Return what computed an outcome, or those of a block."""
    worker, software = read(outcome.stamp)
    return Stamp(env=outcome.env, host=outcome.host, worker=worker, software=software)


@lru_cache(maxsize=1000)
def read(stamp: str) -> tuple[str, Mapping[str, str]]:
    """Return the Worker and the software that a text stands for; one that is none says nothing."""
    try:
        worker, software = json.loads(stamp)
        return str(worker), {str(name): str(version) for name, version in software.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "", {}
