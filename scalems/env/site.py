"""What an environment takes from its site: modules, shell lines, software that is not Python.

The software is found by its own command, which is run in the environment as a task sees it,
so the version that counts is the one that a task would get.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalems.env.finding import Finding
from scalems.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from scalems.host.local import CommandFailed

_LIMIT = 60.0  # seconds for a program to tell its version
_PATIENCE = 2.0  # seconds without a word

# `module` is a shell function that only login shells are sure to have. These are where
# Environment Modules (https://modules.readthedocs.io) and Lmod (https://lmod.readthedocs.io)
# put the file that defines it.
_INIT = (
    '"$MODULESHOME/init/bash"',
    '"$LMOD_PKG/init/bash"',
    "/etc/profile.d/modules.sh",
    "/etc/profile.d/lmod.sh",
    "/usr/share/modules/init/bash",
    "/usr/share/lmod/lmod/init/bash",
)
_MODULE = (
    "type module >/dev/null 2>&1 || "
    f"for scalems_file in {' '.join(_INIT)}; do "
    'if [ -r "$scalems_file" ]; then . "$scalems_file"; fi; '
    "if type module >/dev/null 2>&1; then break; fi; done; unset scalems_file"
)


@dataclass(frozen=True, kw_only=True)
class Software:
    """A program that is not a Python package.

    :param command: shell line that prints its version.
    :param pattern: regular expression whose first group is the version.
    :param range: versions that will do, as a specifier such as ``>=2022,<2025``; empty for any.
    """

    name: str
    command: str
    pattern: str
    range: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What an environment takes from its site.

    :param modules: site modules, loaded in this order.
    :param shell: shell lines, run after them.
    """

    modules: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    software: tuple[Software, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.modules or self.shell or self.software)

    @property
    def lines(self) -> list[str]:
        """Return the shell lines that set it up, before the venv is activated."""
        import shlex

        loads = [f"module load {shlex.quote(name)}" for name in self.modules]
        return [*([_MODULE] if loads else []), *loads, *self.shell]

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "modules": list(self.modules),
            "shell": list(self.shell),
            "software": [vars(one) for one in self.software],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Site:
        """Read it back."""
        return cls(
            modules=tuple(data["modules"]),
            shell=tuple(data["shell"]),
            software=tuple(Software(**one) for one in data["software"]),
        )


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What became of one program's probe.

    :param version: empty if it told none.
    :param problem: why there is no version, or why it will not do.
    """

    name: str
    version: str
    problem: str = ""


def probe(site: Site) -> list[Probed]:
    """Ask each program of a site for its version, all at once."""
    if not site.software:
        return []
    import logging  # most environments have none
    from concurrent.futures import wait

    from scalems.host import local

    with local.threads(len(site.software)) as pool:
        asked = [pool.submit(_probe, site, one) for one in site.software]
        wait(asked, timeout=_PATIENCE)
        if late := [
            one.name for one, its in zip(site.software, asked, strict=True) if not its.done()
        ]:
            names = ", ".join(late)
            log = logging.getLogger(__name__)
            log.warning("waiting for the version of %s, up to %.0f s", names, _LIMIT)
        return [its.result() for its in asked]


def require(site: Site, *, env: str) -> dict[str, str]:
    """Return the version of each program.

    :param env: name of the environment, for the error.
    :raises EnvironmentNotReady: one is missing, or in a version that will not do.
    """
    found = probe(site)
    if problems := [one for one in found if one.problem]:
        listed = "\n".join(f"  {one.name}: {one.problem}" for one in problems)
        raise EnvironmentNotReady(
            f"software that {env!r} needs is not here:\n{listed}",
            remedy=_remedy(env),
        )
    return {one.name: one.version for one in found}


def _remedy(env: str) -> str:
    return (
        f"correct `modules`, `shell` or [software] in envs/{env}.toml; "
        "`module avail` lists what the site has"
    )


def check(env: str, site: Site, versions: Mapping[str, str]) -> Iterator[Finding]:
    """Compare the software that is there now with what was found when a build was made.

    A finding without a remedy is mended by a sync.

    :param versions: by name, as they were then.
    """
    for wanted, one in zip(site.software, probe(site), strict=True):
        if one.version and one.problem:
            yield Finding(
                env=env,
                kind="unfit version of software",
                subject=one.name,
                expected=wanted.range,
                found=one.version,
                remedy=_remedy(env),
            )
        elif one.problem:
            subject = f"{one.name}: {one.problem}"
            yield Finding(env=env, kind="missing software", subject=subject, remedy=_remedy(env))
        elif one.version != versions.get(one.name):
            yield Finding(
                env=env,
                kind="changed version of software",
                subject=one.name,
                expected=versions.get(one.name, ""),
                found=one.version,
            )


def variables(site: Site) -> dict[str, str]:
    """Return the environment variables that the shell lines of a site set or change.

    :raises EnvironmentNotReady: a line fails, as `module load` of a module that is not there.
    """
    if not site.lines:
        return {}
    import subprocess
    import tempfile

    from scalems.host.local import LEAKING

    script = "\n".join(["set -e", *site.lines, "env -0 >&3"])
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&{output.fileno()}\n{script}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=[output.fileno()],
            check=False,
        )
        output.seek(0)
        pairs = output.read().decode(errors="surrogateescape").split("\0")
    if done.returncode:
        raise EnvironmentNotReady(
            f"the shell lines of the environment fail: {done.stderr.strip()}",
            remedy="correct `modules` or `shell` in its spec, and sync",
        )
    now = {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name}
    # Functions, and what bash sets of itself.
    return {
        name: value
        for name, value in now.items()
        if os.environ.get(name) != value and name not in ("_", "SHLVL", "PWD", *LEAKING)
    }


def _probe(site: Site, software: Software) -> Probed:
    from scalems.host.local import CommandFailed, run
    from scalems.host.scratch import scratch

    # `set -e` is for the lines of the site: a module that is not there ends it.
    script = "\n".join(["set -e", *site.lines, "set +e", software.command])
    with scratch("probe") as empty:
        try:
            done = run(["bash", "-c", script], cwd=empty, limit=_LIMIT)
        except CommandFailed as error:
            return Probed(name=software.name, version="", problem=_failure(software, error))
    match = re.search(software.pattern, f"{done.stdout}\n{done.stderr}")
    if match is None:
        problem = f"`{software.command}` printed nothing that matches {software.pattern!r}"
        return Probed(name=software.name, version="", problem=problem)
    version = (match.group(1) or "").strip()
    return Probed(name=software.name, version=version, problem=_misfit(software, version))


def _misfit(software: Software, version: str) -> str:
    if not software.range:
        return ""
    from packaging.specifiers import SpecifierSet  # a launch without software needs no parser
    from packaging.version import InvalidVersion

    try:
        fits = SpecifierSet(software.range).contains(version, prereleases=True)
    except InvalidVersion:
        fits = False
    return "" if fits else f"is {version or '(empty)'}, needs {software.range}"


def _failure(software: Software, error: CommandFailed) -> str:
    from scalems.host.local import CommandLate

    if isinstance(error, CommandLate):
        return f"`{software.command}` did not end in {_LIMIT:.0f} s"
    if error.completed is None:
        return error.cause
    printed = error.completed.stderr.strip() or error.completed.stdout.strip()
    # bash says so when a module's function is ended amid its work.
    lines = [line.strip() for line in printed.splitlines() if "pop_var_context" not in line]
    shown = "; ".join(line for line in lines if line)
    if len(shown) > 400:  # the module that is missing is named first, what else failed last
        shown = f"{shown[:200]} ... {shown[-200:]}"
    end = _end(error.completed.returncode)
    return f"{end}: {shown}" if shown else f"`{software.command}`: {end}"


def _end(code: int) -> str:
    """Say how a program ended whose exit code, or that of the shell around it, is given."""
    import signal

    number = -code if code < 0 else code - 128
    if number in {one.value for one in signal.Signals}:
        return f"ended by {signal.Signals(number).name}"
    return f"exit code {code}"


def mistakes(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what a schema cannot see in the ``[software]`` of an env spec."""
    from packaging.specifiers import SpecifierSet

    tables = data.get("software")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if not isinstance(table, dict):
            continue  # the schema reports it
        yield from _pattern_mistakes(("software", name, "pattern"), table.get("pattern", "()"))
        text = table.get("version", "")
        try:
            SpecifierSet(text if isinstance(text, str) else "")
        except ValueError:
            yield ("software", name, "version"), f"{text!r} is not a version range like '>=2022'"


def _pattern_mistakes(
    where: Sequence[str | int], pattern: object
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if not isinstance(pattern, str):
        return
    try:
        groups = re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError) as error:
        yield tuple(where), f"{pattern!r} is not a regular expression: {error}"
    else:
        if groups < 1:
            yield tuple(where), f"{pattern!r} has no group: put the version in parentheses"
