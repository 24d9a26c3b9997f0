"""A lock where those of the file system do not do, by what is atomic on all: a hard link.

The claim is a file beside the lock file that says who made it, and whose time its owner renews.
It is stale once its owner has ended, where that can be seen: on the same host. Elsewhere it is
so when it was not renewed for :data:`LIMIT` seconds by the clock of the file system, so that
the clocks of hosts do not matter. A stale claim is taken away by one process only: whoever
makes the file that is named after the claim's token.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scalems.host.process import Identity, myself

if TYPE_CHECKING:
    import threading

BEAT = 10.0
"""Seconds between renewals."""

LIMIT = 120.0
"""Seconds without one after which the owner on another host counts as dead."""

_LOCAL_ONLY = {"local_lock=all", "local_lock=flock", "nolock", "localflock", "nobrl"}
_NETWORK = ("nfs", "nfs4", "lustre", "cifs", "smb3")
_ONE_HOST = ("fuse", "virtiofs")
"""Kinds whose locks no mount option tells of: sshfs, for one, has locks of this mount alone."""

_NFS_3 = {"vers=2", "vers=3"}
_MOUNTS = Path("/proc/self/mountinfo")


_MOST = 4096  # bytes of a claim


@dataclass(frozen=True, kw_only=True)
class _Claim:
    token: str
    owner: Identity
    since: float


@contextlib.contextmanager
def hold(path: Path, *, on_wait: Callable[[str], None] | None = None) -> Iterator[int]:
    """Hold a claim on a path, waiting for whoever has it.

    :param on_wait: called once if somebody else has it, with who that is and since when.
    :return: a descriptor; the claim is not stale while a process of this host has it open.
    :raises OSError: it cannot be created.
    """
    import threading  # only where a file system has no locks
    import uuid

    place = path.with_name(f"{path.name}.claim")
    token = uuid.uuid4().hex
    own = path.with_name(f"{path.name}.{token}")
    data = {"token": token, **myself().to_dict(), "since": time.time()}
    descriptor = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    ended = threading.Event()
    try:
        os.write(descriptor, json.dumps(data).encode())
        _take(own, place, on_wait)
        threading.Thread(target=_renew, args=(descriptor, ended), daemon=True).start()
        try:
            yield descriptor
        finally:
            ended.set()
            _remove(place, token)
    finally:
        own.unlink(missing_ok=True)
        os.close(descriptor)


def is_held(place: Path) -> bool:
    """Whether a claim is held; one that is stale is taken away.

    :param place: the file of the claim.
    """
    there = _read(place)
    if there is None:
        return False
    import uuid

    own = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
    try:
        own.touch(0o600)
        own.write_bytes(b"\n")
        stale = _is_stale(place, there, own)
    except OSError:
        return True  # nothing can be changed here
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
    if stale:
        _remove(place, there.token)
    return not stale


class Mount(NamedTuple):
    """What a file is on: the kind of the file system, and its options."""

    kind: str
    options: frozenset[str]

    @property
    def seen_by_all(self) -> bool:
        """Whether a lock on it excludes other hosts too, and ends with the host that has it.

        True where no other host can see it. A server of NFS 3 keeps the locks of a host that has
        crashed until that one is up again, if it ever is. Mount options by which a client of a
        network file system keeps locks to itself are in nfs(5), mount.lustre(8) and
        mount.cifs(8).
        """
        if self.kind.partition(".")[0] in _ONE_HOST:
            return self.kind == "fuse.fuse-overlayfs"  # of a container, which no other host sees
        if self.kind == "nfs" and _NFS_3 & self.options:
            return False
        return not (self.is_far and _LOCAL_ONLY & self.options)

    @property
    def is_far(self) -> bool:
        """Whether it is of a server that other hosts use too."""
        return self.kind in _NETWORK


def mount_of(path: Path, *, mounts: Path = _MOUNTS) -> Mount:
    """Return what a file is on.

    :param mounts: what is mounted, as in proc(5).
    """
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields, _, more = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            kind, _, options = [*more.split(), "", "", ""][:3]
            return Mount(kind, frozenset(options.split(",")))
    return Mount("", frozenset())


def _take(own: Path, place: Path, on_wait: Callable[[str], None] | None) -> None:
    told = False
    pause = 0.05
    while not _link(own, place):
        there = _read(place)
        if there is None:
            time.sleep(0.05)  # it was given back just now, or is not written yet
        elif _is_stale(place, there, own):
            _remove(place, there.token)
        else:
            if on_wait and not told:
                on_wait(there.owner.holding(there.since))
                told = True
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)


def _link(own: Path, place: Path) -> bool:
    try:
        os.link(own, place)
    except FileExistsError:
        # The answer of an NFS server may have been lost, and the second one be misleading.
        return own.stat().st_nlink > 1
    except OSError:
        # SFTP has one code for all failures: that it is there already must be seen.
        if place.exists():
            return False
        raise
    return True


def _read(place: Path) -> _Claim | None:
    try:
        data = json.loads(place.read_bytes())
        return _Claim(
            token=str(data["token"]), owner=Identity.from_dict(data), since=float(data["since"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_stale(place: Path, there: _Claim, own: Path) -> bool:
    gone = there.owner.is_gone
    if gone is None:
        return _age(place, own) > LIMIT
    return gone and not _is_open(place, there.token)


def _age(place: Path, own: Path) -> float:
    """Return for how long a file was not renewed, by the clock of its file system."""
    try:
        with own.open("rb+") as stream:
            _touch(stream.fileno())
        return own.stat().st_mtime - place.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_open(place: Path, token: str) -> bool:
    """Whether a process of this host has a claim open: a command that its owner had started.

    On sshfs the two names of one file are two files: it is known by the first one's name too.
    """
    name = f"{place.name.removesuffix('.claim')}.{token}"
    try:
        wanted = place.stat()
    except FileNotFoundError:
        return True
    for found in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if found.readlink().name.removesuffix(" (deleted)") == name:
                return True
            if os.path.samestat(found.stat(), wanted):
                return True
    return False


def _remove(place: Path, token: str) -> None:
    """Take away the claim with a token, if it is still there."""
    mark = place.with_name(f"{place.name}.{token}.end")
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # Somebody else does it. If that one has died at it, the next to come may.
        with contextlib.suppress(OSError):
            if time.time() - mark.stat().st_mtime > LIMIT:
                mark.unlink()
        time.sleep(0.05)
        return
    try:
        there = _read(place)
        if there and there.token == token:
            with contextlib.suppress(FileNotFoundError):
                place.unlink()
    finally:
        mark.unlink(missing_ok=True)


def _renew(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            _touch(descriptor)


def _touch(descriptor: int) -> None:
    """Renew the time of a file by the clock of the file server.

    What is in it is written again, as it is: sshfs takes the client's clock to set a time.
    """
    os.utime(descriptor)
    if data := os.pread(descriptor, _MOST, 0):
        os.pwrite(descriptor, data, 0)
        os.fsync(descriptor)
