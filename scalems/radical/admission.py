"""Whether the Worker that answered is what was verified before the launch."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.env.finding import Finding, not_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scalems.env import Build


def check(label: str, build: Build, description: Mapping[str, Any]) -> None:
    """Compare what a Worker says of itself with the verified build of its Task venv.

    :param description: from :func:`scalems.probe.describe`, in the Worker.
    :raises EnvironmentNotReady: with every difference.
    """
    found = [_finding(label, build, *item) for item in _differences(build, description)]
    if found:
        raise not_ready(label, found)


def _finding(
    label: str, build: Build, kind: str, subject: str, expected: str, seen: str
) -> Finding:
    return Finding(
        env=build.name,
        kind=kind,
        subject=subject,
        expected=expected,
        found=seen,
        remedy=f"scalems env sync --resource {label}",
    )


def _differences(
    build: Build, description: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    prefix = Path(description["prefix"])
    if prefix != build.venv and prefix.resolve() != build.venv.resolve():
        yield "the Worker runs in another venv", "prefix", str(build.venv), str(prefix)
    mine, theirs = (".".join(v.split(".")[:2]) for v in (_python(), description["python"]))
    if mine != theirs:
        yield "Python differs from the client's", "python", mine, theirs
    for key in ("input_digest", "content_digest"):
        if description[key] != getattr(build, key):
            yield "the build is another one", key, getattr(build, key), description[key]
    seen = description["versions"]
    for name in sorted({*build.versions, *seen}):
        expected, got = build.versions.get(name, ""), seen.get(name, "")
        if expected != got:
            yield "version differs from the verified one", name, expected, got


def _python() -> str:
    return platform.python_version()
