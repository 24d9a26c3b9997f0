"""The two ends of an environment: the client that asks for it, the interpreter it is built on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalems import probe
from scalems.env import own, wheel
from scalems.env.parity import Side
from scalems.errors import EnvironmentNotReady, UsageError

if TYPE_CHECKING:
    from scalems.env.spec import EnvSpec


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python to build with.

    :param facts: see :func:`scalems.probe.interpreter`.
    :param markers: see :func:`scalems.probe.markers`.
    """

    path: Path
    facts: Mapping[str, str]
    markers: Mapping[str, str]


def client(*, keep: bool = False) -> Side:
    """Return the client's side of the parity table: the Python that runs this.

    :param keep: see :func:`scalems.env.own.source_digest`.
    """
    versions = probe.versions(sys.path)
    return Side(
        name="client",
        role=None,
        python=sys.version.partition(" ")[0],  # as platform reads it, which takes longer to load
        versions=versions,
        scalems_digest=own.source_digest(versions.get("scalems") or wheel.version(), keep=keep),
    )


def client_interpreter() -> Path:
    """Return the interpreter that the client's venv was made from."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).absolute()


def find_interpreter(spec: EnvSpec) -> Interpreter:
    """Return the interpreter that an env spec asks for; by default the client's own.

    :raises EnvironmentNotReady: it is not there, or does not run.
    :raises UsageError: its version is outside of the range that the spec allows.
    """
    if spec.interpreter is None:
        found = Interpreter(
            path=client_interpreter(), facts=probe.interpreter(), markers=probe.markers()
        )
        if not found.path.is_file():
            raise EnvironmentNotReady(
                f"the interpreter of the client's own venv is gone: {found.path}",
                remedy="make the client's venv again with a Python that is there",
            )
    else:
        found = _probed(spec, spec.interpreter)
    allow(spec, found)
    return found


def allow(spec: EnvSpec, found: Interpreter) -> None:
    """Refuse an interpreter that a spec does not allow.

    :raises UsageError: its version is outside of the range that the spec allows.
    """
    from packaging.specifiers import SpecifierSet

    version = found.facts["version"]
    if not SpecifierSet(spec.python).contains(version, prereleases=True):
        raise UsageError(
            f"{spec.path}: python = {spec.python!r} does not allow "
            f"{'the client' if spec.interpreter is None else spec.interpreter}'s Python {version}",
            remedy="widen `python` in the spec, or run scalems from a Python in that range",
        )


def _probed(spec: EnvSpec, name: str) -> Interpreter:
    import shutil

    from scalems.host.local import CommandFailed, run  # only now: a launch runs nothing

    place = shutil.which(str(Path(name).expanduser()) if "/" in name else name)
    if place is None:
        there = [n for minor in range(10, 15) if shutil.which(n := f"python3.{minor}")]
        raise EnvironmentNotReady(
            f"{spec.path}: there is no interpreter {name!r} on this host",
            remedy=f"install it, or set `interpreter` to one of: {', '.join(there) or '(none)'}; "
            "without that key the client's own is used",
        )
    try:
        described = probe.parse(run([place, "-I", probe.__file__]).stdout)
    except (CommandFailed, ValueError) as error:
        raise EnvironmentNotReady(
            f"{spec.path}: the interpreter {place} does not work: {error}",
            remedy="set `interpreter` to a working Python 3.10 or newer",
        ) from error
    return Interpreter(
        path=Path(place).absolute(), facts=described["interpreter"], markers=described["markers"]
    )
