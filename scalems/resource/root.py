"""Where a project is: found before anything of it is read."""

from __future__ import annotations

from pathlib import Path

from scalems.errors import UsageError


def find(folder: Path | None = None) -> Path:
    """Return the project that a folder belongs to: the nearest parent with ``resource-configs/``.

    :raises UsageError: there is none.
    """
    start = (folder or Path.cwd()).resolve()
    if not start.is_dir():
        raise UsageError(f"{start} is not a folder")
    for root in (start, *start.parents):
        if (root / "resource-configs").is_dir() and (root / "envs").is_dir():
            return root
    raise UsageError(
        f"neither {start} nor a folder above it has envs/ and resource-configs/",
        remedy="change to your project's folder, or name it with --project FOLDER",
    )
