"""The CPUs that calls run on: each call gets its own, and its processes stay on them.

Threads that wander between CPUs find their data in the cache of another one, and two calls on one
CPU wait for each other while another is idle.

The far side imports this module.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PIN = "SCALEMS_PIN"
"""Environment variable of Workers: ``always``, ``never`` or ``auto``; of their call processes, to
which of the first two it came."""

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CPUS = 1 << 16  # Linux is built for 8192 at most
_ON_NODE = {
    "SLURM_JOB_ID": "SLURM_CPUS_ON_NODE",
    "PBS_JOBID": "NCPUS",
    "LSB_JOBID": "LSB_MAX_NUM_PROCESSORS",
}
"""The variable by which a batch system says that this is one of its jobs, and that which tells how
many CPUs of this node are the job's."""


class Cores:
    """Counts cores that are free, and knows which CPUs they are.

    Not locked: its user is.

    :param count: cores in all.
    :param cpus: numbers of as many CPUs or more, the best first; with fewer, calls are not pinned.
    """

    def __init__(self, count: int, cpus: Sequence[int] = ()) -> None:
        self.free = count
        self._order = {cpu: place for place, cpu in enumerate(cpus)} if len(cpus) >= count else {}
        self._cpus = set(self._order)

    def take(self, count: int, before: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Take cores; there must be so many.

        :param before: the CPUs that the same process had, and has again if they are free.
        :return: their CPUs; empty if calls are not pinned.
        """
        self.free -= count
        if not self._order:
            return ()
        if len(before) == count and self._cpus.issuperset(before):
            taken = before
        else:
            free = sorted(self._cpus, key=lambda cpu: (cpu not in before, self._order[cpu]))
            taken = tuple(sorted(free[:count]))
        self._cpus.difference_update(taken)
        return taken

    def give(self, count: int, cpus: Iterable[int]) -> None:
        """Give back what was taken."""
        self.free += count
        self._cpus.update(cpus)


def for_calls(pin: str, slots: int, variables: Mapping[str, str] = os.environ) -> list[int]:
    """Return the CPUs to pin calls to; none if they are not to be, or if there are too few.

    Where two runs share CPUs, each would pin its calls to the same ones. So ``auto`` pins in a
    job of a batch system only whose CPUs are known to be its own: it was bound to some of the
    machine's, or has all of them.

    :param pin: ``always``, ``never`` or ``auto``.
    :param slots: how many calls run at a time, each on a core.
    :param variables: of the environment.
    """
    found = own()
    if pin == "never" or len(found) < slots:
        return []
    return found if pin == "always" or _alone(len(found), variables) else []


def _alone(count: int, variables: Mapping[str, str]) -> bool:
    """Tell if the CPUs that this process may use are those of its job."""
    for job, given in _ON_NODE.items():
        if job in variables:
            number = variables.get(given, "")
            whole = number.isascii() and number.isdecimal() and int(number) >= count
            return whole or count < (os.cpu_count() or 1)
    return False


def own() -> list[int]:
    """Return the CPUs that this process may use: first one thread of each core, then the others."""
    return sorted(os.sched_getaffinity(0), key=lambda cpu: (_thread(cpu), cpu))


def share(part: int, parts: int) -> list[int]:
    """Return the CPUs of one of several ranks that have those of this process; all if uneven."""
    cpus = sorted(os.sched_getaffinity(0))
    each, rest = divmod(len(cpus), parts)
    return cpus if rest or not each else cpus[part * each : (part + 1) * each]


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Keep a process, all of its threads, on some CPUs, as far as the system lets us."""
    mask = set(cpus)
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names will do
            os.sched_setaffinity(int(thread), mask)


def _thread(cpu: int) -> int:
    """Return which thread of its core a CPU is; see sysfs-devices-system-cpu of Linux."""
    try:
        text = (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
        return numbers(text).index(cpu)
    except (OSError, ValueError):
        return 0


def numbers(text: str) -> list[int]:
    """Return the numbers that a list of CPUs names, such as ``0,4-6``.

    The form is that of the kernel's cpulist, see cpuset(7).

    :raises ValueError: it is no such list.
    """
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if int(last or first) >= _CPUS:
            raise ValueError(f"no machine has the CPUs of {text[:50]!r}")
        found.extend(range(int(first), int(last or first) + 1))
    return found
