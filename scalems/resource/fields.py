"""Where each field of a resource definition comes from, and what RP makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.errors import UsageError
from scalems.resource import definition
from scalems.resource.config import find_project
from scalems.tomlfile import near

RP, USER, OURS = "RADICAL-Pilot", "the user's file", "scalems"
PROJECT = "the project, once it is synced"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a definition; objects in it are fields of their own, with dotted keys.

    :param origin: who sets it.
    :param shipped: what RP itself would have there, if that is another value.
    """

    key: str
    value: Any
    origin: str
    shipped: Any = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What RP asks a batch system for when a pilot of so many nodes is submitted."""

    nodes: int
    cores: int
    gpus: int

    @classmethod
    def of(cls, fields: Mapping[str, Any], nodes: int) -> Request:
        """Work it out from a definition.

        RP counts hardware threads as cores (``system_architecture.smt``) and leaves out
        those that ``blocked_cores`` and ``blocked_gpus`` name.

        :raises UsageError: the definition does not say how many cores a node has.
        """
        architecture = fields.get("system_architecture") or {}
        smt = int(architecture.get("smt") or 1)
        cores = int(fields.get("cores_per_node") or 0) * smt
        if cores < 1:
            raise UsageError(
                "the definition does not say how many cores a node has",
                remedy="set cores_per_node in [NAME.definition] of the resource config",
            )
        cores -= len(architecture.get("blocked_cores") or ())
        gpus = int(fields.get("gpus_per_node") or 0) - len(architecture.get("blocked_gpus") or ())
        return cls(nodes=nodes, cores=nodes * cores, gpus=nodes * max(gpus, 0))


def known_labels() -> dict[str, str]:
    """Return all resources that RP would find, and who defines each."""
    found = dict.fromkeys(definition.shipped_labels(), RP)
    for path in sorted(definition.user_folder().glob("resource_*.json")):
        domain = path.stem.removeprefix("resource_")
        for name in definition.user_entries(domain):
            label = f"{domain}.{name}"
            found[label] = f"{RP} and {USER}" if label in found else USER
    return dict(sorted(found.items()))


def planned_labels() -> list[str]:
    """Return the resources of the project here, if there is one, that RP would not find yet."""
    try:
        project = find_project()
    except UsageError:
        return []
    return sorted(set(project.labels()) - known_labels().keys())


def of(label: str, ours: Mapping[str, Any]) -> list[Field]:
    """Return the fields of a resource as RP would read them.

    :param ours: what scalems has set there.
    :raises UsageError: there is no such resource, or the user's file is not valid.
    """
    domain, _, name = label.partition(".")
    known = known_labels()
    if label not in known:
        if label in planned_labels():
            raise UsageError(
                f"{label} has a resource config, and is told to RADICAL-Pilot when it is synced",
                remedy=f"scalems env sync --resource {label}; with --dry-run it shows what to",
            )
        raise UsageError(
            f"RADICAL-Pilot knows no resource {label!r}{near(label, known)}",
            remedy="scalems resource list",
        )
    shipped = dict(_flat(definition.shipped(domain).get(name, {})))
    user = dict(_flat(definition.fields_of(label)))
    flat_ours = dict(_flat(ours))
    found = []
    for key in sorted(shipped.keys() | user.keys()):
        if key not in user:
            found.append(Field(key=key, value=shipped[key], origin=RP))
            continue
        origin = OURS if key in flat_ours and flat_ours[key] == user[key] else USER
        other = shipped.get(key) if shipped.get(key) != user[key] else None
        found.append(Field(key=key, value=user[key], origin=origin, shipped=other))
    return found


def mode(fields: Mapping[str, Any]) -> str:
    """Say what RP does about the Pilot's environment, by ``virtenv_mode``."""
    name = fields.get("virtenv_mode") or ""
    if name == "use" and fields.get("rp_version") == "installed":
        venv = Path(str(fields.get("virtenv") or ""))
        return f"static: the pilot runs in {venv} and installs nothing"
    if name == "use":
        return (
            f"the pilot runs in {fields.get('virtenv')} but installs RADICAL-Pilot "
            f"({fields.get('rp_version')}) beside it at every start"
        )
    told = {
        "local": "the pilot runs in the client's own venv, by the path that it has here",
        "create": "RADICAL-Pilot makes a venv if there is none, at the start of a pilot",
        "update": "RADICAL-Pilot makes or updates a venv at the start of every pilot",
        "recreate": "RADICAL-Pilot makes a new venv at the start of every pilot",
        "private": "RADICAL-Pilot makes a venv of its own for every pilot",
        "none": "the pilot runs in the Python that it finds",
    }
    return told.get(str(name), f"virtenv_mode is {name!r}") + "; nothing of it is verified"


def request(fields: Mapping[str, Any], *, cores: int) -> Request:
    """Return what a pilot of so many cores would ask for: whole nodes."""
    one = Request.of(fields, 1)
    return Request.of(fields, max(1, math.ceil(cores / one.cores)))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
