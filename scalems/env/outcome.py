"""What a sync begins with and what it comes to, on whatever host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scalems.env import spec
from scalems.env.locking import LockResult
from scalems.env.role import Role
from scalems.env.spec import EnvSpec
from scalems.errors import UsageError
from scalems.resource.config import Project, ResourceConfig

Action = Literal["built", "reused", "would build"]


@dataclass(frozen=True, kw_only=True)
class EnvResult:
    """One environment after a sync."""

    name: str
    role: Role
    action: Action
    folder: Path
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """A resource after a sync.

    :param diff: what changed in RP's resource file, as a unified diff.
    :param backup: the former text of that file.
    """

    label: str
    envs: tuple[EnvResult, ...]
    locks: tuple[LockResult, ...]
    definition: Path
    diff: str
    backup: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.label,
            "envs": [
                {
                    "name": env.name,
                    "role": env.role.value,
                    "action": env.action,
                    "folder": str(env.folder),
                    "seconds": env.seconds,
                }
                for env in self.envs
            ],
            "locks": [
                {
                    "name": one.name,
                    "path": str(one.path),
                    "resolved_because": one.reason,
                    "changes": list(one.changes),
                }
                for one in self.locks
            ],
            "definition": {
                "path": str(self.definition),
                "diff": self.diff,
                "backup": str(self.backup) if self.backup else None,
            },
        }


def load_specs(project: Project, config: ResourceConfig) -> list[EnvSpec]:
    """Load the specs of a resource, the Pilot's first; every mistake is in one error.

    The role of each is what it is to this resource: a spec for both may be used for one.
    """
    specs: list[EnvSpec] = []
    faults: list[UsageError] = []
    for name in config.envs:
        try:
            specs.append(spec.load(project.env_path(name)))
        except UsageError as error:
            faults.append(error)
    for one in specs:
        wanted = _role(config, one.name)
        if one.role not in (wanted, Role.BOTH):
            use = "pilot and the task" if wanted is Role.BOTH else wanted.value
            faults.append(
                UsageError(
                    f"{one.path}: role is {one.role.value!r}, but {config.path} uses it as the "
                    f"{use} environment of {config.label}",
                    remedy=f'write role = "both" in {one.path}' if use != wanted.value else None,
                )
            )
    if faults:
        remedies = [fault.remedy for fault in faults if fault.remedy]
        raise UsageError(
            "\n".join(fault.cause for fault in faults), remedy="\n          ".join(remedies) or None
        )
    return [replace(one, role=_role(config, one.name)) for one in specs]


def _role(config: ResourceConfig, name: str) -> Role:
    """Return what an environment is to a resource."""
    if name != config.pilot:
        return Role.TASK
    return Role.BOTH if name in config.tasks else Role.PILOT
