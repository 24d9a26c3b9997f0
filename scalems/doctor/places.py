"""Where files are written: whether they may be, and how many."""

from __future__ import annotations

import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from scalems.doctor.finding import Diagnosis, error, good, warning
from scalems.env import layout, state
from scalems.errors import ScalemsError
from scalems.resource import definition

ROOM_NEEDED, ROOM_WISHED = 200 * 2**20, 2 * 2**30
"""Bytes that a run needs, and that builds are better off with."""

TEMPORARY = "temporary files"

_FILES = 1024  # open files; RP's client and agent need some hundreds
_PROCESSES = 512
INODES = 50_000
"""Files: a Task venv has some ten thousand."""
_SKEW = 2.0  # seconds


def limits() -> Iterator[Diagnosis]:
    """Look at how many files and processes this user may have."""
    for kind, subject, least, option in (
        (resource.RLIMIT_NOFILE, "open files", _FILES, "-n"),
        (resource.RLIMIT_NPROC, "processes", _PROCESSES, "-u"),
        (resource.RLIMIT_FSIZE, "bytes in a file", ROOM_NEEDED, "-f"),
    ):
        soft, hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY and soft < least:
            allowed = hard == resource.RLIM_INFINITY or hard >= least
            wished = least // 1024 if option == "-f" else least  # in KiB in bash
            how = f"ulimit {option} {wished}" if allowed else "ask the administrators for more"
            yield warning(f"limit of {subject}", f"{soft}; RADICAL-Pilot needs {least}", how)
        else:
            shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
            yield good(f"limit of {subject}", shown)


def folders() -> Iterator[Diagnosis]:
    """Look at the folders of scalems, of RP's configuration, and for temporary files."""
    for subject, (folder, move) in ours().items():
        yield _place(f"place of {subject}", folder, f"name another folder with {move}")


def ours() -> dict[str, tuple[Path, str]]:
    """Return the folders that are written to on this machine, and the variables that move them."""
    return {
        "builds": (layout.default().root, "SCALEMS_HOME"),
        "runs": (platformdirs.user_state_path("scalems"), "XDG_STATE_HOME"),
        "RP's configuration": (definition.user_folder(), "RADICAL_CONFIG_USER_DIR"),
        TEMPORARY: (Path(tempfile.gettempdir()), "TMPDIR"),
    }


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _place(subject: str, folder: Path, move: str) -> Diagnosis:
    there = existing(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        return error(subject, f"{there} cannot be written", move)
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    shown = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < ROOM_WISHED:
        make = error if free < ROOM_NEEDED else warning
        return make(subject, shown, f"make room (`scalems env gc`), or {move}")
    if room.f_files and room.f_favail < INODES:
        return warning(subject, f"{room.f_favail} files may be made there", move)
    return good(subject, shown)


def sandboxes() -> Iterator[Diagnosis]:
    """Look at where RP will make the sandboxes of pilots that are submitted from here."""
    place = layout.default()
    found: dict[Path, list[str]] = {}
    for label in state.labels(place):
        synced = state.read(place, label)
        if synced is None or synced.host is not None:
            continue  # RP works the folder out on the other host
        try:
            folder, missing = workdir(label)
        except ScalemsError as failure:
            yield error(f"sandboxes of {label}", failure.cause, failure.remedy or "")
            continue
        if missing:
            yield error(
                f"sandboxes of {label}",
                f"its default_remote_workdir names ${missing}, which is not set here",
                f"export {missing}=FOLDER, or set default_remote_workdir in "
                "[NAME.definition] of the resource config",
            )
        elif folder:
            found.setdefault(folder, []).append(label)
    for folder, labels in found.items():
        move = "set default_remote_workdir in [NAME.definition] of the resource config"
        yield _place(f"sandboxes of {', '.join(labels)}", folder, move)


def workdir(label: str) -> tuple[Path | None, str]:
    """Return the folder where RP makes ``radical.pilot.sandbox`` for a local resource.

    RP lets a shell expand ``default_remote_workdir`` (``Session._get_resource_sandbox``). What
    comes with a pilot's description (``%(pd.project)s``) is not known before there is one.

    :returns: the folder, None where it is not known; the variable that it lacks, or nothing.
    :raises UsageError: there is no such resource, or the user's file is not valid.
    """
    raw = str(definition.effective(label).get("default_remote_workdir") or "$PWD")
    for name in re.findall(r"\$\{?(\w+)\}?", raw):
        if name not in os.environ:
            return None, name
    text = os.path.expandvars(raw)
    return (None if "%(" in text or "$" in text else Path(text).absolute()), ""


def clock() -> Iterator[Diagnosis]:
    """Compare the clock of this machine with that of the file system of the home."""
    folder = existing(layout.default().root)
    before = time.time()
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(b"x")
        stream.flush()
        stamp = os.fstat(stream.fileno()).st_mtime
    skew = max(before - stamp, stamp - time.time(), 0.0)
    if skew > _SKEW:
        yield warning(
            "clock",
            f"{skew:.0f} s apart from that of the file server of {folder}",
            "ask the administrators to set the clocks by NTP",
        )
    else:
        yield good("clock", "that of the home's file system is the same")
