"""`env show`: all that is known of an environment."""

from __future__ import annotations

from typing import Any

from scalems.env import enter, state, target
from scalems.env.check import Depth
from scalems.env.role import Role
from scalems.env.selection import select
from scalems.env.site import Site
from scalems.env.verification import see
from scalems.errors import EnvironmentNotReady
from scalems.resource.lines import Lines


def describe(text: str, resource: str | None = None) -> dict[str, Any]:
    """Describe an environment in values that JSON can hold.

    :param text: see :func:`scalems.env.selection.select`.
    :raises UsageError: there is no such environment.
    :raises EnvironmentNotReady: its build is not usable.
    """
    synced, env = select(text, resource=resource)
    (seen,) = see(synced, [env], depth=Depth.FAST)
    known = seen.manifest
    if known is None:
        raise EnvironmentNotReady(
            f"the build of {text!r} is not usable: {env.folder}",
            remedy=f"scalems env sync --resource {synced.label}",
        )
    lines = env.lines + synced.lines if env.role.plays(Role.TASK) else Lines()
    site = Site.from_dict(known.site)
    return {
        "name": env.name,
        "role": env.role.value,
        "resource": synced.label,
        "generation": synced.generation,
        "spec": str(env.spec),
        "spec changed": state.file_digest(env.spec) not in ("", env.spec_digest),
        "host": synced.host.name if synced.host else None,
        "folder": str(env.folder),
        "adds to": {"name": known.base["name"], "folder": str(env.base.folder)} if env.base else {},
        "python": known.python,
        "interpreter": dict(known.interpreter),
        "engine": known.engine,
        "created": known.created,
        "seconds": known.seconds,
        "files": known.files,
        "bytes": known.bytes,
        "in use": seen.leased,
        "input digest": known.input_digest,
        "content digest": known.content_digest,
        "client's scalems": known.scalems_digest == target.client().scalems_digest,
        "definition": {"path": str(synced.definition), "fields": dict(synced.fields)},
        "entered by": enter.shell_lines(env.folder / "venv", site, lines.pre_exec),
        "before a launch": list(lines.pre_launch),
        "before each rank": list(lines.pre_rank),
        "software": dict(known.software),
        "built here": sorted(known.compiled),
        "MPI of mpi4py": dict(known.mpi),
        "local packages": {
            name: f"{one['reference']}, files {one['digest'][:16]}"
            for name, one in known.packages.items()
        },
        "distributions": dict(sorted(known.versions.items())),
    }
