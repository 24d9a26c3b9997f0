"""What a pilot asks its resource for: nodes, cores and time, and what its Workers get of them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalems.errors import UsageError
from scalems.resource import definition, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scalems.radical.settings import Settings

_LOCAL = ("fork://", "local://")
_LOCAL_RUNTIME = 7 * 24 * 60  # minutes: the server ends a local pilot, not the clock
_BATCH_RUNTIME = 60  # minutes
_LOCAL_SPARE = 4  # RP's cores are its imagination here


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many cores each Worker gets, and runs calls on."""

    cores: tuple[int, ...]
    slots: tuple[int, ...]
    pilot: int
    """Cores of the pilot, with the master's."""

    @classmethod
    def of(cls, slots: int, *, per_node: int, fake: bool, nodes: int = 0) -> Layout:
        """Spread slots over nodes.

        The master needs a core. On real nodes the last Worker lends it one of its own,
        rather than have a whole node be allocated for it.

        :param fake: whether nodes are RP's imagination, as on this machine.
        :param nodes: how many there are, to be used evenly; 0 for as few as will do.
        """
        if nodes:
            count = min(nodes, slots)
            shares = [slots // count + (index < slots % count) for index in range(count)]
        else:
            count = math.ceil(slots / per_node)
            shares = [per_node] * (count - 1) + [slots - per_node * (count - 1)]
        cores = list(shares)
        full = all(share >= per_node for share in shares) and count >= nodes
        if not fake and (full if nodes else cores[-1] == per_node) and cores[-1] > 1:
            cores[-1] -= 1
        return cls(cores=tuple(cores), slots=tuple(shares), pilot=sum(cores) + 1)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the pilot of a run asks for."""

    label: str
    local: bool
    """Whether the pilot is started on this machine, and no batch system is asked."""
    slots: int
    """How many calls run at a time."""
    layout: Layout
    spare: int
    """Cores beside those of the Workers: for services, and tasks of RP's own."""
    nodes: int
    """0 if the definition does not say how large a node is."""
    per_node: int
    """Cores of a node; 0 if that is not known, or nodes are RP's imagination."""
    runtime: int
    """Minutes."""
    queue: str
    project: str
    fields: Mapping[str, Any]
    """Those of RP's PilotDescription."""

    @classmethod
    def of(cls, settings: Settings, resource: Mapping[str, Any]) -> Request:
        """Work out what to ask for.

        :param resource: the resource's definition, with the access schema merged in.
        :raises UsageError: the definition does not tell enough, or it does not fit.
        """
        options = dict(settings.options)
        local = str(resource.get("job_manager_endpoint")).startswith(_LOCAL)
        per_node = 0
        if int(resource.get("cores_per_node") or 0) > 0:
            per_node = fields.Request.of(resource, 1).cores
        nodes = int(options.get("nodes") or 0)
        spare = settings.spare if settings.spare is not None else _LOCAL_SPARE * local
        whole = (nodes or 1) * per_node - (spare + 1 if spare else 0)  # one is the master's
        slots = settings.slots or (_cores() if local and not nodes else whole if per_node else 0)
        if per_node and slots < 1:
            raise UsageError(
                f"--spare-cores {spare} leaves no core for calls, as a node has {per_node}",
                remedy="ask for fewer, or for more --nodes",
            )
        if not slots:
            raise UsageError(
                f"the definition of {settings.label} does not say how many cores a node has",
                remedy="say how many to use with --cores",
            )
        layout = Layout.of(
            slots,
            per_node=per_node or slots,
            fake=(local or not per_node) and not nodes,
            nodes=nodes,
        )
        if nodes and per_node and layout.pilot + spare > nodes * per_node:
            raise UsageError(
                f"{slots} cores for calls, {f'{spare} spare ones ' * (spare > 0)}"
                "and one for RADICAL-Pilot's master do not fit on "
                f"{nodes} nodes of {per_node} cores",
                remedy="ask for fewer --cores, or for more nodes",
            )
        runtime = settings.runtime or (_LOCAL_RUNTIME if local else _BATCH_RUNTIME)
        asked = {"resource": settings.label, "runtime": runtime, "exit_on_error": False}
        if not nodes:
            asked["cores"] = layout.pilot + spare
        queue = options.get("queue") or resource.get("default_queue")
        return cls(
            label=settings.label,
            local=local,
            slots=slots,
            layout=layout,
            spare=spare,
            nodes=nodes
            or (math.ceil((layout.pilot + spare) / per_node) if per_node and not local else 0),
            per_node=0 if local else per_node,
            runtime=runtime,
            queue=str(queue or ""),
            project=str(options.get("project") or ""),
            fields={**asked, **options},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "resource": self.label,
            "nodes": self.nodes,
            "cores": self.layout.pilot + self.spare,
            "spare": self.spare,
            "runtime": self.runtime,
            "queue": self.queue,
            "project": self.project,
            "slots": self.slots,
            "workers": [
                list(pair) for pair in zip(self.layout.cores, self.layout.slots, strict=True)
            ],
            "pilot description": dict(self.fields),
        }

    def text(self) -> str:
        """Return it in lines for people."""
        what = f"{self.layout.pilot + self.spare} cores"
        if self.local:
            what += " of this machine"
        elif self.nodes:
            what = f"{self.nodes} node{'s' * (self.nodes > 1)}, {what}"
        where = " ".join(
            f"{name} {value!r}"
            for name, value in (("queue", self.queue), ("project", self.project))
            if value and not self.local
        )
        workers = len(self.layout.slots)
        lines = [
            f"a pilot on {self.label} would ask for {what}, for {self.runtime} minutes"
            + f", {where}" * bool(where),
            f"{workers} Worker{'s' * (workers > 1)} would run {self.slots} calls at a time "
            f"({' + '.join(map(str, self.layout.slots))})",
            "RADICAL-Pilot's PilotDescription:",
            *(f"  {key} = {value!r}" for key, value in sorted(self.fields.items())),
        ]
        return "\n".join(lines)


def preview(settings: Settings) -> Request:
    """Work out what a run would ask for, without RP.

    :raises UsageError: there is no such resource, or it does not fit.
    """
    found = definition.effective(settings.label)
    schemas = found.get("schemas") or {}
    name = settings.options.get("access_schema") or found.get("default_schema")
    return Request.of(settings, {**found, **(schemas.get(name) or {})})


def _cores() -> int:
    return len(os.sched_getaffinity(0))
