"""`env init`: first specs and a resource config, to edit."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from scalems import probe, tomlfile
from scalems.env.lock import ALWAYS
from scalems.errors import UsageError
from scalems.host.files import write_atomic
from scalems.probe import normalize
from scalems.resource import definition
from scalems.resource.config import NAME, Project
from scalems.tomlfile import near

# What a client's venv has for its own sake.
_OURS = ("scalems", "pip", "setuptools", "wheel", "uv", *ALWAYS)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an environment is to contain, found in something that is there.

    :param source: where, for people.
    :param dependencies: requirements, as they were written.
    :param left: lines that are no requirements of packages, for a person to look at.
    """

    source: str
    dependencies: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


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
            "left": list(self.wanted.left),
            "written": [str(path) for path in self.written],
            "kept": [str(path) for path in self.kept],
        }


def initialize(folder: Path, label: str, *, source: Path | None) -> Initialized:
    """Write env specs and a resource config into a folder. What is there stays as it is.

    :param label: a resource that RP has, or a new one, which then extends ``local.localhost``.
    :param source: a requirements file, a ``pyproject.toml``, a ``pylock.toml`` or the folder of a
        venv; by default a ``pyproject.toml`` or ``requirements.txt`` that is in the folder.
    :raises UsageError: the label cannot be one, or the source cannot be read.
    """
    domain, _, name = label.partition(".")
    if not (NAME.fullmatch(domain) and NAME.fullmatch(name)):
        raise UsageError(
            f"{label!r} cannot name a resource{near(label, definition.shipped_labels())}",
            remedy="write DOMAIN.NAME, such as local.localhost",
        )
    wanted = find(source, folder)
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


def find(source: Path | None, folder: Path) -> Wanted:
    """Find out what a project needs.

    :raises UsageError: the source is there but cannot be read.
    """
    if source is None:
        for name in ("pyproject.toml", "requirements.txt"):
            found = _file(folder / name) if (folder / name).is_file() else None
            if found and found.dependencies:
                return found
        return Wanted(source="")
    if source.is_dir():
        return _venv(source)
    if not source.is_file():
        raise UsageError(f"there is no {source}", remedy="name a requirements file, or a venv")
    return _file(source)


def _file(path: Path) -> Wanted:
    if path.suffix != ".toml":
        try:
            return _wanted(str(path), path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
    data = tomlfile.load(path)
    if "lock-version" in data:
        return _wanted(str(path), _locked(data.get("packages")))
    listed = data.get("project", {}).get("dependencies", [])
    return _wanted(str(path), [line for line in listed if isinstance(line, str)])


def _locked(packages: object) -> Iterator[str]:
    """Yield the pins of a ``pylock.toml`` (https://packaging.python.org/specifications/pylock-toml/)."""
    for one in packages if isinstance(packages, list) else ():
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            marker = f" ; {one['marker']}" if "marker" in one else ""
            from_index = "version" in one and not {"vcs", "directory", "archive"} & one.keys()
            pin = f"=={one['version']}" if from_index else " (not of an index)"
            yield f"{one['name']}{pin}{marker}"


def _venv(folder: Path) -> Wanted:
    """Take what nothing else in a venv requires, in the versions that are there."""
    try:
        site = probe.site_packages(folder)
    except FileNotFoundError as error:
        raise UsageError(str(error), remedy="name the folder of a venv") from None
    there = {}
    required = set()
    for dist in importlib.metadata.distributions(path=[str(site)]):
        there[normalize(dist.metadata["Name"])] = dist.version
        for text in dist.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required.add(normalize(requirement.name))
    wanted = sorted(there.keys() - required - set(map(normalize, _OURS)))
    return Wanted(
        source=str(folder), dependencies=tuple(f"{name}=={there[name]}" for name in wanted)
    )


def _wanted(source: str, lines: Iterable[str]) -> Wanted:
    dependencies: dict[str, str] = {}
    left = []
    for line in _logical(lines):
        try:
            requirement = Requirement(re.sub(r"\s+--hash=\S+", "", line))
        except InvalidRequirement:
            left.append(line)
            continue
        name = normalize(requirement.name)
        if requirement.url or (name in dependencies and requirement.marker is None):
            left.append(line)
        elif name != "scalems":
            dependencies[name if requirement.marker is None else line] = str(requirement)
    return Wanted(source=source, dependencies=tuple(dependencies.values()), left=tuple(left))


def _logical(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a requirements file without comments, continued ones joined."""
    joined = ""
    for raw in lines:
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        if text := (joined + line).strip():
            yield text
        joined = ""
    if joined.strip():
        yield joined.strip()


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
        f'python = ">=3.{min(10, sys.version_info.minor)},<3.14"',
    ]
    if wanted.source:
        lines.append(f"# from {_printable(Path(wanted.source).name)}")
    listed = [f"    {json.dumps(text)}," for text in wanted.dependencies]
    lines += ["dependencies = [", *listed, "]"] if listed else ["dependencies = []"]
    if not listed:
        lines.append('# such as: dependencies = ["numpy>=1.26,<3"]')
    if wanted.left:
        lines.append("# These lines are no requirements of packages of an index:")
        lines += [f"#   {_printable(text)}" for text in wanted.left]
    lines += [
        "# Limits on versions of what is only needed indirectly:",
        "# constraints = []",
    ]
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    """Return a text that can stand in a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)
