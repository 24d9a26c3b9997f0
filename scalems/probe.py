"""What is installed in a Python environment, read from its metadata and never by importing it.

Standard library only: this module also runs inside the Pilot and Task venvs,
where it tells a Worker what it is made of before the first call.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
"""Name of the file beside a managed venv that says what it must contain."""

# What a level asks for, as the psABI of x86-64 lists it, by the names of Linux in cpuinfo
# (https://gitlab.com/x86-psABIs/x86-64-ABI).
_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
_DIST_INFO = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.dist-info")


def normalize(name: str) -> str:
    """Return the normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(prefix: Path) -> Path:
    """Return the folder of a venv that pure Python packages are installed in.

    :raises FileNotFoundError: there is no such folder below ``prefix``.
    """
    for folder in sorted(prefix.glob("lib/python3.*/site-packages")):
        return folder
    raise FileNotFoundError(f"no site-packages folder below {prefix}")


def sites(prefix: Path) -> list[Path]:
    """Return the folders of a venv that pure Python packages are installed in.

    The second, if there is one, is of the managed venv that this one adds to.

    :raises FileNotFoundError: there is no such folder below ``prefix``, or below that of its base.
    """
    found = [site_packages(prefix)]
    base = manifest_of(prefix).get("base")
    if isinstance(base, dict) and "folder" in base:
        found.append(site_packages(prefix.parent.with_name(str(base["folder"])) / "venv"))
    return found


def versions(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """Return the version of each distribution in the given folders, by normalized name.

    A distribution's folder is named ``{name}-{version}.dist-info``
    (https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
    As on ``sys.path``, the first folder wins.
    """
    found: dict[str, str] = {}
    for path in paths:
        try:
            names = os.listdir(path or ".")  # noqa: PTH208  # twice as fast, on every launch
        except OSError:
            continue
        for name in names:
            if match := _DIST_INFO.fullmatch(name):
                found.setdefault(normalize(match["name"]), match["version"])
    return found


def interpreter() -> dict[str, str]:
    """Return what decides which distributions run in this interpreter; no paths."""
    import platform  # a launch only reads folders
    import sysconfig

    libc = " ".join(platform.libc_ver())
    return {
        "implementation": sys.implementation.name,
        "version": platform.python_version(),
        "cache_tag": sys.implementation.cache_tag or "",
        "soabi": str(sysconfig.get_config_var("SOABI") or ""),
        "platform": sysconfig.get_platform(),
        "libc": libc.strip(),
    }


def cpu_level(text: str | None = None) -> str:
    """Return the level of this node's CPU, such as ``x86-64-v3``; its machine if it has none.

    :param text: what cpuinfo says, by default that of this machine (proc(5)).
    """
    import platform

    if text is None:
        if platform.machine() != "x86_64":
            return platform.machine()
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return platform.machine()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    level = "x86-64-v1"
    for name, needed in _LEVELS:
        if not flags.issuperset(needed.split()):
            break
        level = name
    return level


def markers() -> dict[str, str]:
    """Return the values of the environment markers here (PEP 508)."""
    import platform

    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "platform_python_implementation": platform.python_implementation(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def manifest_of(prefix: Path) -> Mapping[str, Any]:
    """Return the manifest beside a managed venv, or an empty mapping if there is none to trust."""
    try:
        data = json.loads((prefix.parent / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def describe() -> dict[str, Any]:
    """Describe the running interpreter in values that survive JSON and msgpack.

    :return: ``python`` (version), ``interpreter`` and ``markers`` (see the functions of these
        names), ``prefix``, ``executable``, ``host``, ``pid``, ``versions`` by distribution, and the
        ``input_digest`` and ``content_digest`` of its build, empty when it is not managed.
    """
    import platform
    import socket

    manifest = manifest_of(Path(sys.prefix))
    return {
        "python": platform.python_version(),
        "interpreter": interpreter(),
        "markers": markers(),
        "prefix": sys.prefix,
        "executable": sys.executable,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "versions": versions(sys.path),
        "input_digest": str(manifest.get("input_digest", "")),
        "content_digest": str(manifest.get("content_digest", "")),
    }


FRAME = ("<<<scalems ", " scalems>>>")


def main() -> None:
    """Print the description, framed so that a site hook which prints cannot break the reader."""
    sys.stdout.write(f"\n{FRAME[0]}{json.dumps(describe())}{FRAME[1]}\n")


def parse(text: str) -> dict[str, Any]:
    """Find a framed description in what a probe printed.

    :raises ValueError: there is none.
    """
    _, start, rest = text.partition(FRAME[0])
    body, end, _ = rest.partition(FRAME[1])
    if not (start and end):
        raise ValueError("the probe printed no description")
    try:
        data = json.loads(body)
    except RecursionError:
        raise ValueError("what the probe printed is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("the probe printed no description")
    return data


if __name__ == "__main__":
    main()
