"""Puts a backend together: a session server for each pilot, and what takes their calls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scalems.env.finding import Policy
from scalems.radical import choice, warm
from scalems.radical.backend import RadicalBackend
from scalems.radical.fleet import Fleet
from scalems.radical.launch import OwnServer, WarmServer
from scalems.radical.preflight import Preflight
from scalems.workflow import shipping

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from scalems.radical.launch import Server
    from scalems.radical.settings import Settings
    from scalems.radical.warm import WarmPilot
    from scalems.workflow.backend import Notify

    Pilots = Mapping[str, tuple[argparse.Namespace, Settings]]
    """The options and settings of each pilot, by its title."""


def backend(options: argparse.Namespace, pilots: Pilots, notify: Notify) -> RadicalBackend | Fleet:
    """Return the backend of one pilot or of several; nothing is started.

    :raises UsageError: there is no such warm pilot, or it does not fit.
    """
    taken: list[str] = []
    servers = {
        title: _server(own, settings, notify, taken) for title, (own, settings) in pilots.items()
    }
    preflight = None
    for title, (_, settings) in pilots.items():
        shipping.far_side_has(settings.build.top_level)
        if preflight is None and not isinstance(servers[title], WarmServer):
            policy = Policy(options.preflight)
            preflight = Preflight(
                settings.build, settings.label, policy, notify=notify, host=settings.host
            )
    if len(pilots) > 1:
        return _fleet(options, pilots, servers, preflight, notify)
    ((_, settings),) = pilots.values()
    (server,) = servers.values()
    return RadicalBackend(
        server,
        notify=notify,
        label=f"radical {settings.label}/{options.venv}" + "".join(f" ({name})" for name in taken),
        environment=settings.environment,
        environments={settings.build.content_digest: settings.build.versions},
        preflight=preflight,
        pilots=options.max_pilots,
    )


def _server(
    options: argparse.Namespace, settings: Settings, notify: Notify, taken: list[str]
) -> Server:
    """Return what is to hold the session of a pilot.

    :param taken: names of warm pilots that are used already; one more is added if there is.
    """

    def chosen(known: Callable[[], Sequence[WarmPilot]] = warm.known) -> WarmPilot | None:
        pilot = choice.choose(options, settings, notify, taken, known)
        if pilot is not None:
            taken.append(pilot.name)
        return pilot

    if settings.host is not None:
        from scalems.radical.remote import RemoteServer  # most are on this machine
        from scalems.radical.staging import Staging

        staging = Staging(settings.host.name, notify)
        return RemoteServer(settings, notify, staging, chosen, counts=options.pilot != "auto")
    pilot = chosen()
    if pilot is None:
        return OwnServer(settings)
    return WarmServer(pilot, settings, counts=options.pilot != "auto")


def _fleet(
    options: argparse.Namespace,
    pilots: Pilots,
    servers: Mapping[str, Server],
    preflight: Preflight | None,
    notify: Notify,
) -> Fleet:
    members = {
        title: RadicalBackend(
            server,
            notify=partial(_titled, notify, title),
            label=title,
            pilots=options.max_pilots,
        )
        for title, server in servers.items()
    }
    everything = [settings for _, settings in pilots.values()]
    digests = {settings.environment for settings in everything}
    if len(digests) > 1:
        notify(
            "warning: no results are kept, as the Task venvs of the pilots differ: "
            + ", ".join(dict.fromkeys(settings.label for settings in everything))
        )
    resources = " + ".join(dict.fromkeys(options.resource))
    return Fleet(
        members,
        notify=notify,
        label=f"radical {resources}/{options.venv}, {len(members)} pilots",
        environment=digests.pop() if len(digests) == 1 else "",
        environments={one.build.content_digest: one.build.versions for one in everything},
        preflight=preflight,
    )


def _titled(notify: Notify, title: str, line: str) -> None:
    notify(f"pilot {title}: {line}")
