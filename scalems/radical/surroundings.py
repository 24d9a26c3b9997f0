"""What can be seen of a run's surroundings when it fails: its venvs, its folder, its host."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import socket
import struct
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from scalems import probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scalems.env import Build

_FULL = 1_000_000  # bytes below which nothing can be written any more
_ANSWER = 5.0  # seconds
_SIOCGIFADDR, _SIOCGIFFLAGS, _IFF_UP = 0x8915, 0x8913, 1  # of Linux
_SPEAKS = ("radical-pilot", "radical-utils")  # what the client and the agent must have alike


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run runs.

    :param label: RP's label of the resource.
    :param folder: of the run, with its logs.
    :param venv: the Pilot venv that the definition names; ``None`` if it names none.
    :param build: the Task venv.
    :param sandbox: the pilot's folder, where this host sees it.
    :param addresses: of this host, that its Workers connect to.
    """

    label: str
    folder: Path
    venv: Path | None = None
    build: Build | None = None
    sandbox: Path | None = None
    addresses: tuple[str, ...] = ()

    def words(self) -> dict[str, str]:
        """Return it in words for messages."""
        return {
            "label": self.label,
            "venv": str(self.venv or ""),
            "task": str(self.build.venv if self.build else ""),
            "sandbox": str(self.sandbox or self.folder),
        }


def faults(place: Place) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with what a run needs, each with its remedy.

    Nothing is started and nothing imported.
    """
    sync = f"scalems env sync --resource {place.label}"
    if problem := pilot_fault(place):
        yield problem, sync
    if place.build is not None and (problem := _build_problem(place.build)):
        yield f"The Task venv {place.build.venv} {problem}.", sync
    if problem := no_loopback():
        yield problem, "bring it up: ip link set lo up"
    if problem := no_way(place.addresses):
        yield problem, "bring it up, or name another one by SCALEMS_CHANNEL=ADDRESS, and run again"
    for folder in (place.sandbox, place.folder):
        if folder is not None and (problem := no_room(folder)):
            yield problem, "free some space, or set another folder: --pilot-option sandbox=FOLDER"
            return


def no_room(folder: Path, *, needed: int = _FULL) -> str:
    """Return that there is no room left in a folder; empty if there is.

    :param needed: bytes.
    """
    try:
        left = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"There is no room left in {folder}: {left / 1e6:.1f} MB." if left < needed else ""


def no_loopback() -> str:
    """Return that this host's parts cannot talk to each other; empty if they can."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=_ANSWER),
        ):
            return ""
    except OSError as error:
        return f"The loopback interface of this host does not work: {error.strerror or error}."


def no_way(addresses: Sequence[str]) -> str:
    """Return that this host is not reached by any of its addresses; empty if it may be."""
    lost = [(address, why) for address in addresses if (why := _lost(address))]
    if not addresses or len(lost) < len(addresses):
        return ""
    told = ", ".join(f"{address} ({why})" for address, why in lost)
    return f"The network that Workers reach this host by is gone: {told}."


def has(address: str) -> bool:
    """Tell if this host has an address."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _lost(address: str) -> str:
    """Return why an address of this host is of no use; netdevice(7) has the requests."""
    if not has(address):
        return "no interface has it"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:

        def ask(request: int, name: str) -> bytes:
            given = struct.pack("256s", name.encode())
            return bytes(fcntl.ioctl(probe.fileno(), request, given))

        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                its = socket.inet_ntoa(ask(_SIOCGIFADDR, name)[20:24])
                (flags,) = struct.unpack_from("h", ask(_SIOCGIFFLAGS, name), 16)
                if its == address and not flags & _IFF_UP:
                    return f"its interface {name} is down"
    return ""


def cut_off(place: Place) -> bool:
    """Tell if no Worker can reach this host, and none will."""
    return bool(no_loopback() or no_way(place.addresses))


def pilot_fault(place: Place) -> str:
    """Return what is wrong with the Pilot venv; empty if nothing is, or it cannot be seen."""
    if place.venv is None or not (problem := _venv_problem(place.venv)):
        return ""
    return f"The Pilot venv {place.venv} {problem}."


def missing_module(place: Place, module: str) -> tuple[str, str]:
    """Return why a module is missing in the Task venv, and what to do."""
    top = module.partition(".")[0]
    build, sync = place.build, f"scalems env sync --resource {place.label}"
    if build is None:
        return f"A part of the run needs the module {module!r}, which is not there.", sync
    name = f"The Task venv {build.name!r}"
    if _was_built(build, module):
        when = _changed(probe.site_packages(build.venv), module)
        return f"{name} has lost the module {module!r}: it was removed by hand on {when}.", sync
    return (
        f"{name} has no module {module!r}.",
        f"add {top} to the dependencies in envs/{build.name}.toml; {sync}",
    )


def _venv_problem(venv: Path) -> str:
    if venv.is_symlink() and not venv.exists():
        return f"is a link to {venv.readlink()}, which is not there"
    if not venv.exists():
        return "is not there"
    if problem := _python_problem(venv):
        return problem
    found = probe.versions(probe.sites(venv))
    for name in _SPEAKS:
        there, here = found.get(name, ""), _version(name)
        if not there:
            return f"has no {name}"
        if here and there != here:
            return f"has {name} {there}, and the client has {here}: they do not understand another"
    return ""


def _build_problem(build: Build) -> str:
    if not build.venv.exists():
        return "is not there any more"
    if problem := _python_problem(build.venv):
        return problem
    try:
        folder, *base = probe.sites(build.venv)
    except FileNotFoundError:
        return "has lost the environment that it adds to"
    found = probe.versions([folder, *base])
    lost = [name for name in build.versions if name not in found]
    if lost:
        names = ", ".join(f"{name} {build.versions[name]}" for name in lost[:5])
        return f"has lost {names}, which it was built with: removed by hand on {_time(folder)}"
    changed = [name for name, one in build.versions.items() if found[name] != one]
    if changed:
        name = changed[0]
        return (
            f"has {name} {found[name]}, and was built with {build.versions[name]}: changed by hand "
            f"on {_time(folder)}"
        )
    return ""


def _python_problem(venv: Path) -> str:
    python = venv / "bin" / "python"
    if not (venv / "bin" / "activate").is_file():
        return "is not a venv: it has no bin/activate"
    if not python.exists():
        if python.is_symlink():
            return f"has no Python any more: {python} leads to {python.resolve()}, which is gone"
        return f"has no Python any more: {python} is gone"
    try:
        probe.site_packages(venv)
    except FileNotFoundError:
        return "is not a venv: it has no site-packages"
    return ""


def _was_built(build: Build, module: str) -> bool:
    """Whether the files of a build, when it was made, had a module; its metadata tells else."""
    inner = module.replace(".", "/")
    try:
        table = json.loads((build.folder / "files.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return probe.normalize(module.partition(".")[0]) in build.versions
    ends = (f"/site-packages/{inner}.py", f"/site-packages/{inner}/__init__.py")
    return any(path.endswith(ends) or f"/site-packages/{inner}/" in path for path in table)


def _changed(site: Path, module: str) -> str:
    """Return when the folder was changed that a module was in."""
    place = site
    for part in module.split(".")[:-1]:
        if not (place / part).is_dir():
            break
        place = place / part
    return _time(place)


def _time(path: Path) -> str:
    return time.strftime("%A, %d %B %H:%M", time.localtime(path.stat().st_mtime))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
