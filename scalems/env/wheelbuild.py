"""Wheels built here from source distributions, for this machine or, if they allow, another."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import sys
import zipfile
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from scalems import probe
from scalems.env import target
from scalems.env.engine.uv import find_uv
from scalems.env.tag import Tag
from scalems.errors import ScalemsError
from scalems.host.local import CommandFailed, run
from scalems.host.scratch import scratch

_GLIBC = re.compile(rb"GLIBC_2\.(\d{1,3})")


class BuildRefused(ScalemsError):
    """A wheel for a target cannot be built here; the cause is the reason."""


def build(sdist: Path, tag: Tag, folder: Path) -> Path:
    """Build a wheel that can be installed on a target; return its path in a folder.

    The same source gives the same bytes where its build tool lets it: the clock is fixed.

    :param sdist: a source distribution whose hash was checked.
    :raises BuildRefused: the build fails, or its wheel is for machines like this only.
    """
    interpreter = _interpreter(tag)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(sdist, interpreter or target.client_interpreter(), folder)
    except CommandFailed as error:
        last = error.cause.strip().splitlines()[-1].strip()
        raise BuildRefused(f"its source cannot be built here: {last}") from error
    made = sorted(folder.glob("*.whl"))
    if len(made) != 1:
        raise BuildRefused(f"its source gives {len(made)} wheels instead of one")
    if reason := unfit(made[0], tag):
        raise BuildRefused(f"there is no wheel for {tag}, and one built here {reason}")
    return made[0]


def unfit(wheel: Path, tag: Tag) -> str:
    """Return why a wheel that was built here cannot be installed on a target; empty if it can."""
    try:
        tags = parse_wheel_filename(wheel.name)[3]
    except InvalidWheelFilename as error:
        return f"is not named as a wheel: {error}"
    if not tags & set(tag.wheels()):
        return f"is for {', '.join(sorted(map(str, tags)))} only"
    if any(one.platform == "any" for one in tags):
        return ""
    needed = _glibc(wheel)
    return f"needs glibc 2.{needed}" if needed > tag.glibc else ""


def _glibc(wheel: Path) -> int:
    """Return the newest glibc 2 minor whose symbols the compiled parts of a wheel name."""
    found = [0]
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".so" in Path(name).name:
                found += map(int, _GLIBC.findall(archive.read(name)))
    return max(found)


@functools.cache
def _interpreter(tag: Tag) -> Path | None:
    """Return an interpreter here of the target's Python, if this is such a machine."""
    if platform.machine() != tag.cpu or not sys.platform.startswith("linux"):
        return None
    if probe.markers()["python_version"] == tag.python:
        return target.client_interpreter()
    place = shutil.which(f"python{tag.python}")
    try:
        version = run([place, "-I", "-c", _VERSION]).stdout.strip() if place else ""
    except CommandFailed:
        return None
    return Path(place) if place and version == tag.python else None


_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def _run(sdist: Path, interpreter: Path, folder: Path) -> None:
    uv = find_uv()
    if uv:
        argv = ["build", "--wheel", "--python", str(interpreter), "--out-dir", str(folder)]
        run([uv, *argv, "--no-progress", str(sdist)], env=_FIXED, cwd=Path("/"))
        return
    with scratch("wheel") as folder:
        builder = folder / "builder"
        made = ["-I", "-m", "virtualenv", "--no-download", "--quiet"]
        run([sys.executable, *made, "--python", str(interpreter), str(builder)], cwd=Path("/"))
        argv = ["-I", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(sdist)]
        python = builder / "bin" / "python"
        run([python, *argv], env={**settings(builder / "bin"), **_FIXED}, cwd=Path("/"))


_FIXED = {"SOURCE_DATE_EPOCH": "315532800"}
"""1980, the first year that a zip file can hold."""


def settings(scripts: Path) -> dict[str, str]:
    """Return the variables that pip is run with.

    :param scripts: folder of the pip that runs. It must be the first on PATH: radical.gtod's
        setup runs the first that it finds, and one of another version would remove the cache
        folder that this one is about to write to.
    """
    found = {
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    if index and not os.environ.get("PIP_INDEX_URL"):
        found["PIP_INDEX_URL"] = index  # who has told uv only has told scalems
    return found
