"""What was last synced for a resource: the file that a run reads before it starts.

Every set of builds that a resource has had is kept beside it as a *generation*, to return to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scalems.env.fingerprint import Entry
from scalems.env.layout import Layout
from scalems.env.role import Role
from scalems.failpoint import failpoint
from scalems.host.address import Host
from scalems.host.files import write_atomic
from scalems.host.process import mark
from scalems.resource.lines import Lines

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of a local package when it was synced.

    :param editable: whether the build links to them.
    """

    folder: Path
    table: Mapping[str, Entry]
    editable: bool = False


@dataclass(frozen=True, kw_only=True)
class SyncedEnv:
    """One environment of a resource.

    :param folder: the build in use.
    :param spec: the env spec that it was made from.
    :param spec_digest: its :func:`file_digest` then.
    :param sources: folders of its local packages, by name, with their files then.
    :param lines: shell lines of the spec.
    :param base: the environment that it adds to.
    """

    name: str
    role: Role
    folder: Path
    spec: Path
    spec_digest: str
    sources: Mapping[str, Source] = field(default_factory=dict)
    lines: Lines = field(default_factory=Lines)
    base: SyncedEnv | None = None

    @property
    def parts(self) -> tuple[SyncedEnv, ...]:
        """It, and the environment that it adds to."""
        return (self, self.base) if self.base else (self,)


@dataclass(frozen=True, kw_only=True)
class Synced:
    """All environments of a resource, and what was written for it.

    :param key: digest of all that a sync looks at; equal means nothing has changed.
    :param fields: what the user's RP resource file must say for this resource.
    :param generation: number of this set of builds, from 1; 0 before it is recorded.
    :param created: when it was first synced; UTC, ISO 8601.
    :param host: where the builds are; ``None`` is this machine.
    :param lines: shell lines of the resource config.
    """

    label: str
    project: Path
    key: str
    envs: tuple[SyncedEnv, ...]
    definition: Path
    fields: Mapping[str, Any]
    generation: int = 0
    created: str = ""
    host: Host | None = None
    lines: Lines = field(default_factory=Lines)

    def same_builds(self, other: Synced) -> bool:
        """Whether another has the same builds and the same definition."""
        return (self.fields, self.host) == (other.fields, other.host) and [
            (env.name, env.role, env.folder) for env in self.builds
        ] == [(env.name, env.role, env.folder) for env in other.builds]

    @property
    def builds(self) -> tuple[SyncedEnv, ...]:
        """All environments, and those that some of them add to; each build once."""
        return with_bases(self.envs)

    @property
    def bare(self) -> Synced:
        """It without what the sources here are, which is of no use on its host."""
        return replace(self, envs=tuple(map(_bare, self.envs)))

    @property
    def pilot(self) -> SyncedEnv:
        """The environment of RP's agent."""
        return next(env for env in self.envs if env.role.plays(Role.PILOT))

    @property
    def tasks(self) -> tuple[SyncedEnv, ...]:
        """The environments of Workers."""
        return tuple(env for env in self.envs if env.role.plays(Role.TASK))


def _bare(env: SyncedEnv) -> SyncedEnv:
    return replace(env, sources={}, base=_bare(env.base) if env.base else None)


def with_bases(envs: Iterable[SyncedEnv]) -> tuple[SyncedEnv, ...]:
    """Return environments, then those that some of them add to; each build once."""
    listed = list(envs)
    found = {env.folder: env for env in listed}
    for env in listed:
        if env.base:
            found.setdefault(env.base.folder, env.base)
    return tuple(found.values())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hex, or an empty string if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def labels(layout: Layout) -> list[str]:
    """Return the resources that were ever synced."""
    return sorted(path.stem for path in layout.resource("x").parent.glob("*.json"))


def read(layout: Layout, label: str) -> Synced | None:
    """Read what was synced for a resource; ``None`` if nothing, or nothing to trust."""
    return _read(layout.resource(label), label)


def generations(layout: Layout, label: str) -> list[Synced]:
    """Return the sets of builds that a resource has had and that were not forgotten, in order."""
    found = (_read(path, label) for path in layout.generations(label).glob("*.json"))
    return sorted((one for one in found if one), key=lambda one: one.generation)


def write(layout: Layout, synced: Synced) -> Synced:
    """Record a sync, and point the `current` links to its builds.

    :return: it, with the number of its generation: a new one, unless the builds are those
        of an earlier one.
    """
    known = generations(layout, synced.label)
    same = next((one for one in reversed(known) if one.same_builds(synced)), None)
    if same:
        synced = replace(synced, generation=same.generation, created=same.created)
    else:
        from datetime import datetime, timezone  # only now: a launch reads

        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        number = max((one.generation for one in known), default=0) + 1
        synced = replace(synced, generation=number, created=now)
    # The generation first: whatever the current file names can be returned to.
    _write(layout.generations(synced.label) / f"{synced.generation}.json", synced)
    failpoint("state.generation")
    for env in synced.envs if synced.host is None else ():
        _switch(layout.current(synced.label, env.name), env.folder)
        failpoint("state.switched")
    _write(layout.resource(synced.label), synced)
    failpoint("state.written")
    return synced


def forget(layout: Layout, synced: Synced) -> None:
    """Take a generation out of those that can be returned to."""
    (layout.generations(synced.label) / f"{synced.generation}.json").unlink(missing_ok=True)


def _read(path: Path, label: str) -> Synced | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return from_dict(data, label)
    except (OSError, ValueError, RecursionError):
        return None


def from_dict(data: dict[str, Any], label: str) -> Synced | None:
    """Read back what :func:`to_dict` has returned; ``None`` if it is nothing to trust."""
    try:
        if data["format"] != FORMAT or data["label"] != label:
            return None
        envs = tuple(map(_env_from_dict, data["envs"]))
        pilots = [env for env in envs if env.role.plays(Role.PILOT)]
        if not (pilots and isinstance(data["fields"], dict)):
            return None
        return Synced(
            label=label,
            project=Path(data["project"]),
            key=data["key"],
            envs=envs,
            definition=Path(data["definition"]),
            fields=data["fields"],
            generation=int(data["generation"]),
            created=str(data["created"]),
            host=Host(**data["host"]) if data.get("host") else None,
            lines=Lines.of(data.get("lines", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _env_from_dict(env: dict[str, Any]) -> SyncedEnv:
    return SyncedEnv(
        name=env["name"],
        role=Role(env["role"]),
        folder=Path(env["folder"]),
        spec=Path(env["spec"]),
        spec_digest=env["spec_digest"],
        sources={
            name: Source(
                folder=Path(one["folder"]),
                table={path: Entry(*entry) for path, entry in one["files"].items()},
                editable=one["editable"],
            )
            for name, one in env.get("sources", {}).items()
        },
        lines=Lines.of(env.get("lines", {})),
        base=_env_from_dict(env["base"]) if env.get("base") else None,
    )


def _env_to_dict(env: SyncedEnv) -> dict[str, Any]:
    return {
        "name": env.name,
        "role": env.role.value,
        "folder": str(env.folder),
        "spec": str(env.spec),
        "spec_digest": env.spec_digest,
        "sources": {
            name: {
                "folder": str(one.folder),
                "editable": one.editable,
                "files": {
                    path: [entry.size, entry.mtime_ns, entry.sha256]
                    for path, entry in one.table.items()
                },
            }
            for name, one in env.sources.items()
        },
        "lines": env.lines.to_dict(),
        "base": _env_to_dict(env.base) if env.base else None,
    }


def _write(path: Path, synced: Synced) -> None:
    write_atomic(path, json.dumps(to_dict(synced), indent=1) + "\n")


def to_dict(synced: Synced) -> dict[str, Any]:
    """Return what was synced in values that JSON can hold."""
    return {
        "format": FORMAT,
        "label": synced.label,
        "generation": synced.generation,
        "created": synced.created,
        "project": str(synced.project),
        "key": synced.key,
        "definition": str(synced.definition),
        "fields": dict(synced.fields),
        "envs": [_env_to_dict(env) for env in synced.envs],
        "host": asdict(synced.host) if synced.host else None,
        "lines": synced.lines.to_dict(),
    }


def linked(layout: Layout, synced: Synced) -> bool:
    """Whether the `current` links point to the builds in use."""
    return all(
        _points_to(layout.current(synced.label, env.name), env.folder) for env in synced.envs
    )


def _points_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and link.readlink() == target


def _switch(link: Path, target: Path) -> None:
    """Point a link to another folder in one step."""
    if _points_to(link, target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}-{mark()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    failpoint("state.link")
    temporary.replace(link)
