"""What there is on the hosts of resources that were synced."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from typing import Any

from scalems.env.check import Depth
from scalems.env.finding import Finding
from scalems.env.look import Seen
from scalems.env.remote.link import Link, connect
from scalems.env.state import Synced, SyncedEnv
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


def builds(host: Host) -> list[dict[str, Any]]:
    """List all builds on a host; see :meth:`scalems.env.inventory.Kept.to_dict`.

    :raises HostError: it cannot be reached.
    """
    with connect(host) as link:
        return list(link.call("builds"))


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
