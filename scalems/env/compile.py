"""Packages of an index that are built here from their source: ``no-binary`` of an env spec.

What the installers' caches keep of such builds is known by the source alone, not by the compiler
or the MPI library that were there; so these wheels are kept by scalems, by all that decides them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env import lock, sdist, site, tag
from scalems.env.canonical import digest
from scalems.env.engine import Needs
from scalems.env.lock import Pin
from scalems.env.prepare import Workshop
from scalems.env.site import Site
from scalems.env.spec import EnvSpec
from scalems.env.target import Interpreter
from scalems.env.wheelhouse import Sdist, Wheelhouse, WheelhouseError


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A distribution of a lock that is built here.

    :param env: variables that its build gets, over those of the site.
    :param taken: what else decides the outcome: the interpreter, the site, the MPI.
    :param source: its source, if it was brought here; else it is fetched.
    """

    pin: Pin
    env: Mapping[str, str]
    site: Site
    interpreter: Interpreter
    taken: Mapping[str, Any]
    source: Sdist | None = None

    @property
    def inputs(self) -> list[Any]:
        """Return what of it decides a build, beside what decides it anyway."""
        return [self.pin.name, dict(self.env)]

    @property
    def key(self) -> str:
        """Return the digest of all that decides its wheel."""
        pin = [self.pin.name, self.pin.version, *self.pin.hashes]
        return digest("compiled 1", [pin, dict(self.env), dict(self.taken)])

    @property
    def folder(self) -> str:
        """Return the name of the folder that its wheel is kept in."""
        return Workshop.folder(self.pin.name, self.key)

    def needs(self, house: Wheelhouse) -> Needs | None:
        """Return where its build takes what it needs from; ``None`` for an index.

        :raises WheelhouseError: its source, or something that its build needs, is not there.
        """
        if self.source is None:
            raise WheelhouseError(
                f"the source of {self.pin.name}=={self.pin.version}, which is to be built here, "
                "is not among what was brought",
                remedy="make the bundle again from the specs and locks as they are now",
            )
        if house.folder is None:
            return None
        locked = lock.parse(self.source.needs, source=f"what {self.source.filename} needs")
        pins = locked.select(self.interpreter.markers)
        there = tag.of(self.interpreter.facts)
        return Needs(folder=house.folder, pins=house.requirements(pins, there))

    def wheel(self, shop: Workshop, house: Wheelhouse | None = None) -> Path:
        """Return its wheel, which is built unless it was.

        :param house: where its build takes what it needs from, rather than from an index.
        :raises InstallError: its source cannot be fetched, or built.
        :raises WheelhouseError: what its build needs is not there.
        """

        def fetch(folder: Path) -> Path:
            if self.source:
                return self.source.path
            return sdist.fetch(self.pin, folder, python=self.interpreter.facts["version"])

        return shop.make(
            self.pin.name,
            self.key,
            fetch,
            what=f"{self.pin.name} {self.pin.version} from its source",
            interpreter=self.interpreter.path,
            env={**site.variables(self.site), **self.env},
            remedy=f"look at `modules`, `shell` and [build.{self.pin.name}] of the env spec: they "
            "hold while it is built",
            needs=self.needs(house) if house else None,
        )


def select(
    spec: EnvSpec,
    pins: Sequence[Pin],
    interpreter: Interpreter,
    taken: Mapping[str, Any],
    sources: Sequence[Sdist] = (),
) -> tuple[Compiled, ...]:
    """Return those of an environment's distributions that its spec wants built there.

    :param taken: what of the site and its MPI decides the outcome.
    :param sources: what was brought there.
    :raises UsageError: the lock has none of that name; near names are offered.
    """
    facts = {"interpreter": dict(interpreter.facts), **taken}
    return tuple(
        Compiled(
            pin=pin,
            env=spec.build_env.get(pin.name, {}),
            site=spec.site,
            interpreter=interpreter,
            taken=facts,
            source=next((one for one in sources if one.serves(pin)), None),
        )
        for pin in sdist.named(spec, pins)
    )
