"""What makes RADICAL-Pilot's runs fail, found before they run.

Each check looks at one thing of this machine and this user, changes nothing, and says what
to do about what it finds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from scalems.doctor import network, places, python, quota, tools
from scalems.doctor.finding import Diagnosis, Verdict, warning

__all__ = ["CHECKS", "Diagnosis", "Verdict", "examine"]


def examine(label: str | None = None) -> Iterator[Diagnosis]:
    """Run all checks; one that fails itself is a finding too.

    :param label: a resource whose host is looked at too.
    :raises UsageError: there is no such resource.
    """
    host = network.host_of(label) if label else None
    for check in (*CHECKS, *([functools.partial(network.host, host)] if host else ())):
        try:
            yield from check()
        except Exception as error:  # a broken machine breaks checks in ways nobody foresaw
            name = getattr(check, "__name__", "host").replace("_", " ")
            yield warning(name, f"could not be looked at: {error!r}", "")


CHECKS: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
    python.version,
    python.variables,
    python.user_site,
    python.radical,
    places.limits,
    places.folders,
    quota.quotas,
    places.sandboxes,
    places.clock,
    network.addresses,
    tools.programs,
    tools.batch_systems,
    tools.leftovers,
)
