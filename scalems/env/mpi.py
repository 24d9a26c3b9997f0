"""MPI: which library an environment's mpi4py runs with, and whether `mpiexec` is of the same.

A program of one MPI that is started by the `mpiexec` of another does not fail: each rank
believes to be alone. So both are asked, as a task sees them: the library by
``MPI_Get_library_version`` (https://www.mpi-forum.org/docs/, 9.1.1), the launcher by
``mpiexec --version``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from scalems.env.finding import About, Finding, Severity
from scalems.env.site import Site
from scalems.host.local import CommandFailed, run

PACKAGE = "mpi4py"
DIFFERENT = "mpiexec is of another MPI than mpi4py"
"""Kind of the finding."""
_LIMIT = 60.0  # seconds

_FAMILIES = (
    ("Open MPI", re.compile(r"Open ?(?:MPI|RTE)\)? v?(\d[\w.]*)", re.IGNORECASE)),
    ("Intel MPI", re.compile(r"Intel\(R\) MPI Library\D*?(\d{4}[\d.]*)")),
    ("MVAPICH", re.compile(r"MVAPICH\d?\s+Version\s*:?\s*(\d[\w.]*)", re.IGNORECASE)),
    ("MPICH", re.compile(r"(?:MPICH|HYDRA)[\s\S]*?Version:\s*(\d[\w.]*)", re.IGNORECASE)),
)
_MARK = "scalems-mpi:"
_CODE = f"""
import json, mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
maps = {{line.split()[-1] for line in open("/proc/self/maps") if "libmpi" in line}}
print("{_MARK}" + json.dumps([MPI.Get_library_version(), sorted(maps)[:1]]))
"""


def name(text: str) -> str:
    """Return the MPI that a text of its own names, such as ``Open MPI 4.1.4``; else empty."""
    for family, pattern in _FAMILIES:
        if match := pattern.search(text):
            return f"{family} {match[1].rstrip('.')}"
    return ""


def library(venv: Path, site: Site) -> dict[str, str]:
    """Return which MPI the mpi4py of a venv runs with, in the environment as a task sees it.

    :return: ``name`` and ``file`` of the library; empty if it finds none.
    """
    python = shlex.quote(str(venv / "bin" / "python"))
    try:
        done = _run(site, f"exec {python} -I -c {shlex.quote(_CODE)}")
        _, mark, rest = done.partition(_MARK)
        text, files = json.loads(rest.splitlines()[0]) if mark else ("", [])
    except (CommandFailed, ValueError):
        return {}
    return {"name": name(text) or text.splitlines()[0].strip(), "file": "".join(files)}


def launcher(site: Site) -> str:
    """Return which MPI the ``mpiexec`` of an environment is of; empty if there is none."""
    # Where ranks are started by another command, the far side is told it by the same variable.
    try:
        return name(_run(site, "exec ${SCALEMS_MPIEXEC:-mpiexec} --version 2>&1"))
    except CommandFailed:
        return ""


def check(
    env: str, site: Site, known: Mapping[str, str], *, built_here: bool = False
) -> Iterator[Finding]:
    """Compare the library that an environment was verified with with the launcher that is there.

    :param known: what :func:`library` found then.
    :param built_here: whether mpi4py was built from its source: a sync then builds it anew.
    """
    mine = known.get("name", "")
    other = launcher(site) if mine else ""
    if not other or mine == other:
        return
    instead = f"build mpi4py with that of {other}"
    way = f"let a sync {instead}" if built_here else f'{instead}: no-binary = ["{PACKAGE}"]'
    same = mine.partition(".")[0] == other.partition(".")[0]  # family and major version
    yield Finding(
        env=env,
        kind=DIFFERENT,
        subject=PACKAGE,
        expected=mine,
        found=other,
        severity=Severity.WARNING if same else Severity.ERROR,
        remedy=f"load the module of {mine} in envs/{env}.toml, or {way}",
        about=About.PARITY,
    )


def _run(site: Site, command: str) -> str:
    script = "\n".join(["set -e", *site.lines, "set +e", "unset PYTHONPATH PYTHONHOME", command])
    done = run(["bash", "-c", script], cwd=Path("/"), limit=_LIMIT)
    return f"{done.stdout}\n{done.stderr}"
