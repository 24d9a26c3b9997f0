"""Who asked for what: the lines beside a resolver's message that no set of versions fits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from scalems.probe import normalize

if TYPE_CHECKING:
    from scalems.env.spec import EnvSpec

_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?")


def askers(spec: EnvSpec, pins: Mapping[str, str], message: str) -> list[str]:
    """Return a line for each limit of an environment on a package that a message names.

    :param pins: versions by distribution that the client has and the environment must have.
    :param message: what a resolver said.
    """
    named = {normalize(word) for word in _NAME.findall(message)}
    lines = []
    for text, place in _written(spec):
        if normalize(Requirement(text).name) in named:
            lines.append(f"{text}: {place}")
    for name, version in pins.items():
        if normalize(name) in named:
            lines.append(f"{name}=={version}: the client's, which every environment must have")
    return lines


def _written(spec: EnvSpec) -> Iterator[tuple[str, str]]:
    """Yield what a spec asks for, and where."""
    source = spec.path.read_text(encoding="utf-8", errors="replace").splitlines()
    for key, texts in (("dependencies", spec.dependencies), ("constraints", spec.constraints)):
        for text in texts:
            found = (number for number, line in enumerate(source, start=1) if text in line)
            number = next(found, None)
            where = f"{spec.path.name}:{number}" if number else spec.path.name
            yield text, f"{key} in {where}"
