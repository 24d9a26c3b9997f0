"""What may be said of a task beside its function and its arguments."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from scalems.errors import UsageError
from scalems.workflow.needs import NONE, Needs, size_of

# What executorlib and others call them: their "core" is a process of MPI.
_ALIASES = {
    "cores": "ranks",
    "threads_per_core": "cores_per_rank",
    "gpus_per_core": "gpus_per_rank",
}
ROUTES = ("auto", "worker", "rp")
"""What ``route`` may be."""
_LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is run.

    :raises UsageError: a value cannot be what was meant.
    """

    cache: bool = True
    """Whether the result of a former run is taken, and this one kept."""
    retries: int | None = None
    """How often a task that failed is tried again; ``None``: as the run says, which is 0."""
    backoff: float = 0.5
    """Seconds before the second attempt; the pause doubles each time, up to a minute."""
    on_error: Literal["continue", "stop"] | None = None
    """If it fails: the run goes on, or ends at once; ``None``: as the run says."""
    timeout: float | None = None
    """Seconds that one attempt may run; then its processes are ended."""
    ranks: int = 1
    """MPI processes that run the function side by side; the value is that of rank 0."""
    cores_per_rank: int = 1
    """Cores, and so the threads that libraries may start."""
    gpus_per_rank: int = 0
    memory: int | str | None = None
    """Memory that it may take beyond what its process has: bytes, or a text such as ``2GB``."""
    cpu_time: float | None = None
    """Seconds of CPU that it may take, whole ones. Then it raises
    :class:`~scalems.errors.TaskTimeout`; code of C has to return first, which `timeout` does not
    wait for."""
    cwd: str | os.PathLike[str] | None = None
    """Its working folder on the worker, which is made if it is not there; a relative one is
    meant from the client's own. By default it is that of the worker."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment while it runs."""
    seed: int | None = None
    """Of the generators of ``random`` and of NumPy's global one."""
    priority: int = 0
    """Tasks with a higher one run first, of those that could run."""
    parts: int = 1
    """MPI processes that it starts by itself: its cores may be those of several workers then."""
    route: str = "auto"
    """On RADICAL-Pilot: ``worker``, in a Worker; ``rp``, as a task of RADICAL-Pilot's own; or as
    the rule says (``auto``). Other backends have one way."""
    tags: Sequence[str] = ()
    """Words that its calls can be found by: ``scalems show --tag WORD``."""
    label: str = ""
    """Name of its calls, by default that of the function."""

    def __post_init__(self) -> None:
        given: dict[str, Any] = vars(self)  # whatever was written
        faults = []
        if type(given["cache"]) is not bool:
            faults.append(f"cache is True or False, not {self.cache!r}")
        if given["on_error"] not in (None, "continue", "stop"):
            faults.append(f"on_error is 'continue' or 'stop', not {self.on_error!r}")
        backoff = given["backoff"]
        if type(backoff) not in (int, float) or not 0 <= backoff < math.inf:
            faults.append(f"backoff is a number of seconds of at least 0, not {backoff!r}")
        if given["retries"] is not None and (type(self.retries) is not int or self.retries < 0):
            faults.append(f"retries is a whole number of at least 0, not {self.retries!r}")
        least = {"ranks": 1, "parts": 1, "cores_per_rank": 1, "gpus_per_rank": 0}
        for name, number in least.items():
            if type(given[name]) is not int or given[name] < number:
                faults.append(f"{name} is a whole number of at least {number}, not {given[name]!r}")
        timeout = given["timeout"]
        if timeout is not None and (type(timeout) not in (int, float) or not timeout > 0):
            faults.append(f"timeout is a number of seconds above 0, not {timeout!r}")
        cpu_time = given["cpu_time"]
        if cpu_time is not None and (type(cpu_time) not in (int, float) or not cpu_time > 0):
            faults.append(f"cpu_time is a number of seconds above 0, not {cpu_time!r}")
        cwd = given["cwd"]
        if cwd is not None and not (isinstance(cwd, (str, os.PathLike)) and str(cwd)):
            faults.append(f"cwd is the path of a folder, not {cwd!r}")
        for name in ("seed", "priority"):
            if type(given[name]) is not int and (name, given[name]) != ("seed", None):
                faults.append(f"{name} is a whole number, not {given[name]!r}")
        try:
            object.__setattr__(self, "memory", _bytes(given["memory"]))
        except ValueError as error:
            faults.append(f"memory is a number of bytes or a size such as '2GB': {error}")
        if given["route"] not in ROUTES:
            faults.append(f"route is one of {', '.join(ROUTES)}, not {self.route!r}")
        if not isinstance(given["label"], str):
            faults.append(f"label is a text, not {self.label!r}")
        faults += _wrong_variables(given["env"])
        faults += _wrong_tags(given["tags"])
        if faults:
            raise UsageError("wrong option of a task: " + "; ".join(faults))

    @functools.cached_property
    def needs(self) -> Needs:
        """What its calls need around them."""
        needs = Needs(
            ranks=self.ranks,
            cores_per_rank=self.cores_per_rank,
            gpus_per_rank=self.gpus_per_rank,
            memory=int(self.memory or 0),
            cpu_time=float(self.cpu_time or 0),
            cwd=os.path.abspath(self.cwd) if self.cwd else "",  # noqa: PTH100 - as it is named
            env=tuple(sorted(self.env.items())),
            seed=self.seed,
            priority=self.priority,
            once=not self.cache,
            parts=self.parts,
            route="" if self.route == "auto" else self.route,
        )
        return NONE if needs == NONE else needs

    @functools.cached_property
    def matters(self) -> dict[str, object]:
        """Those that the value may depend on, with other values than by default."""
        names = ("ranks", "env", "seed")
        found = {
            name: value
            for name in names
            if (value := getattr(self, name)) != getattr(DEFAULT, name)
        }
        # As it was written: a project can be moved.
        return {**found, "cwd": os.fspath(self.cwd)} if self.cwd else found

    def replaced(self, **changes: Any) -> TaskOptions:
        """Return a copy with other values.

        :raises UsageError: there is no such option, or a value cannot be what was meant.
        """
        import difflib

        resources = changes.pop("resources", None) or {}
        if not isinstance(resources, Mapping):
            raise UsageError(f"resources is a dict, such as {{'ranks': 2}}, not {resources!r}.")
        changes = {
            _ALIASES.get(name, name): value for name, value in {**resources, **changes}.items()
        }
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise UsageError(
                    f"tasks have no option {name!r}{hint}",
                    remedy=f"the options are {', '.join(known)}",
                )
        return replace(self, **changes)

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 1."""
        most = max(_LONGEST_PAUSE, self.backoff)
        return float(min(self.backoff * 2 ** min(attempt - 1, 50), most))


def _bytes(memory: object) -> int | None:
    if isinstance(memory, str):
        memory = size_of(memory)
    if memory is not None and (type(memory) is not int or memory < 1):
        raise ValueError(f"not {memory!r}")
    return memory


def _wrong_variables(env: object) -> list[str]:
    if not isinstance(env, Mapping):
        return [f"env is a dict of variables, not {env!r}"]
    return [
        f"the variable {name!r} has a text as its value, not {value!r}"
        for name, value in env.items()
        if not (isinstance(name, str) and isinstance(value, str) and name and "=" not in name)
    ]


def _wrong_tags(tags: object) -> list[str]:
    if isinstance(tags, (list, tuple, set, frozenset)) and all(
        isinstance(tag, str) and re.fullmatch(r"[^\s,]+", tag) for tag in tags
    ):
        return []
    return [f"tags is a list of words without commas and spaces, not {tags!r}"]


DEFAULT = TaskOptions()
