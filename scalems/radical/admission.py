"""Whether the Worker that answered is what was verified before the launch."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.env.finding import About, Finding, Policy, not_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scalems.env import Build


def check(
    label: str,
    build: Build,
    description: Mapping[str, Any],
    *,
    policies: Mapping[About, Policy] = {},
) -> None:
    """Compare what a Worker says of itself with the verified build of its Task venv.

    :param description: from :func:`scalems.probe.describe`, in the Worker.
    :param policies: what to do about differences; those that were let pass before the launch
        are let pass here.
    :raises EnvironmentNotReady: with every difference.
    """
    found = [
        _finding(label, build, *item)
        for about, *item in _differences(build, description)
        if policies.get(about, Policy.ERROR) is Policy.ERROR
    ]
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
) -> Iterator[tuple[About, str, str, str, str]]:
    prefix = Path(description["prefix"])
    if prefix != build.venv and prefix.resolve() != build.venv.resolve():
        kind = "the Worker runs in another venv"
        yield About.DRIFT, kind, "prefix", str(build.venv), str(prefix)
    mine, theirs = (".".join(v.split(".")[:2]) for v in (_python(), description["python"]))
    if mine != theirs:
        yield About.PARITY, "Python differs from the client's", "python", mine, theirs
    for key in ("input_digest", "content_digest"):
        if description[key] != getattr(build, key):
            kind = "the build is another one"
            yield About.DRIFT, kind, key, getattr(build, key), description[key]
    seen = description["versions"]
    for name in sorted({*build.versions, *seen}):
        expected, got = build.versions.get(name, ""), seen.get(name, "")
        if expected != got:
            yield About.DRIFT, "version differs from the verified one", name, expected, got


def _python() -> str:
    return platform.python_version()
