"""Programs that runs need: whether they are there and answer; and what runs have left."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from scalems.doctor.finding import Diagnosis, error, good, warning
from scalems.doctor.places import workdir
from scalems.env import layout, state
from scalems.errors import ScalemsError
from scalems.resource import definition

_ANSWER = 10.0  # seconds for a batch system
_SANDBOXES = 20 * 2**30  # bytes

_BATCH = {"slurm": "sinfo", "pbs": "qstat", "pbspro": "qstat", "lsf": "bqueues", "cobalt": "qstat"}


def programs() -> Iterator[Diagnosis]:
    """Look for an engine, an MPI and a C compiler."""
    from scalems.env.engine.uv import find_uv

    uv = find_uv()
    yield (
        good("engine", str(uv))
        if uv
        else warning(
            "engine", "uv is not installed: pip takes its place, and takes longer", "pip install uv"
        )
    )
    mpi = shutil.which("mpiexec") or shutil.which("mpirun") or shutil.which("srun")
    yield (
        good("MPI", str(mpi))
        if mpi
        else warning(
            "MPI",
            "neither mpiexec, mpirun nor srun is on PATH",
            "needed for tasks of several ranks",
        )
    )
    compiler = shutil.which("cc") or shutil.which("gcc")
    yield (
        good("C compiler", str(compiler))
        if compiler
        else warning(
            "C compiler",
            "is not on PATH: RP's netifaces comes as source only",
            "install gcc, or load your site's module",
        )
    )


def batch_systems() -> Iterator[Diagnosis]:
    """Ask the batch systems that synced resources name whether they answer."""
    place = layout.default()
    for label in state.labels(place):
        try:
            endpoint = definition.endpoint(label)
        except ScalemsError as failure:
            yield error(label, failure.cause, failure.remedy or "")
            continue
        scheme = endpoint.partition(":")[0].partition("+")[0]
        if command := _BATCH.get(scheme):
            yield _answers(label, scheme, command)


def _answers(label: str, scheme: str, command: str) -> Diagnosis:
    subject = f"batch system of {label}"
    if not shutil.which(command):
        return error(
            subject, f"{command} is not on PATH", f"run scalems on a login node with {scheme}"
        )
    try:
        done = subprocess.run(
            [command], capture_output=True, text=True, timeout=_ANSWER, check=False
        )
    except subprocess.TimeoutExpired:
        return error(subject, f"{command} gave no answer in {_ANSWER:.0f} s", "try again later")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        return error(subject, f"{command} failed: {lines[-1]}", f"run `{command}` by hand")
    return good(subject, f"{command} answers")


def leftovers() -> Iterator[Diagnosis]:
    """Look for processes and sandboxes that earlier runs have left."""
    stale = sorted(_agents())
    if stale:
        pids = " ".join(map(str, stale))
        yield warning(
            "processes", f"{len(stale)} of RADICAL-Pilot's have no parent: {pids}", f"kill {pids}"
        )
    else:
        yield good("processes", "none of RADICAL-Pilot's is left over")
    for sandbox in sorted(_sandboxes()):
        size = _size(sandbox)
        if size > _SANDBOXES:
            yield warning(
                "sandboxes",
                f"{size / 2**30:.0f} GiB in {sandbox}",
                f"remove those that you do not need: du -sh {sandbox}/*",
            )


def _sandboxes() -> set[Path]:
    found = {Path.home()}
    for label in state.labels(layout.default()):
        with contextlib.suppress(ScalemsError):
            found |= {folder for folder in workdir(label)[:1] if folder}
    return {folder / "radical.pilot.sandbox" for folder in found}


def _agents() -> Iterator[int]:
    """Yield RP's processes of this user that were left to init."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            ours = entry.stat().st_uid == os.getuid()
            # The bootstrapper is left to init on purpose, and lives as long as its pilot.
            named = any("radical-pilot-agent" in word or "radical.pilot" in word for word in words)
            if ours and named and parent == "1" and "bootstrap" not in " ".join(words):
                yield int(entry.name)


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
    return total
