"""The Python of this user: what it is, and what leaks into it."""

from __future__ import annotations

import os
import platform
import site
import sys
from collections.abc import Iterator
from pathlib import Path

from scalems import probe
from scalems.doctor.finding import Diagnosis, error, good, warning
from scalems.env import parity


def version() -> Iterator[Diagnosis]:
    """Look at which Python this is, and at an active conda environment beside it."""
    number = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield good("Python", f"{number} in {sys.prefix}")
    else:
        yield warning("Python", f"{number} is not tested", "use Python 3.10 to 3.13")
    prefix = os.environ.get("CONDA_PREFIX")
    if prefix and Path(sys.prefix) != Path(prefix) and sys.prefix != sys.base_prefix:
        yield warning(
            "conda", f"{prefix} is active, and scalems runs in {sys.prefix}", "conda deactivate"
        )


def variables() -> Iterator[Diagnosis]:
    """Look for variables that put other code before what is installed."""
    names = [name for name in ("PYTHONPATH", "PYTHONHOME") if os.environ.get(name)]
    for name in names:
        yield warning(
            name,
            f"is set to {os.environ[name]!r}: what it names comes before what is installed",
            f"unset {name}",
        )
    if not names:
        yield good("variables", "neither PYTHONPATH nor PYTHONHOME is set")


def user_site() -> Iterator[Diagnosis]:
    """Look for RADICAL-Cybertools in the user's own site-packages."""
    folder = site.getusersitepackages()
    there = probe.versions([folder])
    shadowing = sorted(there.keys() & parity.RULES.keys())
    if shadowing:
        listed = ", ".join(f"{name} {there[name]}" for name in shadowing)
        yield warning(
            "user site",
            f"{folder} has {listed}: a Python outside of a venv would take them",
            f"python3 -m pip uninstall {' '.join(shadowing)}",
        )
    else:
        yield good("user site", "has none of the RADICAL-Cybertools")


def radical() -> Iterator[Diagnosis]:
    """Look whether the RADICAL-Cybertools are of one series."""
    versions = probe.versions(sys.path)
    stack = {name: versions[name] for name in parity.RULES if name.startswith("radical")}
    series = {tuple(version.split(".")[:2]) for version in stack.values()}
    shown = ", ".join(f"{name} {version}" for name, version in stack.items())
    if len(series) > 1:
        yield error(
            "RADICAL-Cybertools",
            f"of different series: {shown}",
            "pip install --upgrade radical.pilot radical.utils radical.gtod",
        )
    else:
        yield good("RADICAL-Cybertools", shown)
