"""Engines: what resolves requirements and installs locks. One port, two tools."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from scalems.errors import ScalemsError, UsageError
from scalems.host.local import CommandFailed, without_credentials
from scalems.tomlfile import near

if TYPE_CHECKING:
    from scalems.env.tag import Tag

Choice = Literal["auto", "uv", "pip"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


class ResolveError(ScalemsError):
    """No set of versions satisfies everything that an environment asks for."""


class InstallError(ScalemsError):
    """A lock could not be installed."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What an engine resolved.

    :param body: pinned and hashed requirements, with comments that say what brought each in.
    :param python: range of Python versions that it holds for.
    """

    body: str
    python: str


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a build gets of packages, where no index may be asked.

    :param folder: of wheels.
    :param pins: requirements with hashes that hold for all that is taken from it.
    """

    folder: Path
    pins: str


class Engine(Protocol):
    """What an environment needs of a package installer."""

    name: str
    unpacked_cache: bool
    """Whether it installs files that were unpacked, and could have been changed, long ago."""

    def version(self) -> str:
        """Return the tool's name and version, for people."""

    def resolve(
        self,
        requirements: Sequence[str],
        constraints: Sequence[str],
        *,
        python: str,
        interpreter: Path,
        former: str,
        upgrade: bool | Sequence[str],
        offline: bool,
    ) -> Resolution:
        """Resolve requirements within constraints.

        :param python: range of Python versions that it should hold for.
        :param interpreter: an interpreter of the target.
        :param former: body of the former lock; its versions are kept where they may.
        :param upgrade: take the newest versions instead; of these distributions only, if named.
        :raises ResolveError: nothing satisfies them, or the index cannot be reached.
        """

    def covers(self, body: str, tag: Tag, *, offline: bool) -> None:
        """Return if a lock can be installed on another Python and platform; nothing is installed.

        :param body: the text of the lock.
        :raises ResolveError: a package has no file for it, or the tool cannot tell.
        """

    def create(self, venv: Path, *, interpreter: Path, holding: int) -> None:
        """Make an empty venv.

        :param holding: descriptor of the lock on the build, for the tools to hold too.

        :raises InstallError: it cannot be made.
        """

    def install(
        self,
        venv: Path,
        requirements: Path,
        *,
        wheels: Sequence[Path],
        editables: Sequence[Path],
        offline: bool,
        holding: int,
        on_line: Callable[[str], None] | None,
        afresh: Sequence[str] = (),
        wheelhouse: Path | None = None,
    ) -> None:
        """Install a requirements file with hashes enforced, then wheels as they are.

        :param editables: folders of packages to link to.
        :param afresh: distributions to install again, not from the cache.
        :param wheelhouse: a folder of wheels to take all from: no index, cache or setting of the
            user's is asked.
        :raises InstallError: it cannot be done; the venv is then in no defined state.
        """

    def wheel(
        self,
        source: Path,
        into: Path,
        *,
        interpreter: Path,
        env: Mapping[str, str],
        offline: bool,
        holding: int,
        on_line: Callable[[str], None] | None,
        needs: Needs | None = None,
    ) -> None:
        """Build a wheel from a source tree, in an environment of its own.

        :param source: a folder, or a source distribution.
        :param into: folder that the wheel is written to.
        :param env: variables that the build gets.
        :param needs: where to take what it needs from: no index, cache or setting of the user's
            is asked.
        :raises InstallError: it cannot be built.
        """


def choose(name: str = "auto") -> Engine:
    """Return an engine; ``auto`` takes uv where it is there.

    :raises UsageError: unknown name, or the tool is not installed.
    """
    from scalems.env.engine.pip import PipEngine
    from scalems.env.engine.uv import UvEngine, find_uv

    if name not in CHOICES:
        raise UsageError(
            f"there is no engine {name!r}{near(name, CHOICES)}",
            remedy=f"choose one of: {', '.join(CHOICES)}",
        )
    binary = find_uv() if name in ("auto", "uv") else None
    if binary:
        return UvEngine(binary)
    if name == "uv":
        raise UsageError("uv is not installed", remedy="pip install uv, or use --engine pip")
    return PipEngine()


def upgrades(upgrade: bool | Sequence[str]) -> list[str]:
    """Return the options by which uv and pip-compile are told what to upgrade."""
    if isinstance(upgrade, bool):
        return ["--upgrade"] if upgrade else []
    return [word for name in upgrade for word in ("--upgrade-package", name)]


_NO_NETWORK = re.compile(
    r"dns error|failed to lookup address|name resolution|Name or service not known"
    r"|Connection refused|tcp connect error|Network is unreachable|error sending request"
    r"|NewConnectionError|Failed to establish|ProxyError|client error \(Connect\)"
    r"|Read timed out|operation timed out",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"No space left on device|os error 28|Disk quota exceeded", re.IGNORECASE)
_NO_LOCKS = re.compile(r"failed to lock .*(os error (37|38|95))|No locks available")
_BAD_HASH = re.compile(r"Hash mismatch|DO NOT MATCH THE HASHES", re.IGNORECASE)
_OFFLINE = re.compile(r"network was disabled|was not found in the cache|offline mode")


def explain(error: CommandFailed, *, doing: str) -> tuple[str, str | None]:
    """Return cause and remedy of an engine's failure, in the user's words.

    :param doing: what was being done, such as "installing the lock of 'task'".
    """
    printed = detail = ""
    if error.completed:
        printed = error.completed.stderr + error.completed.stdout
        detail = _detail(error.completed.stderr) or _detail(error.completed.stdout)
    detail = detail or error.cause
    if _NO_SPACE.search(printed):
        return f"the disk is full while {doing}:\n{detail}", "free some space and run it again"
    if _NO_LOCKS.search(printed):
        return (
            f"the file system of the installer's cache cannot lock files, while {doing}:\n{detail}",
            "export UV_CACHE_DIR=/folder/on/a/local/disk, or use --engine pip",
        )
    if _BAD_HASH.search(printed):
        return (
            f"a downloaded file does not have the hash that the lock demands, while {doing}:\n"
            f"{detail}",
            "if the lock was edited, restore it from version control; if the index changed the "
            "file, find out why before you run `scalems env lock --upgrade`",
        )
    if _OFFLINE.search(printed):
        return (
            f"a package is not in the local cache while {doing} offline:\n{detail}",
            "run once without --offline where there is a network",
        )
    if _NO_NETWORK.search(printed):
        return (
            f"the package index cannot be reached while {doing}:\n{detail}",
            "check the network and the index settings (UV_DEFAULT_INDEX, PIP_INDEX_URL); with all "
            "packages cached, --offline works without",
        )
    return f"failed while {doing}:\n{detail}", None


def unreachable(error: CommandFailed) -> bool:
    """Whether a tool failed because it could not reach a package index."""
    return error.completed is not None and bool(_NO_NETWORK.search(error.completed.stderr))


_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)*.*", re.MULTILINE)


def _detail(printed: str) -> str:
    """Return what a tool printed without its own traceback; of much, the beginning and the end."""
    text = _TRACEBACK.sub("", printed)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Using CPython")]  # uv, about itself
    if len(lines) > 25:
        lines = [*lines[:8], f"... {len(lines) - 24} more lines", *lines[-16:]]
    return "\n".join(f"    {without_credentials(line)}" for line in lines)
