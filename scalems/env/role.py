"""What runs in an environment."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """What runs in an environment."""

    PILOT = "pilot"
    """RP's agent and the raptor Master."""
    TASK = "task"
    """The raptor Worker and the calls of a workflow."""
    BOTH = "both"
    """All of these: the Pilot venv is a Task venv too."""

    def plays(self, part: Role) -> bool:
        """Whether what runs in such an environment includes another role."""
        return self in (part, Role.BOTH)
