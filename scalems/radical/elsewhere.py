"""Warm pilots on another host, where their session servers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalems.env.remote.link import Link
from scalems.radical.warm import WarmPilot

if TYPE_CHECKING:
    from scalems.host.address import Host

ENTRY = "scalems.radical.far"
"""The module that serves this end there."""


@dataclass(frozen=True, kw_only=True)
class FarPilot(WarmPilot):
    """A warm pilot as the host tells of it, without what clients must know: that stays there."""

    seen_from: str
    """Name of the host that was asked: one of several login nodes."""
    lives: bool
    report: dict[str, Any] | None
    """What its server said of itself, if it was asked."""

    @property
    def alive(self) -> bool:
        """See :attr:`WarmPilot.alive`."""
        return self.lives

    @property
    def here(self) -> str:
        """See :attr:`WarmPilot.here`."""
        return self.seen_from


def known(link: Link, *, report: bool = False) -> list[FarPilot]:
    """Return the warm pilots of a host.

    :param report: ask their servers too.
    :raises HostError: the connection was lost.
    """
    return [FarPilot(**fields) for fields in link.call("pilots", report=report)]


class Elsewhere:
    """A connection to a host, to look after its warm pilots.

    :raises HostError: it cannot be reached.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._link = Link(host, entry=ENTRY)

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *exception: object) -> None:
        self._link.close()

    def known(self) -> list[FarPilot]:
        """Return its warm pilots, with what their servers say."""
        return known(self._link, report=True)

    def stop(self, pilot: WarmPilot) -> None:
        """End one.

        :raises ScalemsError: it runs on another host.
        """
        self._link.call("stop_pilot", name=pilot.name)

    def log(self, pilot: WarmPilot) -> list[str]:
        """Return the end of what its server has printed.

        :raises ScalemsError: it cannot be read.
        """
        return list(self._link.call("pilot_log", name=pilot.name))

    def logs(self, run: str) -> list[tuple[str, str]]:
        """Return the logs of a run there, by their names in a bundle.

        :raises ScalemsError: they cannot be read.
        """
        return [(name, text) for name, text in self._link.call("bundle", run=run)]
