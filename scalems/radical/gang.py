"""Calls whose ranks do not fit into one Worker: several Workers lend their cores to them.

One of them starts the ranks on the nodes of all. Nothing of such a call is begun before there is
room for all of its ranks, so two of them never wait for each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scalems.radical.wire import needs_of, with_needs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from scalems.radical.dispatch import Place
    from scalems.radical.wire import Row


class Gangs:
    """Which cores were lent to which calls."""

    def __init__(self) -> None:
        self._lent: dict[int, list[tuple[Place, int]]] = {}
        self.expected = 0
        """Cores that there are in all, when all Workers have come."""
        self.freed = False
        """Whether cores were given back since this was last set to False."""

    def wanted(self, row: Row, places: Collection[Place]) -> bool:
        """Tell if a call can run on several places only, and will when they have room."""
        needs = needs_of(row)
        if needs.units < 2 or needs.gpus or any(needs.cores <= place.slots for place in places):
            return False
        named = [place for place in places if place.host]
        if sum(place.slots for place in places) < self.expected:
            return needs.cores <= self.expected  # more are to come
        return sum(place.slots // needs.unit for place in named) >= needs.units

    def spread(self, row: Row, places: Sequence[Place]) -> tuple[Place, Row] | None:
        """Take cores for a call; return where to send it, and with its hosts noted.

        :return: ``None`` if there is not enough room now.
        """
        needs = needs_of(row)
        free = [
            (min(place.slots, place.slots - place.load) // needs.unit, place)
            for place in places
            if place.host
        ]
        chosen: list[tuple[Place, int]] = []
        left = needs.units
        for ranks, place in sorted(free, key=lambda one: -one[0]):  # few places, if they will do
            if (share := min(ranks, left)) > 0:
                chosen.append((place, share))
                left -= share
        if left:
            return None
        lead, *others = chosen
        self._lent[row[0]] = [(place, share * needs.unit) for place, share in others]
        for place, cores in self._lent[row[0]]:
            place.load += cores
        hosts = tuple((place.host, share) for place, share in chosen)
        return lead[0], with_needs(row, replace(needs, hosts=hosts))

    def release(self, ident: int) -> None:
        """Give back what was lent to a call."""
        for place, cores in self._lent.pop(ident, ()):
            place.load -= cores
            self.freed = True
