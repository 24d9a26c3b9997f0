"""Where the environment manager keeps its things: every path of it comes from here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from scalems import probe
from scalems.errors import UsageError

MANIFEST = probe.MANIFEST


class Layout:
    """The state folder of scalems on a host."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, *, builds: bool = True) -> None:
        """Make the folder, for its owner alone; whoever wants to share it with a group opens it.

        What is in it may be read by whoever may enter it, but not the backups.

        :param builds: it gets builds; those of a resource on another host are there.
        :raises OSError: it cannot be written.
        """
        if not self.root.is_dir():
            from scalems.host.files import make_private

            make_private(self.root)
        made = [self.builds] if builds else []
        for folder in (*made, self.resource("x").parent, self.seen("x").parent):
            folder.mkdir(mode=0o755, exist_ok=True)
        self.backups().mkdir(mode=0o700, exist_ok=True)

    @property
    def is_ours(self) -> bool:
        """Whether this user may write there; the folder of somebody else is only read."""
        return os.access(self.root, os.W_OK)

    @property
    def builds(self) -> Path:
        """Folder of all builds."""
        return self.root / "builds"

    @property
    def wheels(self) -> Path:
        """Folder of the wheels that scalems made of itself."""
        return self.root / "wheels"

    @property
    def wheelhouse(self) -> Path:
        """Folder of the wheels that were collected for hosts and bundles, by content."""
        return self.root / "wheelhouse"

    @property
    def packages(self) -> Path:
        """Folder of the wheels of local packages, each in a folder named after its files."""
        return self.root / "packages"

    @property
    def compiled(self) -> Path:
        """Folder of what Python has compiled for builds, see :mod:`scalems.env.codecache`."""
        return self.root / "compiled"

    def build(self, name: str, input_digest: str) -> Path:
        """Folder of one build, named after what decided it."""
        return self.builds / f"{name}-{input_digest[:16]}"

    @property
    def sync_lock(self) -> Path:
        """File that every sync holds together, and who removes builds alone."""
        return self.root / "sync.lock"

    @property
    def definition_lock(self) -> Path:
        """File that whoever writes one of RP's resource files holds."""
        return self.root / "definition.lock"

    def build_lock(self, name: str, input_digest: str) -> Path:
        """File that whoever makes or removes a build holds."""
        return self.builds / f".{name}-{input_digest[:16]}.lock"

    def resource(self, label: str) -> Path:
        """File that says what was last synced for a resource.

        :raises UsageError: there can be no such resource.
        """
        return self.root / "resources" / f"{_checked(label)}.json"

    def seen(self, label: str) -> Path:
        """File that says what was last seen to be in sync, see :mod:`scalems.env.seen`."""
        return self.root / "seen" / f"{_checked(label)}.json"

    def generations(self, label: str) -> Path:
        """Folder of the sets of builds that a resource has had."""
        return self.root / "generations" / _checked(label)

    def current(self, label: str, name: str) -> Path:
        """Link to the build in use, for people and their scripts."""
        return self.root / "current" / _checked(label) / _checked(name)

    def backups(self) -> Path:
        """Folder of the former versions of RP's resource files."""
        return self.root / "backups"


def _checked(name: str) -> str:
    """Return a name that leads nowhere else than to a file of that name."""
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise UsageError(
            f"{name!r} is not a name of letters, digits, '.', '-' and '_'",
            remedy="`scalems env list` and `scalems resource list` show what there is",
        )
    return name


def default() -> Layout:
    """Return the state folder: ``$SCALEMS_HOME``, else below the user's data folder.

    The data folder is that of the XDG base directories
    (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    if home := os.environ.get("SCALEMS_HOME"):
        return Layout(Path(home).expanduser().absolute())
    return personal()


def personal() -> Layout:
    """Return the state folder of this user, whatever ``SCALEMS_HOME`` says."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Layout(Path(data).expanduser() / "scalems")
