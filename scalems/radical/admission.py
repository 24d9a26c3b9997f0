"""Whether the Worker that answered, and its node, are what was verified before the launch."""

from __future__ import annotations

import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.env.finding import About, Finding, Policy, not_ready
from scalems.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scalems.env import Build

_ROOM = 10_000_000  # bytes that must be free
_SKEW = 10.0  # seconds that clocks may differ by


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
    # What scalems did not build has no manifest: it was looked at just before the start.
    for key in ("input_digest", "content_digest") if build.place is None else ():
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


# --- the node -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """What is wrong with a node.

    :param about: the policy that decides what is done about it; ``None``: it is only told.
    """

    text: str
    remedy: str
    about: About | None = None


def check_node(
    build: Build,
    facts: Mapping[str, Any],
    *,
    gpus: int = 0,
    policies: Mapping[About, Policy] = {},
) -> list[str]:
    """Compare what a node is with what the run asks of it; return what is to be told of it.

    :param facts: from :func:`scalems.radical.canary.examine`, there.
    :param gpus: how many the pilot has asked for.
    :raises EnvironmentNotReady: calls cannot run there; it names the node, and all reasons.
    """
    refused, told = [], []
    for flaw in node_flaws(build, facts, gpus=gpus):
        policy = policies.get(flaw.about, Policy.ERROR) if flaw.about else Policy.WARN
        if policy is Policy.ERROR:
            refused.append(flaw)
        elif policy is Policy.WARN:
            told.append(f"warning: {facts['host']}: {flaw.text} ({flaw.remedy})")
    if refused:
        lines = "\n".join(f"  {flaw.text}" for flaw in refused)
        what = f"the node {facts['host']} cannot run the calls, and the pilot was given back"
        raise EnvironmentNotReady(
            f"{what}:\n{lines}",
            remedy="; ".join(dict.fromkeys(flaw.remedy for flaw in refused)),
        )
    return told


def node_flaws(build: Build, facts: Mapping[str, Any], *, gpus: int = 0) -> Iterator[Flaw]:
    """Yield what is wrong with a node."""
    spec = f"envs/{build.name}.toml"
    if _older(facts["libc"], facts["built_libc"]):
        yield Flaw(
            text=f"its C library is {facts['libc']}, and the environment was built on "
            f"{facts['built_libc']}",
            remedy="sync on a node of this kind, or ask for other nodes",
            about=About.DRIFT,
        )
    if facts["cpu"] == "x86-64-v1":
        yield Flaw(
            text="its CPU has no more than x86-64-v1, and wheels as NumPy's need v2",
            remedy="ask for other nodes",
        )
    elif facts["built_here"] and 0 < _level(facts["cpu"]) < _level(facts["built_cpu"]):
        yield Flaw(
            text=f"its CPU has {facts['cpu']}, and {', '.join(facts['built_here'])}: compiled on "
            f"a host with {facts['built_cpu']}",
            remedy="sync on a node of this kind if it was compiled for its own host "
            "(-march=native), or ask for other nodes",
        )
    if gpus and not facts["gpus"]:
        driver = (
            f"the driver is {facts['driver']}" if facts["driver"] else "it has no NVIDIA driver"
        )
        yield Flaw(
            text=f"it shows no GPU, and {gpus} were asked for; {driver}",
            remedy="ask for a partition with GPUs (--pilot-option queue=NAME), or for none",
            about=About.DRIFT,
        )
    for name, expected in build.software.items():
        found = facts["software"].get(name, "")
        if found != expected:
            yield Flaw(
                text=f"{name} is {found or 'not there'}, and {expected} was verified",
                remedy=f"correct `modules` or `shell` in {spec}, so that they do there what they "
                "do here",
                about=About.DRIFT,
            )
    for folder, room in facts["folders"].items():
        if isinstance(room, str) or room < _ROOM:
            why = room if isinstance(room, str) else f"only {room / 1e6:.1f} MB are left"
            yield Flaw(
                text=f"nothing can be written in {folder}: {why}",
                remedy="free some space there, or set TMPDIR in `shell` of " + spec,
                about=About.DRIFT,
            )
    yield from _clock_flaws(facts)
    yield from _mpi_flaws(facts.get("mpi") or {}, spec)


def _clock_flaws(facts: Mapping[str, Any]) -> Iterator[Flaw]:
    skew = facts["time"] - time.time()
    if abs(skew) > _SKEW:
        yield Flaw(
            text=f"its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}: times of "
            "results are its own",
            remedy="tell the administrators",
        )


def _mpi_flaws(mpi: Mapping[str, Any], spec: str) -> Iterator[Flaw]:
    if error := mpi.get("error"):
        yield Flaw(
            text=f"tasks with ranks will fail: {error}",
            remedy=f"load an MPI in {spec} (`modules`), or set SCALEMS_MPIEXEC there",
        )
    elif mpi and mpi["size"] != mpi["ranks"]:
        yield Flaw(
            text=f"tasks with ranks will fail: of {mpi['ranks']} ranks each sees {mpi['size']}; "
            f"mpi4py uses {mpi['library']}, and mpiexec is of another MPI",
            remedy=f"build mpi4py against the MPI of that mpiexec (no-binary in {spec})",
        )


def _level(cpu: str) -> int:
    """Return the number of a level of x86-64; 0 if it is none."""
    match = re.fullmatch(r"x86-64-v(\d)", cpu)
    return int(match[1]) if match else 0


def _older(libc: str, than: str) -> bool:
    (name, mine), (other, theirs) = (text.partition(" ")[::2] for text in (libc, than))
    if name != other:
        return False
    numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in (mine, theirs)]
    return bool(numbers[0] and numbers[1] and numbers[0] < numbers[1])
