"""Looks at a node, in about a second: can it do what calls will ask of it?

It runs in a Worker before its first call, with the standard library only. What follows from it
is decided by :mod:`scalems.radical.admission`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems import probe
from scalems.errors import UsageError
from scalems.workflow import mpi
from scalems.workflow.needs import Needs, machine_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIMIT = 30.0  # seconds for a program to tell its version
_RANKS = 2

# In one write, and by one rank if they see each other: mpiexec mixes what several write.
_MPI = (
    "import os; from mpi4py import MPI; world = MPI.COMM_WORLD;"
    " line = MPI.Get_library_version().split(chr(10))[0];"
    " world.rank or os.write(1, f'scalems {world.size} {line}{chr(10)}'.encode())"
)


class Canary:
    """Examines this node in the background, from now on."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scalems-canary")
        self._found = self._pool.submit(examine)
        self._pool.shutdown(wait=False)

    def result(self) -> dict[str, Any]:
        """Return what was found, see :func:`examine`."""
        return {**self._found.result(), "time": time.time()}


def examine() -> dict[str, Any]:
    """Return what this node is like, in values that survive JSON.

    :return: ``host``, ``time`` (seconds since the epoch), ``libc`` and ``built_libc`` (of the
        host that the environment was built on), ``cpu`` and ``built_cpu`` (levels),
        ``built_here`` (what was compiled there), ``gpus`` and ``driver``,
        ``software`` (name to version, empty where it told none), ``folders`` (each with its free
        bytes, or why nothing can be written there), and ``mpi`` if the environment has mpi4py:
        ``ranks``, ``size`` and ``library``, or ``error``.
    """
    manifest = probe.manifest_of(Path(sys.prefix))
    programs = (manifest.get("site") or {}).get("software") or []
    with ThreadPoolExecutor(max_workers=len(programs) + 1) as pool:
        versions = {one["name"]: pool.submit(_version, one) for one in programs}
        ranks = pool.submit(_mpi) if _has_mpi4py() else None
        return {
            "host": platform.node(),
            "time": time.time(),
            "libc": " ".join(platform.libc_ver()).strip(),
            "built_libc": str((manifest.get("interpreter") or {}).get("libc", "")),
            "cpu": probe.cpu_level(),
            "built_cpu": str(manifest.get("cpu", "")),
            "built_here": sorted(manifest.get("compiled") or {}),
            "gpus": len(machine_gpus()),
            "driver": _driver(),
            "folders": {str(place): _room(place) for place in _places()},
            "software": {name: future.result() for name, future in versions.items()},
            "mpi": ranks.result() if ranks is not None else {},
        }


def _driver() -> str:
    """Return the version of the NVIDIA driver; empty if there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return match[1] if match else ""


def _places() -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), Path(tempfile.gettempdir())]))


def _room(folder: Path) -> int | str:
    """Return how many bytes can be written in a folder, or why none can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"scalems" * 1000)
            file.flush()
            os.fsync(file.fileno())
        return shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or repr(error)


def _version(program: Mapping[str, str]) -> str:
    """Return the version of a program here; empty if it tells none."""
    try:
        done = subprocess.run(
            ["bash", "-c", program["command"]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        match = re.search(program["pattern"], f"{done.stdout}\n{done.stderr}")
        return (match[1] or "").strip() if match else ""
    except (OSError, subprocess.TimeoutExpired, re.error, IndexError):
        return ""


def _has_mpi4py() -> bool:
    return "mpi4py" in probe.versions(probe.sites(Path(sys.prefix)))


def _mpi() -> dict[str, Any]:
    """Start ranks, and return how many see each other and by which library."""
    try:
        done = subprocess.run(
            [*mpi.command(Needs(ranks=_RANKS)), sys.executable, "-c", _MPI],
            env=mpi.environment(Needs(ranks=_RANKS)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UsageError) as error:
        return {"error": str(error).partition("\n")[0]}
    found = re.findall(r"^scalems (\d+) (.*)$", done.stdout, re.MULTILINE)
    if not found:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return {"error": lines[-1] if lines else f"exit code {done.returncode}"}
    return {"ranks": _RANKS, "size": int(found[0][0]), "library": found[0][1].strip("\0 ")}
