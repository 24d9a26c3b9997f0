"""Whether a resource is in sync already, told in milliseconds: the path of most calls."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import scalems
from scalems.env import check, layout, manifest, parity, seen, state, target
from scalems.env.canonical import digest
from scalems.env.check import Depth
from scalems.env.finding import Finding, errors
from scalems.env.layout import Layout
from scalems.env.parity import Side
from scalems.env.seen import Look, Places
from scalems.env.state import Synced, SyncedEnv
from scalems.resource import definition
from scalems.resource.config import Project


def find(
    project: Project, label: str, *, depth: Depth = Depth.NORMAL, keep: bool = False
) -> Synced | None:
    """Return what was synced for a resource if nothing that a sync looks at has changed.

    Specs, configs, locks, the client's versions and scalems' own code are compared by digest,
    the builds file by file.

    :param depth: how closely the builds are looked at.
    :param keep: write the answer down for :func:`scalems.env.seen.recall`.
    """
    place = layout.default()
    known = state.read(place, label)
    if not known or known.project != project.root:
        return None
    from_files = keep and place.is_ours and _is_told_by_files(known)
    before = _look(place, project, known) if from_files else None  # before anything is read
    if known.key != key(project, label, target.client()) or not _still_good(known, depth):
        return None
    if before:
        places, looked = before
        seen.keep(place.seen(label), project.root, unchanged(known), looked, places)
    return known


def unchanged(known: Synced) -> dict[str, Any]:
    """Return the result of a sync with nothing to do, as that of any other has it."""
    return {
        "resource": known.label,
        "envs": [
            {
                "name": env.name,
                "role": env.role.value,
                "action": "unchanged",
                "folder": str(env.folder),
                "seconds": 0.0,
            }
            for env in known.envs
        ],
        "locks": [],
        "definition": {"path": str(known.definition), "diff": "", "backup": None},
    }


def _is_told_by_files(known: Synced) -> bool:
    """Whether files of this machine say all: no program has to be asked, and no other host."""
    built = [manifest.read(env.folder) for env in known.builds]
    return not known.host and all(
        one and not (one.software or one.mpi or env.sources)
        for one, env in zip(built, known.builds, strict=True)
    )


def _look(place: Layout, project: Project, known: Synced) -> tuple[Places, Look] | None:
    """Look at all that :func:`find` reads; ``None`` if some of it cannot be read."""
    folders = [env.folder for env in known.builds]
    domain = known.label.partition(".")[0]
    files = [
        project.configs / f"{domain}.toml",
        project.envs,
        *sorted(project.envs.glob("*")),
        definition.user_folder() / f"resource_{domain}.json",
        target.client_interpreter(),
        place.resource(known.label),
        *(place.current(known.label, env.name) for env in known.envs),
        *(folder / name for folder in folders for name in manifest.OWN),
        *(folder / "venv" / "bin" / "python" for folder in folders),
    ]
    places: Places = {
        "files": [str(path) for path in files],
        "venvs": [str(folder / "venv") for folder in folders],
        "code": str(Path(scalems.__file__).parent),
    }
    with contextlib.suppress(OSError):
        return places, seen.look(places)
    return None


def key(project: Project, label: str, client: Side) -> str:
    """Return the digest of all files and facts that a sync looks at."""
    domain = label.partition(".")[0]
    files = [project.configs / f"{domain}.toml", *sorted(project.envs.glob("*"))]
    interpreter = target.client_interpreter()
    status = interpreter.stat() if interpreter.exists() else None
    return digest(
        "sync key 1",
        {
            "files": {path.name: state.file_digest(path) for path in files},
            "client": [client.python, client.scalems_digest, parity.pins(client.versions)],
            "interpreter": [status.st_size, status.st_mtime_ns] if status else [],
        },
    )


def _still_good(known: Synced, depth: Depth) -> bool:
    fields = definition.fields_of(known.label)
    if any(fields.get(name) != value for name, value in known.fields.items()):
        return False
    if known.host:
        from scalems.env.remote import far  # most resources are of this machine

        there = far.look(known, known.builds, depth=depth)
        return not any(seen.findings for seen in there) and not any(map(_sources, known.envs))
    return (
        state.linked(layout.default(), known)
        and all(check.is_good(env.folder, depth=depth) for env in known.builds)
        and all(_same_software(env) for env in known.builds)
        and not any(_sources(env) for env in known.builds)
        and not any(_other_mpi(env) for env in known.builds)
    )


def _same_software(env: SyncedEnv) -> bool:
    built = manifest.read(env.folder)
    if built is None or not built.software:
        return built is not None
    from scalems.env import site  # only now: most environments have none

    taken = site.Site.from_dict(built.site)
    return not list(site.check(env.name, taken, built.software))


def _sources(env: SyncedEnv) -> list[Finding]:
    if not env.sources:
        return []
    from scalems.env import source_check  # only now: most environments have none

    return list(source_check.check(env, remedy=""))


def _other_mpi(env: SyncedEnv) -> bool:
    built = manifest.read(env.folder)
    if built is None or not built.mpi:
        return False
    from scalems.env import mpi, site  # only now: most environments have none

    found = mpi.check(env.name, site.Site.from_dict(built.site), built.mpi)
    return bool(errors(found))
