"""What a call needs around it: cores, ranks, GPUs, variables, a seed.

Both sides import this module.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import resource
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import TaskError, TaskTimeout
from scalems.workflow.stamp import hostname

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENMM_CPU_THREADS",
)
"""Variables that libraries read, once, to know how many threads they may start."""

GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables that say which GPUs a process may use."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a call needs."""

    ranks: int = 1
    """MPI processes that run it side by side."""
    cores_per_rank: int = 1
    gpus_per_rank: int = 0
    env: tuple[tuple[str, str], ...] = ()
    """Variables of the environment while it runs."""
    seed: int | None = None
    """Of the generators of :mod:`random` and of NumPy's global one."""
    priority: int = 0
    """Calls with a higher one run first."""
    memory: int = 0
    """Bytes that it may take beyond what its process has; 0 if there is no limit."""
    cpu_time: float = 0.0
    """Seconds of CPU that it may take; 0 if there is no limit."""
    cwd: str = ""
    """Its working folder, which is made if it is not there; empty for that of its process."""
    parts: int = 1
    """MPI processes that it starts by itself, as programs do, and shares its cores among."""
    hosts: tuple[tuple[str, int], ...] = ()
    """Where its ranks run, each host with how many, the first being where they are started; empty
    if all of them run there."""
    once: bool = False
    """Whether it must not be begun again by itself when it was lost, as it may have effects."""

    route: str = ""
    """How it goes, where there is a choice: ``worker``, ``rp``, or empty for what suits it."""

    @property
    def cores(self) -> int:
        """Cores that it takes in all; of one with `hosts`, those that it takes on the first."""
        return self.hosts[0][1] * self.unit if self.hosts else self.ranks * self.cores_per_rank

    @property
    def units(self) -> int:
        """Parts that it can be spread over hosts in: its ranks, or those that it starts."""
        return self.ranks if self.ranks > 1 else self.parts

    @property
    def unit(self) -> int:
        """Cores of each of these."""
        return max(1, self.ranks * self.cores_per_rank // self.units)

    @property
    def gpus(self) -> int:
        """GPUs that it takes in all."""
        return self.ranks * self.gpus_per_rank

    def text(self) -> str:
        """Return what it needs, for people."""
        parts = [f"{self.cores} cores"] if self.cores > 1 else []
        parts += [f"{self.gpus} GPU" + "s" * (self.gpus > 1)] if self.gpus else []
        return " and ".join(parts) or "1 core"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the variables, the folder, the seed and the limits, in this process, as long as the
        context is open.

        :raises TaskError: there is no such folder, and it cannot be made.
        :raises TaskTimeout: in the main thread, when the CPU time is used up.
        """
        with contextlib.ExitStack() as stack:
            if self.env:
                stack.enter_context(_set(dict(self.env)))
            if self.cwd:
                stack.enter_context(_inside(self.cwd))
            if self.seed is not None:
                _seed(self.seed)
            if self.memory:
                stack.enter_context(_limited(self.memory))
            if self.cpu_time:
                stack.enter_context(_timed(self.cpu_time))
            yield


@contextlib.contextmanager
def _set(env: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    """Work in a folder, which is made if it is not there.

    :raises TaskError: it cannot be.
    """
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - a path of the user's, as it is
            os.chdir(folder)
        except OSError as error:
            raise TaskError(
                f"the task cannot work in cwd={folder!r} on {hostname()}: {error.strerror}",
                remedy="name a folder that can be made and written there",
            ) from None
        yield
    finally:
        with contextlib.suppress(OSError):
            os.fchdir(before)
        os.close(before)


def _seed(seed: int) -> None:
    import random

    random.seed(seed)
    if importlib.util.find_spec("numpy") is not None:
        import numpy as np

        np.random.seed(seed % 2**32)


@contextlib.contextmanager
def _limited(memory: int) -> Iterator[None]:
    """Limit what this process may take in address space, see setrlimit(2).

    :param memory: bytes beyond what it has.
    :raises MemoryError: which names the limit.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY not in (soft, hard):
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    except MemoryError as error:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        raise MemoryError(
            f"the task has taken more than its memory={memory} bytes"
            " (raise that limit, or give it less to do)"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _timed(seconds: float) -> Iterator[None]:
    """Limit what this process may take of a CPU, see setrlimit(2).

    The hard limit is left as it is, since it could not be raised again. Only the main thread can
    be interrupted, so elsewhere there is no limit.

    :raises TaskTimeout: which names the limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: object) -> None:
        raise TaskTimeout(
            f"the task has used up its cpu_time={seconds:g} seconds",
            remedy="raise that limit, or give it less to do",
        )

    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limits = resource.getrlimit(resource.RLIMIT_CPU)
    last = math.ceil(used + seconds)  # it is counted in whole seconds
    if resource.RLIM_INFINITY not in limits[:1]:
        last = min(last, limits[0])
    before = signal.signal(signal.SIGXCPU, over)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (last, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, limits)
        signal.signal(signal.SIGXCPU, before)


_SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*([kKMGT]?)(i?)B?", re.ASCII)


def size_of(text: str) -> int:
    """Return the bytes that a size stands for: ``512 MiB`` (of 1024), ``2GB`` (of 1000), ``100``.

    :raises ValueError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size such as '2GB' or '512 MiB'")
    number, unit, binary = found.groups()
    size = float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " ")
    if size >= 2**63:
        raise ValueError(f"{text!r} is more than any machine has")
    return int(size)


NONE = Needs()
"""Of a call that needs one core, and nothing else."""


def variables(needs: Needs, gpus: Sequence[str]) -> dict[str, str]:
    """Return the variables of a process that runs calls with these needs.

    Libraries would else start as many threads as the machine has cores, in each process. What
    the user has set by hand holds for calls that say nothing of cores.

    :param gpus: those that the process may use.
    """
    count = needs.cores_per_rank
    found = {name: str(count) for name in THREADS if count > 1 or name not in os.environ}
    if gpus:
        found.update(dict.fromkeys(GPUS, ",".join(gpus)))
    return found


def machine_gpus() -> list[str]:
    """Return the GPUs that this process may use, as the variables name them."""
    for name in GPUS:
        if name in os.environ:
            return [item for item in os.environ[name].split(",") if item]
    found: list[str] = []
    while os.path.exists(f"/dev/nvidia{len(found)}"):  # noqa: PTH110 - a device
        found.append(str(len(found)))
    return found
