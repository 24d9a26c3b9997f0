"""Packages of an index that are built here from their source: ``no-binary`` of an env spec.

What the installers' caches keep of such builds is known by the source alone, not by the compiler
or the MPI library that were there; so these wheels are kept by scalems, by all that decides them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env import collect, site
from scalems.env.canonical import digest
from scalems.env.engine import InstallError, explain
from scalems.env.lock import Pin
from scalems.env.prepare import Workshop
from scalems.env.site import Site
from scalems.env.spec import EnvSpec
from scalems.env.target import Interpreter
from scalems.errors import UsageError
from scalems.host.local import CommandFailed
from scalems.tomlfile import near


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A distribution of a lock that is built here.

    :param env: variables that its build gets, over those of the site.
    :param taken: what else decides the outcome: the interpreter, the site, the MPI.
    """

    pin: Pin
    env: Mapping[str, str]
    site: Site
    interpreter: Interpreter
    taken: Mapping[str, Any]

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

    def wheel(self, shop: Workshop) -> Path:
        """Return its wheel, which is built unless it was.

        :raises InstallError: its source cannot be fetched, or built.
        """

        def fetch(folder: Path) -> Path:
            return _fetch(self.pin, self.interpreter, folder)

        return shop.make(
            self.pin.name,
            self.key,
            fetch,
            what=f"{self.pin.name} {self.pin.version} from its source",
            interpreter=self.interpreter.path,
            env={**site.variables(self.site), **self.env},
            remedy=f"look at `modules`, `shell` and [build.{self.pin.name}] of the env spec: they "
            "hold while it is built",
        )


def select(
    spec: EnvSpec, pins: Sequence[Pin], interpreter: Interpreter, taken: Mapping[str, Any]
) -> tuple[Compiled, ...]:
    """Return those of an environment's distributions that its spec wants built here.

    :param taken: what of the site and its MPI decides the outcome.
    :raises UsageError: the lock has none of that name; near names are offered.
    """
    by_name = {pin.name: pin for pin in pins}
    for name in spec.no_binary:
        if name not in by_name:
            raise UsageError(
                f"{spec.path}: no-binary: the lock has no {name!r}{near(name, by_name)}",
                remedy="check the spelling, or add it to `dependencies`",
            )
    facts = {"interpreter": dict(interpreter.facts), **taken}
    return tuple(
        Compiled(
            pin=by_name[name],
            env=spec.build_env.get(name, {}),
            site=spec.site,
            interpreter=interpreter,
            taken=facts,
        )
        for name in spec.no_binary
    )


def _fetch(pin: Pin, interpreter: Interpreter, folder: Path) -> Path:
    """Fetch a source distribution that the lock vouches for."""
    wanted = folder / "wanted.txt"
    wanted.write_text(pin.requirement() + "\n")
    into = folder / "download"
    argv = ["download", "--no-deps", "--require-hashes", "--progress-bar", "off"]
    argv += ["--no-binary", pin.name, "--python-version", interpreter.facts["version"]]
    argv += ["--dest", str(into), "--requirement", str(wanted)]
    try:
        collect.pip(argv)
    except CommandFailed as error:
        cause, remedy = explain(error, doing=f"fetching the source of {pin.name} {pin.version}")
        raise InstallError(cause, remedy=remedy) from error
    return next(path for path in into.iterdir() if path.is_file())
