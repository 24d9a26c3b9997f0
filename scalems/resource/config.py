"""Resource configs: which RP definition to extend and which environments it gets.

They come from ``resource-configs/DOMAIN.toml``; each table in one is a resource
that RP and scalems call ``DOMAIN.TABLE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalems import tomlfile
from scalems.errors import UsageError
from scalems.host.address import Host, split
from scalems.resource import lines
from scalems.resource import root as project_root
from scalems.resource.lines import Lines
from scalems.tomlfile import near

SCHEMA = Path(__file__).with_name("config.schema.json")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
"""What either half of a label may be: they become parts of file names."""
MANAGED = ("virtenv", "virtenv_mode", "rp_version")
"""Fields of a resource definition that scalems itself decides."""
WHOLE = (
    "default_remote_workdir",
    "default_schema",
    "launch_methods",
    "resource_manager",
    "schemas",
)
"""Fields that a definition which extends no other needs; RP has no use for it without."""


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """One resource, as its author wrote it."""

    label: str
    path: Path
    extends: str | None = None
    """Label of the definition to start from; ``None``: :attr:`definition` is all of it."""
    pilot: str
    tasks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    definition: Mapping[str, Any] = field(default_factory=dict)
    lines: Lines = field(default_factory=Lines)
    """Shell lines for all its Task venvs, after those of the env spec."""
    host: Host | None = None
    """Where its environments are; ``None`` is this machine."""

    @property
    def envs(self) -> tuple[str, ...]:
        """Names of all its environments, each once, the Pilot's first."""
        return tuple(dict.fromkeys((self.pilot, *self.tasks)))

    def decided(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return those fields of a resource definition that scalems or this config decides."""
        ours = {*MANAGED, *self.definition}
        return {name: value for name, value in fields.items() if name in ours}


@dataclass(frozen=True)
class Project:
    """A folder with ``envs/`` and ``resource-configs/`` in it."""

    root: Path

    @property
    def envs(self) -> Path:
        """Folder of the env specs and their locks."""
        return self.root / "envs"

    @property
    def configs(self) -> Path:
        """Folder of the resource configs."""
        return self.root / "resource-configs"

    def env_names(self) -> list[str]:
        """Return the names of all env specs."""
        return sorted(path.stem for path in self.envs.glob("*.toml"))

    def env_path(self, name: str) -> Path:
        """Return the file of an env spec.

        :raises UsageError: there is none of that name; near names are offered.
        """
        path = self.envs / f"{name}.toml"
        if re.fullmatch(r"[\w-]{1,100}", name, re.ASCII) and path.is_file():
            return path
        known = self.env_names()
        raise UsageError(
            f"there is no env spec {name!r} in {self.envs}{near(name, known)}",
            remedy=f"write {path}, or use one of: {', '.join(known) or '(none yet)'}",
        )

    def labels(self) -> list[str]:
        """Return the labels of all resources, of those files that are valid TOML tables."""
        found = []
        for path in sorted(self.configs.glob("*.toml")):
            found += [f"{path.stem}.{name}" for name in tomlfile.top_keys(path)]
        return found

    def resource(self, label: str) -> ResourceConfig:
        """Read the config of one resource.

        :param label: ``DOMAIN.NAME``.
        :raises UsageError: unknown label (near ones are offered), or mistakes in its file.
        """
        domain, _, name = label.partition(".")
        path = self.configs / f"{domain}.toml"
        data: dict[str, Any] = {}
        if NAME.fullmatch(domain) and NAME.fullmatch(name) and path.is_file():
            data = tomlfile.read(path, SCHEMA, rules=_mistakes)
        if name not in data:
            known = self.labels()
            raise UsageError(
                f"there is no resource {label!r} in {self.configs}{near(label, known)}",
                remedy=f"write [{name or 'NAME'}] in {path}, "
                f"or use one of: {', '.join(known) or '(none yet)'}",
            )
        table = data[name]
        return ResourceConfig(
            label=label,
            path=path,
            extends=table.get("extends"),
            pilot=table["pilot"],
            tasks=tuple(table.get("tasks", ())),
            targets=tuple(table.get("targets", ())),
            definition=table.get("definition", {}),
            lines=Lines.of(table),
            host=Host(
                name=table["host"],
                root=table.get("root", ""),
                python=table.get("python", ""),
                offline=table.get("offline", False),
            )
            if "host" in table
            else None,
        )


def find_project(folder: Path | None = None) -> Project:
    """Return the project that a folder belongs to: the nearest parent with ``resource-configs/``.

    :raises UsageError: there is none.
    """
    return Project(project_root.find(folder))


def _mistakes(data: Mapping[str, Any]) -> Iterator[tomlfile.Mistake]:
    """Yield what a schema cannot see: keys that contradict each other."""
    for name, table in data.items():
        if not isinstance(table, dict):
            continue  # the schema reports it
        fields = table.get("definition", {})
        for key in fields if isinstance(fields, dict) else ():
            if key in MANAGED:
                yield (name, "definition", key), "set by scalems itself; leave it out"
        yield from lines.mistakes(table, place=(name,))
        yield from _host_mistakes(name, table)
        if "extends" not in table and isinstance(fields, dict):
            yield from _incomplete(name, fields)


def _host_mistakes(name: str, table: Mapping[str, Any]) -> Iterator[tomlfile.Mistake]:
    """Yield what is wrong with the host of a resource."""
    if "host" not in table:
        for key in {"root", "python", "offline"} & table.keys():
            yield (name, key), "is of a `host`, and there is none"
    elif isinstance(table["host"], str):
        try:
            split(table["host"])
        except UsageError as error:
            yield (name, "host"), f"{error.cause}: {error.remedy}"


def _incomplete(name: str, fields: Mapping[str, Any]) -> Iterator[tomlfile.Mistake]:
    """Yield what a definition lacks that extends no other."""
    missing = [key for key in WHOLE if key not in fields]
    if missing:
        all_of_it = f"[{name}.definition] with {', '.join(missing)}"
        yield (name,), f"missing key 'extends', or a whole {all_of_it}"
        return
    place = (name, "definition")
    chosen, schemas = str(fields["default_schema"]), fields["schemas"]
    schema = schemas.get(chosen) if isinstance(schemas, dict) else None
    if not isinstance(schema, dict):
        yield (*place, "default_schema"), f"{chosen!r} is none of `schemas`"
        return
    for key in ("job_manager_endpoint", "filesystem_endpoint"):
        if not isinstance(schema.get(key), str):
            yield (*place, "schemas", chosen), f"it must have {key}, a URL"
