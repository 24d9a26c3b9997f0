"""What makes RADICAL-Pilot's runs fail, found before they run.

Each check looks at one thing of this machine and this user, changes nothing, and says what
to do about what it finds.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import resource
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import platformdirs

from scalems import probe
from scalems.env import layout, parity, state
from scalems.errors import ScalemsError
from scalems.host.address import Host
from scalems.resource import definition
from scalems.resource.config import find_project

_FILES = 1024  # open files; RP's client and agent need some hundreds
_PROCESSES = 512
_ROOM_NEEDED, _ROOM_WISHED = 200 * 2**20, 2 * 2**30  # bytes
_INODES = 50_000  # a Task venv has some ten thousand files
_SKEW = 2.0  # seconds
_ANSWER = 10.0  # seconds for a batch system
_SANDBOXES = 20 * 2**30  # bytes

_BATCH = {"slurm": "sinfo", "pbs": "qstat", "pbspro": "qstat", "lsf": "bqueues", "cobalt": "qstat"}


class Verdict(str, Enum):
    """How a check went."""

    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What one check found.

    :param subject: what was looked at.
    :param remedy: the command or edit that mends it.
    """

    subject: str
    verdict: Verdict
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it in values that JSON can hold."""
        return {**asdict(self), "verdict": self.verdict.value}


def _good(subject: str, detail: str) -> Diagnosis:
    return Diagnosis(subject=subject, verdict=Verdict.GOOD, detail=detail)


def _warning(subject: str, detail: str, remedy: str) -> Diagnosis:
    return Diagnosis(subject=subject, verdict=Verdict.WARNING, detail=detail, remedy=remedy)


def _error(subject: str, detail: str, remedy: str) -> Diagnosis:
    return Diagnosis(subject=subject, verdict=Verdict.ERROR, detail=detail, remedy=remedy)


def examine(label: str | None = None) -> Iterator[Diagnosis]:
    """Run all checks; one that fails itself is a finding too.

    :param label: a resource whose host is looked at too.
    :raises UsageError: there is no such resource.
    """
    host = _host_of(label) if label else None
    for check in (*CHECKS, *([functools.partial(_host, host)] if host else ())):
        try:
            yield from check()
        except Exception as error:  # a broken machine breaks checks in ways nobody foresaw
            yield _warning(
                getattr(check, "__name__", "host").strip("_").replace("_", " "),
                f"could not be looked at: {error!r}",
                "",
            )


# --- Python -------------------------------------------------------------------------------


def _python() -> Iterator[Diagnosis]:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield _good("Python", f"{version} in {sys.prefix}")
    else:
        yield _warning("Python", f"{version} is not tested", "use Python 3.10 to 3.13")
    prefix = os.environ.get("CONDA_PREFIX")
    if prefix and Path(sys.prefix) != Path(prefix) and sys.prefix != sys.base_prefix:
        yield _warning(
            "conda", f"{prefix} is active, and scalems runs in {sys.prefix}", "conda deactivate"
        )


def _variables() -> Iterator[Diagnosis]:
    names = [name for name in ("PYTHONPATH", "PYTHONHOME") if os.environ.get(name)]
    for name in names:
        yield _warning(
            name,
            f"is set to {os.environ[name]!r}: what it names comes before what is installed",
            f"unset {name}",
        )
    if not names:
        yield _good("variables", "neither PYTHONPATH nor PYTHONHOME is set")


def _user_site() -> Iterator[Diagnosis]:
    folder = site.getusersitepackages()
    there = probe.versions([folder])
    shadowing = sorted(there.keys() & parity.RULES.keys())
    if shadowing:
        listed = ", ".join(f"{name} {there[name]}" for name in shadowing)
        yield _warning(
            "user site",
            f"{folder} has {listed}: a Python outside of a venv would take them",
            f"python3 -m pip uninstall {' '.join(shadowing)}",
        )
    else:
        yield _good("user site", "has none of the RADICAL-Cybertools")


def _radical() -> Iterator[Diagnosis]:
    versions = probe.versions(sys.path)
    stack = {name: versions[name] for name in parity.RULES if name.startswith("radical")}
    series = {tuple(version.split(".")[:2]) for version in stack.values()}
    shown = ", ".join(f"{name} {version}" for name, version in stack.items())
    if len(series) > 1:
        yield _error(
            "RADICAL-Cybertools",
            f"of different series: {shown}",
            "pip install --upgrade radical.pilot radical.utils radical.gtod",
        )
    else:
        yield _good("RADICAL-Cybertools", shown)


# --- limits and places --------------------------------------------------------------------


def _limits() -> Iterator[Diagnosis]:
    for kind, subject, least, option in (
        (resource.RLIMIT_NOFILE, "open files", _FILES, "-n"),
        (resource.RLIMIT_NPROC, "processes", _PROCESSES, "-u"),
    ):
        soft, hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY and soft < least:
            allowed = hard == resource.RLIM_INFINITY or hard >= least
            how = f"ulimit {option} {least}" if allowed else "ask the administrators for more"
            yield _warning(f"limit of {subject}", f"{soft}; RADICAL-Pilot needs {least}", how)
        else:
            shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
            yield _good(f"limit of {subject}", shown)


def _places() -> Iterator[Diagnosis]:
    for subject, folder, move in (
        ("builds", layout.default().root, "SCALEMS_HOME"),
        ("runs", platformdirs.user_state_path("scalems"), "XDG_STATE_HOME"),
        ("RP's configuration", definition.user_folder(), "RADICAL_CONFIG_USER_DIR"),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        yield _place(subject, folder, f"name another folder with {move}")


def _place(subject: str, folder: Path, move: str) -> Diagnosis:
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        return _error(f"place of {subject}", f"{there} cannot be written", move)
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    shown = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _ROOM_WISHED:
        make = _error if free < _ROOM_NEEDED else _warning
        return make(f"place of {subject}", shown, f"make room (`scalems env gc`), or {move}")
    if room.f_files and room.f_favail < _INODES:
        return _warning(f"place of {subject}", f"{room.f_favail} files may be made there", move)
    return _good(f"place of {subject}", shown)


def _clock() -> Iterator[Diagnosis]:
    """Compare the clock of this machine with that of the file system of the home."""
    folder = layout.default().root
    while not folder.exists():
        folder = folder.parent
    before = time.time()
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(b"x")
        stream.flush()
        stamp = os.fstat(stream.fileno()).st_mtime
    skew = max(before - stamp, stamp - time.time(), 0.0)
    if skew > _SKEW:
        yield _warning(
            "clock",
            f"{skew:.0f} s apart from that of the file server of {folder}",
            "ask the administrators to set the clocks by NTP",
        )
    else:
        yield _good("clock", "that of the home's file system is the same")


# --- network ------------------------------------------------------------------------------


def _network() -> Iterator[Diagnosis]:
    """RP's parts talk over TCP, at the address of one of the host's interfaces."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield _warning(
            "host name",
            f"{name!r} has no address: {error}",
            f"add it to /etc/hosts: 127.0.1.1 {name}",
        )
        address = "127.0.0.1"
    else:
        yield _good("host name", f"{name} is {address}")
    try:
        with socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((address, port), timeout=5).close()
    except OSError as error:
        yield _error(
            "ports",
            f"nothing can listen and be reached at {address}: {error}",
            "set network_interface in [NAME.definition] of the resource config",
        )
    else:
        yield _good("ports", f"can be opened and reached at {address}")


# --- other hosts --------------------------------------------------------------------------


def _host_of(label: str) -> Host | None:
    synced = state.read(layout.default(), label)
    return synced.host if synced else find_project().resource(label).host


def _host(host: Host) -> Iterator[Diagnosis]:
    """Connect with a host, and look at what an environment needs there."""
    from scalems.env.remote.link import connect

    begun = time.monotonic()
    try:
        with connect(host) as link:
            took = time.monotonic() - begun
            yield _good(f"connection to {host.name}", f"{link.hostname} answers in {took:.1f} s")
            facts = link.call("facts", interpreters=[], sites={})
            skew = abs(time.time() - facts["time"]) - 1.0
            python = facts["interpreters"][""]
            yield _good(f"Python on {host.name}", f"{python['facts']['version']}: {python['path']}")
            free = facts["free"]
            make = _error if free < _ROOM_NEEDED else _warning
            shown = f"{free / 2**30:.1f} GiB free in {link.root}"
            yield (
                _good(f"place on {host.name}", shown)
                if free >= _ROOM_WISHED
                else make(f"place on {host.name}", shown, "make room, or set `root`")
            )
            if skew > _SKEW:
                yield _warning(f"clock of {host.name}", f"{skew:.0f} s apart", "set it by NTP")
            index = bool(facts["uv"]) and not host.offline and link.call("reaches_index")
            shown = "can be fetched there" if index else "are sent from here"
            yield _good(f"packages on {host.name}", shown)
    except ScalemsError as error:
        yield _error(f"connection to {host.name}", error.cause, error.remedy or "")


# --- what is there ------------------------------------------------------------------------


def _tools() -> Iterator[Diagnosis]:
    from scalems.env.engine.uv import find_uv

    uv = find_uv()
    yield (
        _good("engine", str(uv))
        if uv
        else _warning(
            "engine", "uv is not installed: pip takes its place, and takes longer", "pip install uv"
        )
    )
    mpi = shutil.which("mpiexec") or shutil.which("mpirun") or shutil.which("srun")
    yield (
        _good("MPI", str(mpi))
        if mpi
        else _warning(
            "MPI",
            "neither mpiexec, mpirun nor srun is on PATH",
            "needed for tasks of several ranks",
        )
    )
    compiler = shutil.which("cc") or shutil.which("gcc")
    yield (
        _good("C compiler", str(compiler))
        if compiler
        else _warning(
            "C compiler",
            "is not on PATH: RP's netifaces comes as source only",
            "install gcc, or load your site's module",
        )
    )


def _batch_systems() -> Iterator[Diagnosis]:
    place = layout.default()
    for label in state.labels(place):
        try:
            endpoint = definition.endpoint(label)
        except ScalemsError as error:
            yield _error(label, error.cause, error.remedy or "")
            continue
        scheme = endpoint.partition(":")[0].partition("+")[0]
        if command := _BATCH.get(scheme):
            yield _answers(label, scheme, command)


def _answers(label: str, scheme: str, command: str) -> Diagnosis:
    subject = f"batch system of {label}"
    if not shutil.which(command):
        return _error(
            subject, f"{command} is not on PATH", f"run scalems on a login node with {scheme}"
        )
    try:
        done = subprocess.run(
            [command], capture_output=True, text=True, timeout=_ANSWER, check=False
        )
    except subprocess.TimeoutExpired:
        return _error(subject, f"{command} gave no answer in {_ANSWER:.0f} s", "try again later")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        return _error(subject, f"{command} failed: {lines[-1]}", f"run `{command}` by hand")
    return _good(subject, f"{command} answers")


def _leftovers() -> Iterator[Diagnosis]:
    stale = sorted(_agents())
    if stale:
        pids = " ".join(map(str, stale))
        yield _warning(
            "processes", f"{len(stale)} of RADICAL-Pilot's have no parent: {pids}", f"kill {pids}"
        )
    else:
        yield _good("processes", "none of RADICAL-Pilot's is left over")
    sandbox = Path.home() / "radical.pilot.sandbox"
    size = _size(sandbox)
    if size > _SANDBOXES:
        yield _warning(
            "sandboxes",
            f"{size / 2**30:.0f} GiB in {sandbox}",
            f"remove those that you do not need: du -sh {sandbox}/*",
        )


def _agents() -> Iterator[int]:
    """Yield RP's processes of this user that were left to init."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            ours = entry.stat().st_uid == os.getuid()
            # The bootstrapper is left to init on purpose, and lives as long as its pilot.
            named = any("radical-pilot-agent" in word or "radical.pilot" in word for word in words)
            if ours and named and parent == "1" and "bootstrap" not in " ".join(words):
                yield int(entry.name)


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
    return total


CHECKS: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
    _python,
    _variables,
    _user_site,
    _radical,
    _limits,
    _places,
    _clock,
    _network,
    _tools,
    _batch_systems,
    _leftovers,
)
