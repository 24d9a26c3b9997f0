"""Resources that have no resource config: RADICAL-Pilot sees to their Pilot venv itself.

They remain usable. What RADICAL-Pilot is going to do is told, what can be compared of it is, and
the Task venv is verified as always.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import adopt, layout, parity, state, target, verification
from scalems.env.finding import About, Finding, Policy, Severity, errors, not_ready
from scalems.env.state import Synced
from scalems.env.verification import VerifiedResource
from scalems.errors import UsageError
from scalems.resource import definition, fields
from scalems.resource.config import find_project
from scalems.tomlfile import near

_SPEAK = ("radical-pilot", "radical-utils")  # what client and agent must have alike


def is_so(label: str) -> bool:
    """Whether RADICAL-Pilot knows a resource that was never synced and has no resource config."""
    domain, _, name = label.partition(".")
    known = label in definition.shipped_labels() or name in definition.user_entries(domain)
    if label in state.labels(layout.default()) or not known:
        return False
    try:
        return label not in find_project().labels()
    except UsageError:
        return True  # there is no project


def verify(label: str, venv: str, *, policies: Mapping[About, Policy] = {}) -> VerifiedResource:
    """Verify what can be verified of such a resource, and a Task venv for it.

    :param venv: name of a Task venv that was synced for another resource of this machine, or
        the folder of one that scalems did not build.
    :raises UsageError: there is no such Task venv.
    :raises EnvironmentNotReady: with every difference that no policy lets pass.
    """
    found = list(_pilot(label, definition.effective(label)))
    policy = policies.get(About.PARITY, Policy.ERROR)
    if policy is Policy.ERROR and errors(found):
        raise not_ready(label, errors(found))
    if "/" in venv:
        taken = adopt.verify(venv, resource=label, pilot=False, worker=True, policies=policies)
    else:
        taken = verification.verify(_owner(venv), tasks=[venv], policies=policies, hold=True)
    remarks = (one for one in found if one.severity is Severity.WARNING)
    tolerated = errors(found) if policy is Policy.WARN else []
    return replace(
        taken,
        label=label,
        tolerated=(*taken.tolerated, *tolerated),
        remarks=(*taken.remarks, *remarks),
    )


def _pilot(label: str, resource: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is to be told of the Pilot venv, and what differs in one that is there."""
    mode = str(resource.get("virtenv_mode") or "")
    yield Finding(
        env=label,
        kind="RADICAL-Pilot sees to the Pilot venv itself",
        subject=f"virtenv_mode = {mode}: {fields.mode(resource)} "
        f"(`scalems env init --resource {label}` has it built and verified)",
        severity=Severity.WARNING,
    )
    yield from _stack(label, mode, resource)


def _stack(label: str, mode: str, resource: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where the RADICAL stack that the agent gets differs from the client's.

    As RADICAL-Pilot's bootstrapper has it: ``rp_version`` alone decides whether pip installs
    the stack, into the pilot's sandbox; a venv that it makes stays without.
    """
    here = parity.pins(target.client().versions)
    ours = here.get("radical-pilot", "")
    mend = (
        f'set "rp_version": "@{ours}" in the definition of {label}, or have scalems build it: '
        f"scalems env init --resource {label}"
    )
    source = str(resource.get("rp_version") or "installed")
    place = Path(str(resource.get("virtenv") or ""))
    if source.startswith("@"):
        if (version := source[1:]) != ours:
            where = f"rp_version = {source}"
            yield _differs(label, where, "radical-pilot", (ours, version), remedy=mend)
    elif source != "installed":
        yield Finding(
            env=label,
            kind="the agent's RADICAL-Pilot is the newest of the index",
            subject=f"rp_version = {source}; the client has {ours}",
            severity=Severity.WARNING,
            remedy=mend,
        )
    elif mode in ("recreate", "private") or (mode in ("create", "update") and not place.exists()):
        yield Finding(
            env=label,
            kind="the agent has no RADICAL-Pilot",
            subject=f"virtenv_mode = {mode} makes a venv, and rp_version = installed puts nothing "
            "into it",
            about=About.PARITY,
            severity=Severity.ERROR,
            remedy=mend,
        )
    elif mode != "local" and place.is_absolute() and place.exists():
        yield from _there(label, place, here)


def _there(label: str, place: Path, here: Mapping[str, str]) -> Iterator[Finding]:
    """Yield where a venv that is there already differs from the client."""
    try:
        there = probe.versions([probe.site_packages(place)])
    except FileNotFoundError:
        there = {}
    for name in _SPEAK:
        if there.get(name) != here.get(name):
            yield _differs(
                label,
                str(place),
                name,
                (here.get(name, ""), there.get(name, "")),
                remedy=f"install the client's there: {place}/bin/pip install "
                f"{name}=={here.get(name)}",
            )


def _differs(
    label: str, where: str, name: str, versions: tuple[str, str], *, remedy: str
) -> Finding:
    return Finding(
        env=label,
        kind=f"version differs from the client's in {where}",
        subject=name,
        expected=versions[0],
        found=versions[1],
        about=About.PARITY,
        severity=Severity.ERROR,
        remedy=remedy,
    )


def _owner(name: str) -> str:
    """Return a resource of this machine that has a Task venv of a name.

    :raises UsageError: there is none; near names are offered.
    """
    place = layout.default()
    several = [one for label in state.labels(place) if (one := state.read(place, label))]
    here: dict[str, list[Synced]] = {}
    for one in several:
        for env in one.tasks if one.host is None else ():
            here.setdefault(env.name, []).append(one)
    if name not in here:
        raise UsageError(
            f"no resource of this machine has a Task venv {name!r}{near(name, here)}",
            remedy=f"use one of: {', '.join(here)}"
            if here
            else "name the folder of a venv (--venv /PATH), or sync one: scalems env init",
        )
    folders = {env.folder for one in here[name] for env in one.tasks if env.name == name}
    if len(folders) > 1:
        labels = ", ".join(one.label for one in here[name])
        raise UsageError(
            f"the Task venv {name!r} is not the same in {labels}",
            remedy="name the folder of one: --venv /PATH",
        )
    return here[name][0].label
