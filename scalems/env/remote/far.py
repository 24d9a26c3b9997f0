"""What there is on the hosts of resources that were synced."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalems.env import layout, manifest, state
from scalems.env.check import Depth
from scalems.env.finding import Finding
from scalems.env.inventory import Collection, Kept
from scalems.env.locking import Notify
from scalems.env.look import Seen
from scalems.env.remote.link import Link, connect
from scalems.env.role import Role
from scalems.env.state import Synced, SyncedEnv
from scalems.env.venv import Venv
from scalems.host.address import Host

_holding: dict[str, Link] = {}


def look(
    synced: Synced, envs: Sequence[SyncedEnv], *, depth: Depth, hold: bool = False
) -> list[Seen]:
    """Look at builds of a resource on its host; the first also tells of RP's definition there.

    :param hold: keep them from being removed or built anew until this process ends.
    :raises HostError: the host cannot be reached.
    """
    assert synced.host
    if hold:
        link = _held(synced.host, synced.label)
        return _look(link, synced, envs, depth=depth, hold=True)
    with connect(synced.host) as link:
        return _look(link, synced, envs, depth=depth, hold=False)


def venv(host: Host, folder: str) -> Venv:
    """Look at a venv on a host that scalems did not build.

    :raises UsageError: it is no venv.
    :raises EnvironmentNotReady: its Python does not work.
    :raises HostError: the host cannot be reached.
    """
    with connect(host) as link:
        return Venv.from_dict(link.call("venv", folder=folder))


def record(synced: Synced) -> None:
    """Use builds of a resource on its host, and tell RP of them there.

    :raises HostError: it cannot be reached.
    """
    assert synced.host
    told = state.to_dict(synced.bare)
    with connect(synced.host) as link:
        link.call("record", label=synced.label, synced=told, fields=dict(synced.fields))


def builds(host: Host) -> tuple[Path, list[Kept]]:
    """Return the state folder of a host, and all builds there.

    :raises HostError: it cannot be reached.
    """
    with connect(host) as link:
        return link.root, [_kept(data) for data in link.call("builds")]


def collect(synced: Synced, *, keep: int, dry_run: bool, notify: Notify) -> Collection:
    """Remove builds on a resource's host that nothing there refers to.

    Here the generations are forgotten whose builds are gone.

    :param keep: see :func:`scalems.env.inventory.collect`.
    :raises HostError: it cannot be reached.
    """
    assert synced.host
    with connect(synced.host) as link:
        told = link.call("collect", notify=notify, keep=keep, dry_run=dry_run)
    gone = tuple(map(_kept, told["builds"]))
    if not dry_run:
        folders = {one.folder for one in gone}
        place = layout.default()
        for one in state.generations(place, synced.label):
            if one.host == synced.host and folders & {env.folder for env in one.envs}:
                state.forget(place, one)
    forgotten = (state.from_dict(data, data["label"]) for data in told["forgotten"])
    return Collection(
        builds=gone,
        forgotten=tuple(one for one in forgotten if one),
        wheels=tuple(map(Path, told["wheels"])),
        compiled=tuple(map(Path, told["compiled"])),
        bytes=told["bytes"],
    )


def _kept(data: dict[str, Any]) -> Kept:
    known = data["manifest"]
    return Kept(
        folder=Path(data["folder"]),
        manifest=manifest.from_dict(known) if known else None,
        current=tuple(data["current"]),
        generations=tuple(data["generations"]),
        leased=bool(data["leased"]),
        bytes=int(data["bytes"]),
        role=Role(data["role"]) if data["role"] else None,
    )


def _look(
    link: Link, synced: Synced, envs: Sequence[SyncedEnv], *, depth: Depth, hold: bool
) -> list[Seen]:
    told = link.call(
        "look",
        label=synced.label,
        envs=[[env.name, str(env.folder)] for env in envs],
        depth=depth.value,
        hold=hold,
    )
    seen = [Seen.from_dict(data) for data in told["envs"]]
    if not seen:
        return seen
    differing = tuple(_definition(synced, told["fields"], link.hostname))
    first = Seen(
        manifest=seen[0].manifest,
        findings=(*seen[0].findings, *differing),
        leased=seen[0].leased,
    )
    return [first, *seen[1:]]


def _definition(synced: Synced, there: dict[str, Any], hostname: str) -> list[Finding]:
    """Compare what RP is told on the host with what was written there."""
    return [
        Finding(
            env=synced.label,
            kind=f"RP resource definition changed on {hostname}",
            subject=key,
            expected=str(value),
            found=str(there.get(key, "")),
        )
        for key, value in synced.fields.items()
        if there.get(key) != value
    ]


def _held(host: Host, label: str) -> Link:
    if label not in _holding:
        _holding[label] = Link(host)
        atexit.register(_holding[label].close)
    return _holding[label]
