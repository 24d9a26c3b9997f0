"""`env init`: first specs and a resource config, to edit."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env.wanted import Wanted, find
from scalems.errors import UsageError
from scalems.host.files import write_atomic
from scalems.resource import definition
from scalems.resource.config import NAME, Project
from scalems.tomlfile import near


@dataclass(frozen=True, kw_only=True)
class Initialized:
    """What `env init` wrote, and what it found there and left alone."""

    label: str
    wanted: Wanted
    written: tuple[Path, ...]
    kept: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.label,
            "source": self.wanted.source,
            "dependencies": list(self.wanted.dependencies),
            "constraints": list(self.wanted.constraints),
            "packages": dict(self.wanted.packages),
            "left": list(self.wanted.left),
            "written": [str(path) for path in self.written],
            "kept": [str(path) for path in self.kept],
        }


def initialize(
    folder: Path,
    label: str,
    *,
    source: Path | None,
    extras: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> Initialized:
    """Write env specs and a resource config into a folder. What is there stays as it is.

    :param label: a resource that RP has, or a new one, which then extends ``local.localhost``.
    :param source: a requirements file, a ``pyproject.toml``, a ``pylock.toml``, an
        ``environment.yml`` of conda or the folder of a venv; by default the first of
        :data:`scalems.env.wanted.USUAL` that is in the folder.
    :param extras: of a ``pyproject.toml``: its optional dependencies that are wanted too.
    :param groups: of a ``pyproject.toml``: its dependency groups that are wanted too.
    :raises UsageError: the label cannot be one, the source cannot be read, or it has no such
        extra or group.
    """
    domain, _, name = label.partition(".")
    if not (NAME.fullmatch(domain) and NAME.fullmatch(name)):
        raise UsageError(
            f"{label!r} cannot name a resource{near(label, definition.shipped_labels())}",
            remedy="write DOMAIN.NAME, such as local.localhost",
        )
    wanted = find(source, folder, extras=extras, groups=groups)
    project = Project(folder)
    known = label in definition.shipped_labels()
    texts = {
        project.envs / "pilot.toml": _PILOT,
        project.envs / "task.toml": _task(wanted),
        project.configs / f"{domain}.toml": _CONFIG.format(
            domain=domain, name=name, label=label, extends=label if known else "local.localhost"
        ),
    }
    written = [path for path in texts if not path.exists()]
    for path in written:
        write_atomic(path, texts[path])
    return Initialized(
        label=label,
        wanted=wanted,
        written=tuple(written),
        kept=tuple(path for path in texts if path not in written),
    )


_PYTHON = f">=3.{min(10, sys.version_info.minor)},<3.14"

_PILOT = """\
# The Pilot venv: RADICAL-Pilot's agent and the raptor master run in it.
# radical.pilot, cloudpickle and scalems are always there, in the client's versions.
role = "pilot"
python = ">=3.10,<3.14"
dependencies = []
"""

_CONFIG = """\
# Resources of the domain "{domain}". Each table extends a resource that RADICAL-Pilot knows.

[{name}]                           # {label}
extends = "{extends}"
pilot = "pilot"                    # envs/pilot.toml
tasks = ["task"]                   # envs/task.toml

# Fields of RADICAL-Pilot's resource definition that differ from the one that is extended:
# [{name}.definition]
# cores_per_node = 64
"""


def _task(wanted: Wanted) -> str:
    lines = [
        "# The Task venv: the raptor Worker and the calls of your tasks run in it.",
        "# radical.pilot, cloudpickle and scalems are always there, in the client's versions.",
        'role = "task"',
        f"python = {json.dumps(wanted.python or _PYTHON)}",
    ]
    if wanted.source:
        lines.append(f"# from {_printable(Path(wanted.source).name)}")
    listed = [f"    {json.dumps(text)}," for text in wanted.dependencies]
    lines += ["dependencies = [", *listed, "]"] if listed else ["dependencies = []"]
    if not listed:
        lines.append('# such as: dependencies = ["numpy>=1.26,<3"]')
    if wanted.left:
        lines.append("# These lines were not taken:")
        lines += [f"#   {_printable(text)}" for text in wanted.left]
    lines.append("# Limits on versions of what is only needed indirectly:")
    limits = [f"    {json.dumps(text)}," for text in wanted.constraints]
    lines += ["constraints = [", *limits, "]"] if limits else ["# constraints = []"]
    for name, table in wanted.packages.items():
        values = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        lines += ["", f"[packages.{json.dumps(name)}]", *values]
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    """Return a text that can stand in a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)
