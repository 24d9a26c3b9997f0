"""What the batch system says of a pilot's job.

RP tells a client of its job only when it has ended, up to 30 seconds later and without a
reason. Here the queue is asked: why a job waits, when it may start, and how it ended. A job
is found by its working folder, which is the pilot's sandbox: RP keeps its number to itself.
Slurm can be asked so far.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalems.host import local
from scalems.host.local import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FIRST, _LONGEST = 1.0, 10.0  # seconds between two looks: they are rarer while nothing changes
_LIMIT = 30.0  # seconds for an answer; a controller may be busy
_FORMAT = "%i|%T|%r|%S|%N|%Z"  # of squeue(1): id, state, reason, start, nodes, working folder
# "JOB STATE CODES" of squeue(1). One that is COMPLETING is none: its processes are being ended, and
# how it has ended is said when they are gone.
_ENDED = {
    "BOOT_FAIL": "its nodes could not be started",
    "CANCELLED": "it was cancelled",
    "COMPLETED": "it has ended by itself",
    "DEADLINE": "its deadline has passed",
    "FAILED": "it has failed",
    "NODE_FAIL": "a node has failed",
    "OUT_OF_MEMORY": "it has used more memory than it may",
    "PREEMPTED": "another job took its place",
    "TIMEOUT": "its run time is over",
}
# "JOB REASON CODES" of squeue(1) that tell it before.
_FORETOLD = {"TimeLimit": "TIMEOUT", "NodeDown": "NODE_FAIL", "OutOfMemory": "OUT_OF_MEMORY"}
_FEWER = "ask for fewer --nodes or --cores; `sinfo -o '%P %D %c %l'` lists what partitions have"
_SHORTER = "ask for less --runtime; `sinfo -o '%P %l'` lists the limits of partitions"
_ALLOWED = "`sacctmgr show assoc user=$USER format=account,qos,maxwall,maxnodes` lists what you may"
# Those that a job waits for in vain, unless it or the partition is changed; each with its remedy.
_NEVER = {
    "AssocMaxCpuPerJobLimit": f"ask for fewer --cores; {_ALLOWED}",
    "AssocMaxNodePerJobLimit": f"ask for fewer --nodes; {_ALLOWED}",
    "AssocMaxWallDurationPerJobLimit": f"ask for less --runtime; {_ALLOWED}",
    "BadConstraints": "no node is like that: correct the constraint of the resource config",
    "InvalidAccount": f"give another --project; {_ALLOWED}",
    "InvalidQOS": f"give another QOS; {_ALLOWED}",
    "PartitionConfig": _FEWER,
    "PartitionNodeLimit": _FEWER,
    "PartitionTimeLimit": _SHORTER,
    "QOSMaxCpuPerJobLimit": f"ask for fewer --cores; {_ALLOWED}",
    "QOSMaxNodePerJobLimit": f"ask for fewer --nodes; {_ALLOWED}",
    "QOSMaxWallDurationPerJobLimit": f"ask for less --runtime; {_ALLOWED}",
}
_NEVER |= dict.fromkeys(
    ("launch failed requeued held", "job requeued in held state"),
    "the log of slurmd on its node says why it could not be started; tell the administrators",
)
# What a partition has of who may use it, in words of part_policy_valid_acct() and its like.
_REFUSED = re.compile(r"Job's (account|QOS|group)s? not (known|permitted)")
_REFUSED_REMEDY = {
    "account": "give a --project that this partition takes",
    "QOS": "give a QOS that this partition takes",
    "group": "ask for the group that this partition takes",
}
_NOTHING = ("", "None", "N/A", "(null)")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The job of a pilot, as the batch system tells of it."""

    ident: str
    state: str
    """In the words of the batch system."""
    reason: str = ""
    start: str = ""
    """When it has started, or may start; local time of the batch system."""
    nodes: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended, and it is known how."""
        return self.state in _ENDED

    @property
    def never(self) -> str:
        """What mends it, if it waits for something that will not come; empty if it may begin."""
        if self.state != "PENDING":
            return ""
        if refused := _REFUSED.match(self.reason):
            remedy = _REFUSED_REMEDY[refused[1]]
            return (
                f"{remedy}, or another --queue; `scontrol show partition` lists who may use which"
            )
        return _NEVER.get(self.reason, "")

    @property
    def ending(self) -> bool:
        """Whether its processes are being ended, and it is not said yet why."""
        return self.state == "COMPLETING"

    @property
    def ended_itself(self) -> bool:
        """Whether it was not the batch system that has ended it."""
        return self.state in ("COMPLETED", "FAILED")

    @property
    def timed_out(self) -> bool:
        """Whether it was ended because its run time was over."""
        return self.state == "TIMEOUT"

    def text(self) -> str:
        """Return what has become of it, for people."""
        if self.ended:
            why = f" ({self.reason})" if self.reason else ""
            return f"Slurm has ended job {self.ident}: {_ENDED[self.state]}{why}"
        if self.ending:
            return f"Slurm is ending job {self.ident}"
        if self.state == "RUNNING":
            return f"job {self.ident} runs on {self.nodes}"
        told = [
            one for one in (self.reason, f"may start at {self.start}" * bool(self.start)) if one
        ]
        return f"job {self.ident} is {self.state.lower()}" + f" ({', '.join(told)})" * bool(told)


class Queue:
    """The queue of the batch system that a resource submits pilots to.

    :param endpoint: the resource's ``job_manager_endpoint``.
    """

    def __init__(self, endpoint: str) -> None:
        self.known = endpoint.startswith("slurm://")
        """Whether this kind of batch system can be asked."""

    def find(self, folder: Path) -> Job | None:
        """Return the last job that works in a folder; ``None`` if none is known, or no answer."""
        if not self.known:
            return None
        printed = _run("squeue", "--me", "--noheader", "--states=all", f"--format={_FORMAT}")
        return parse(printed or "", folder)

    def cancel(self, job: Job) -> bool:
        """End a job; return whether the batch system has taken the order."""
        return self.known and _run("scancel", "--quiet", job.ident) is not None


class Watch(threading.Thread):
    """Tells whenever something changes about the job of a pilot, until it has ended.

    :param folder: the pilot's sandbox.
    :param emit: told of the job, in this thread.
    """

    def __init__(self, queue: Queue, folder: Path, emit: Callable[[Job], None]) -> None:
        super().__init__(name="scalems-batch", daemon=True)
        self._queue = queue
        self._folder = folder
        self._emit = emit
        self._hurry = threading.Event()

    def look(self) -> None:
        """Ask at once: there is a sign that something has happened."""
        self._hurry.set()

    def run(self) -> None:
        """Ask again and again."""
        last: Job | None = None
        pause = 0.0
        while last is None or not last.ended:
            if self._hurry.wait(pause):
                self._hurry.clear()
                pause = 0.0
            job = self._queue.find(self._folder)
            pause = min(2 * pause, _LONGEST) if pause else _FIRST
            if job is not None and job != last:
                pause, last = _FIRST, job
                self._emit(job)


def parse(printed: str, folder: Path) -> Job | None:
    """Read what ``squeue`` printed; return the last job that works in a folder."""
    found: list[Job] = []
    for line in printed.splitlines():
        fields = line.split("|", 5)  # the folder, which comes last, may have a bar in its name
        if len(fields) == 6 and fields[5] == str(folder) and fields[0].isdecimal():
            ident, state, reason, start, nodes = (
                "" if field in _NOTHING else field for field in fields[:5]
            )
            if state == "COMPLETING":
                state = _FORETOLD.get(reason, state)
            found.append(Job(ident=ident, state=state, reason=reason, start=start, nodes=nodes))
    return max(found, key=lambda job: int(job.ident), default=None)


def _run(*words: str) -> str | None:
    """Run a command of the batch system; ``None`` if it fails."""
    try:
        return local.run(words, limit=_LIMIT).stdout
    except CommandFailed as error:
        log.info("%s", error)
        return None
