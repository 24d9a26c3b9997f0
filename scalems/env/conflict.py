"""Who asked for what: the lines beside a resolver's message that no set of versions fits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from scalems.probe import normalize

if TYPE_CHECKING:
    from scalems.env.lock import Lock
    from scalems.env.spec import EnvSpec

_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?")


def askers(
    spec: EnvSpec, pins: Mapping[str, str], message: str, base: Lock | None = None
) -> list[str]:
    """Return a line for each limit of an environment on a package that a message names.

    :param pins: versions by distribution that the client has and the environment must have.
    :param message: what a resolver said.
    :param base: lock of the environment that it adds to.
    """
    named = {normalize(word) for word in _NAME.findall(message)}
    lines = []
    for text, place in _written(spec):
        if normalize(Requirement(text).name) in named:
            lines.append(f"{text}: {place}")
    for name, version in pins.items():
        if normalize(name) in named:
            lines.append(f"{name}=={version}: the client's, which every environment must have")
    for pin in base.pins if base else ():
        if pin.name in named and pin.name not in map(normalize, pins):
            what = f"locked in {spec.base.name if spec.base else None!r}, which this one adds to"
            lines.append(f"{pin.name}=={pin.version}: {what}")
    return lines


def _written(spec: EnvSpec) -> Iterator[tuple[str, str]]:
    """Yield what a spec asks for, and where; what it has from its base first."""
    if spec.base:
        yield from _written(spec.base)
    source = spec.path.read_text(encoding="utf-8", errors="replace").splitlines()
    theirs = {*spec.base.dependencies, *spec.base.constraints} if spec.base else set()
    for key, texts in (("dependencies", spec.dependencies), ("constraints", spec.constraints)):
        for text in (text for text in texts if text not in theirs):
            found = (number for number, line in enumerate(source, start=1) if text in line)
            number = next(found, None)
            where = f"{spec.path.name}:{number}" if number else spec.path.name
            yield text, f"{key} in {where}"
