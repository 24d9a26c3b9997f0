"""How often the kernel has ended a process of this one's control group for want of memory.

The far side imports this module.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def kills(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Return the counter of the control group that this process is in; ``None`` without one.

    See cgroup-v2 of Linux (``memory.events``) and cgroup-v1/memory (``memory.oom_control``).
    """
    try:
        entries = [line.split(":", 2) for line in own.read_text(errors="replace").splitlines()]
    except OSError:
        return None
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        names = controllers.split(",")
        if controllers and "memory" not in names:
            continue
        base = root / "memory" if controllers else root
        file = "memory.oom_control" if controllers else "memory.events"
        # In a container, the path may be that of the host, and what is mounted begins at it.
        for folder in (base / path.lstrip("/"), base):
            if (found := _counter(folder / file)) is not None:
                return found
    return None


def _counter(file: Path) -> int | None:
    try:
        pairs = (line.split() for line in file.read_text(encoding="ascii").splitlines())
        return next(int(words[1]) for words in pairs if len(words) == 2 and words[0] == "oom_kill")
    except (OSError, ValueError, StopIteration):
        return None
