"""MPI: a call that runs on several ranks, and the command that starts programs on them.

The far side imports this module. The ranks are started by the machine's ``mpiexec``, each runs
the call, and the value is that of rank 0.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pickle
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import TaskError, TaskLost, UsageError
from scalems.workflow import call as calls
from scalems.workflow import cores, file
from scalems.workflow.needs import Needs, variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scalems.workflow.call import Call, Outcome

MPIEXEC = "SCALEMS_MPIEXEC"
"""Environment variable: the command that starts ranks, where it is not ``mpiexec``."""

PRE_RANK = "SCALEMS_PRE_RANK"
"""Environment variable: shell lines to run before each rank, as a list in JSON."""

LAUNCH_LINES = (
    # In containers everything is root; Open MPI refuses it otherwise.
    'test "$(id -u)" != 0 || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1',
)
"""Shell lines before an ``mpiexec`` that RADICAL-Pilot starts."""

RANK_LINES = (
    # Ranks that `srun` starts find each other by PMIx; where a site has no default, say so.
    'test -n "$SLURM_MPI_TYPE" || ! command -v srun >/dev/null'
    ' || ! scontrol show config 2>/dev/null | grep -Eq "^MpiDefault *= none$"'
    " || ! srun --mpi=list 2>&1 | grep -qw pmix || export SLURM_MPI_TYPE=pmix",
)
"""Shell lines before a launch method of RADICAL-Pilot that starts ranks."""

_TELL = "trap 'echo \"scalems: a shell line before the program failed: $BASH_COMMAND\" >&2' ERR"

_RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_SLURM = {
    "SLURM_NODELIST": "SLURM_JOB_NODELIST",
    "SLURM_NNODES": "SLURM_JOB_NUM_NODES",
    "SLURM_TASKS_PER_NODE": "SLURM_JOB_CPUS_PER_NODE",
}
"""What a step of a job has to say of the whole job, and the variable that does."""
_STEP = (
    "SLURM_CPUS_PER_TASK",
    "SLURM_EXPORT_ENV",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
)
_INHERITED = ("PMIX_", "PMI_", "OMPI_COMM_WORLD_", "OMPI_MCA_orte_", "OMPI_MCA_ess")
_START = (
    "import sys; sys.path[:1] = [] if sys.path[0] == '' else sys.path[:1];"
    " from scalems.workflow.mpi import rank_main; rank_main({folder!r})"
)


def command(needs: Needs) -> list[str]:
    """Return the words before a program that start it on ranks, here or on several hosts.

    :raises UsageError: there is no ``mpiexec``.
    """
    import shutil

    ranks = needs.ranks
    given = os.environ.get(MPIEXEC, "").split()
    found = given or [path for name in ("mpiexec", "mpirun") if (path := shutil.which(name))][:1]
    if not found:
        raise UsageError(
            f"A task needs {ranks} MPI ranks, and there is no mpiexec on the worker.",
            remedy="load the MPI module in the env spec ([site] modules), or install one, "
            "e.g. openmpi-bin",
        )
    options = []
    counts: Counter[str] = Counter()  # two Workers may be on one host
    for host, count in needs.hosts:
        counts[host] += count
    where = ",".join(f"{host}:{count}" for host, count in counts.items())
    if _is_open_mpi(found[0]):
        # Two at a time would both be bound to the first cores; the pool counts them already.
        options = ["--bind-to", "none", "--oversubscribe"]
        options += ["-host", where] if len(counts) > 1 else []
    elif len(counts) > 1:
        options = ["-hosts", where]  # Hydra's, of MPICH and those made of it
    return [*found, *options, "-n", str(ranks), *_before_rank()]


def _before_rank() -> list[str]:
    """Return the words before a program that run the lines of the environment on its rank."""
    return shell(json.loads(os.environ.get(PRE_RANK, "[]")))


def shell(lines: Sequence[str]) -> list[str]:
    """Return the words before a program that run shell lines in its process first.

    The first line that fails is told, and the program is not started.
    """
    if not lines:
        return []
    script = [_TELL, "set -e", *lines, "set +e", "trap - ERR", 'exec "$@"']
    return ["bash", "-c", "\n".join(script), "scalems"]


def environment(needs: Needs) -> dict[str, str]:
    """Return the variables for ``mpiexec``, without traces of the ranks that this process is of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_INHERITED)}
    if os.getuid() == 0:  # in containers everything is root; Open MPI refuses it otherwise
        kept.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    if needs.hosts and "SLURM_JOB_ID" in kept:
        # This process is in a step of one node. mpiexec starts another step, on those of the job.
        kept = {name: value for name, value in kept.items() if name not in _STEP}
        kept.update({step: kept[job] for step, job in _SLURM.items() if job in kept})
        kept["SLURM_OVERLAP"] = "1"  # Workers' steps have all cores
    elif not needs.hosts:
        # It is by this that launchers know that they are in a job. They would start a step, which
        # waits for ever, if they do not take the name of the node for that of this host.
        kept.pop("SLURM_JOBID", None)
    return {**kept, **variables(needs, ())}


def execute(call: Call) -> Outcome:
    """Run a call, in this process or on the ranks that it needs; nothing is raised.

    It can be run only once, see :func:`scalems.workflow.call.execute`.
    """
    if call.needs.ranks == 1:
        return calls.execute(call, once=True)
    started = time.time()
    try:
        with file.using(call.area), call.needs.applied():
            return run(call)
    except BaseException as error:
        env = os.environ.get(calls.ENV_VARIABLE, "")
        failure = calls.failure_of(error)
        return calls.failed(call, failure, pid=os.getpid(), started=started, env=env)


def run(call: Call) -> Outcome:
    """Run a call on its ranks; return the outcome of rank 0, or of the first that failed.

    :raises TaskLost: a rank ended before the call did.
    :raises UsageError: there is no ``mpiexec``.
    """
    import subprocess
    import tempfile

    words = command(call.needs)
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=file.scratch()) as name:
        start = laid(Path(name), call, path=sys.path)
        done = subprocess.run(
            [*words, sys.executable, *start],
            env=environment(call.needs),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        outcome = collected(Path(name), call)
    if outcome is None:
        raise TaskLost(
            f"{call.name}: not all of {call.needs.ranks} ranks have ended well "
            f"({words[0]} ended with exit code {done.returncode})"
        )
    return outcome


def laid(folder: Path, call: Call, *, path: list[str] | None = None) -> list[str]:
    """Lay down a call for its ranks; return what the interpreter of each is started with.

    :param path: where it is to look for modules, if that is not known there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "call").write_bytes(pickle.dumps((path, call), protocol=5))
    return ["-c", _START.format(folder=str(folder))]


def collected(folder: Path, call: Call) -> Outcome | None:
    """Return the outcome of rank 0, or of the first that failed; ``None`` if one has left none."""
    outcomes: list[Outcome] = [
        pickle.loads((folder / str(rank)).read_bytes())
        for rank in range(call.needs.ranks)
        if (folder / str(rank)).is_file()
    ]
    for outcome in outcomes:
        if not outcome.ok:
            return outcome
    return outcomes[0] if len(outcomes) == call.needs.ranks else None


def rank_main(name: str) -> None:
    """Run the call on one rank."""
    folder = Path(name)
    path, call = pickle.loads((folder / "call").read_bytes())
    if path is not None:
        sys.path[:] = path
    rank = next((os.environ[key] for key in _RANKS if key in os.environ), "0")
    if call.needs.ranks > 1 and os.environ.get(cores.PIN) == "always" and not call.needs.hosts:
        os.sched_setaffinity(0, cores.share(int(rank), call.needs.ranks))
    alone = replace(call, needs=replace(call.needs, ranks=1))
    outcome = calls.execute(alone, before=_check(call) if call.needs.ranks > 1 else None)
    part = folder / f".{rank}"
    part.write_bytes(pickle.dumps(outcome, protocol=5))
    part.replace(folder / rank)
    if not outcome.ok and "mpi4py.MPI" in sys.modules:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(1)  # the others may wait for this one


def _check(call: Call) -> functools.partial[None]:
    return functools.partial(_check_size, call.needs.ranks)


def _check_size(ranks: int) -> None:
    """Prove that the ranks see each other.

    :raises TaskError: they do not, or there is no mpi4py.
    """
    try:
        MPI = importlib.import_module("mpi4py.MPI")
    except ImportError as error:
        raise TaskError(
            f"The task has ranks={ranks}, and mpi4py cannot be imported: {error}",
            remedy="add mpi4py to the Task venv (packages of its env spec), and sync",
        ) from None
    size = MPI.COMM_WORLD.Get_size()
    if size != ranks:
        raise TaskError(
            f"mpiexec started {ranks} ranks, and mpi4py sees {size}: "
            f"{' '.join(command(Needs(ranks=ranks)))} is of another MPI than mpi4py "
            f"({MPI.Get_library_version().splitlines()[0]})",
            remedy="build mpi4py against the MPI of that mpiexec (no-binary in the env spec), "
            f"or name the right one in {MPIEXEC}",
        )


@functools.lru_cache(maxsize=4)
def _is_open_mpi(program: str) -> bool:
    import subprocess

    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return "OpenRTE" in done.stdout or "Open MPI" in done.stdout
