"""What quotas leave this user: a file system shows room that one user may not fill."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scalems.doctor.finding import Diagnosis, error, good, warning
from scalems.doctor.places import INODES, ROOM_NEEDED, ROOM_WISHED, existing, ours

_ANSWER = 10.0  # seconds for a file server
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h
_LUSTRE = "lustre"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What one file system lets this user have.

    :param room: bytes that may still be written; None without a limit.
    :param files: files that may still be made; None without a limit.
    """

    mount: str
    room: int | None
    files: int | None


def quotas() -> Iterator[Diagnosis]:
    """Ask the file servers, and reserve as much as a run needs for a moment."""
    for one in listed():
        yield from _judge(one)
    homes = {
        subject: there for subject, (there, _) in ours().items() if subject != "temporary files"
    }
    for folder in sorted({existing(folder) for folder in homes.values()}):
        if (refusal := reserve(folder)) is not None:
            yield error(
                f"quota in {folder}",
                f"{ROOM_NEEDED >> 20} MiB cannot be written there: {os.strerror(refusal)}",
                "remove files that you do not need, or ask the administrators for more",
            )


def _judge(one: Quota) -> Iterator[Diagnosis]:
    subject = f"quota in {one.mount}"
    remedy = "make room (`scalems env gc`), or ask the administrators for more"
    room = None if one.room is None else f"{one.room / 2**30:.1f} GiB"
    files = None if one.files is None else f"{one.files} files"
    left = f"{' and '.join(filter(None, (room, files)))} left of what you may have"
    if (one.room is not None and one.room < ROOM_NEEDED) or one.files == 0:
        yield error(subject, left, remedy)
    elif (one.room is not None and one.room < ROOM_WISHED) or (
        one.files is not None and one.files < INODES
    ):
        yield warning(subject, left, remedy)
    elif room or files:
        yield good(subject, left)


def listed() -> Iterator[Quota]:
    """Yield the quotas that ``quota`` knows (also of NFS), and ``lfs quota`` for Lustre."""
    if shutil.which("quota"):
        text = _said(["quota", "--no-wrap", "--raw-grace", "--hide-device", "--show-mntpoint"])
        yield from read(text)
    if shutil.which("lfs"):
        for mount in _lustre():
            yield from read(_said(["lfs", "quota", "-q", "-u", str(os.getuid()), mount]))


def read(text: str) -> Iterator[Quota]:
    """Read what ``quota -wp`` or ``lfs quota -q`` prints.

    Both give a line for each file system, which ends in eight columns: KiB used, soft limit,
    hard limit and grace, then the same of files (quota(1); lfs-quota(1)). A limit of 0 is
    none, and a ``*`` marks what is exceeded. Other lines are passed over.
    """
    for line in text.splitlines():
        words = line.rsplit(maxsplit=8)
        if len(words) != 9:
            continue
        try:
            used, soft, hard = (int(word.rstrip("*")) for word in words[1:4])
            had, few, most = (int(word.rstrip("*")) for word in words[5:8])
        except ValueError:
            continue
        room, files = _left(used, soft, hard), _left(had, few, most)
        mount = words[0].strip()
        yield Quota(mount=mount, room=None if room is None else room * 1024, files=files)


def _left(used: int, *limits: int) -> int | None:
    return min((max(limit - used, 0) for limit in limits if limit > 0), default=None)


def _lustre() -> list[str]:
    try:
        mounts = Path("/proc/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for line in mounts if len(words := line.split()) > 2 and words[2] == _LUSTRE]


def _said(argv: list[str]) -> str:
    """Return what a command prints; nothing if it does not answer. Over quota is no 0 either."""
    try:
        return subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_ANSWER,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def reserve(folder: Path, size: int = ROOM_NEEDED) -> int | None:
    """Try to reserve room in a folder, and give it back at once.

    fallocate(2) reserves blocks without writing them, and is refused where a quota is used up.
    Python has only ``posix_fallocate``, which writes into each block where the file system
    cannot reserve (NFS before 4.2).

    :returns: the number of the error that a run would end with, or None.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            number = ctypes.c_int64(size)
            if libc.fallocate(stream.fileno(), _KEEP_SIZE, ctypes.c_int64(0), number) == 0:
                return None
            refused = ctypes.get_errno()
    except AttributeError:  # a libc without it
        return None
    except OSError as failure:
        refused = failure.errno or 0
    return refused if refused in (errno.EDQUOT, errno.ENOSPC, errno.EFBIG) else None
