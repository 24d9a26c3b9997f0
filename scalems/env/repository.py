"""Git: files of a checkout, commits of a remote repository. https://git-scm.com/docs.

GitPython and dulwich were weighed: a few commands of git itself know the user's ssh keys and
credential helpers, and are there wherever somebody has git sources.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from scalems.errors import EnvironmentNotReady, UsageError
from scalems.host.local import CommandFailed, Completed, run

COMMIT = re.compile(r"[0-9a-f]{40}")
REV = re.compile(r"[A-Za-z0-9_][\w./+-]{0,199}", re.ASCII)
"""What a branch, a tag or a commit may be called here: never an option, never a range."""

_URL = re.compile(
    r"(?:https?|ssh|file)://[^\s\x00-\x1f]+|[\w.-]+@[\w.-]+:[^\s\x00-\x1f]+", re.ASCII
)
_SECRET = re.compile(r"https?://[^/]*@|\w+://[^/@]*:[^/@]*@")
_AWAY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set within git's hooks


def mistake(url: str) -> str:
    """Return what is wrong with the URL of a repository; empty if nothing is.

    What it says never shows the URL: it may hold a password.
    """
    if _SECRET.match(url):
        return (
            "holds a user name or password, which would be committed with the spec; "
            "leave that to ssh or to git's credential helpers"
        )
    if not _URL.fullmatch(url):
        return "must be a URL of https, ssh or file, or user@host:path"
    return ""


def commit_of(url: str, rev: str) -> str:
    """Return the commit that a branch, a tag or a commit means in a remote repository.

    :raises UsageError: it has none of that name.
    :raises EnvironmentNotReady: it cannot be reached.
    """
    if COMMIT.fullmatch(rev):
        return rev
    refs = [rev] if rev == "HEAD" else [f"refs/tags/{rev}^{{}}", f"refs/tags/{rev}"]
    refs += [] if rev == "HEAD" else [f"refs/heads/{rev}"]
    lines = _reach(url, "ls-remote", "--", url, *refs).stdout.splitlines()
    found = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
    for ref in refs:  # of an annotated tag the commit, not the tag
        if ref in found:
            return found[ref]
    raise UsageError(
        f"{url} has no branch or tag {rev!r}",
        remedy="name a branch, a tag, or all 40 digits of a commit",
    )


def checkout(url: str, commit: str, folder: Path) -> None:
    """Check out a commit of a remote repository into a new folder, submodules too.

    :raises EnvironmentNotReady: the repository cannot be reached, or has no such commit.
    """
    _reach(url, "clone", "--quiet", "--no-checkout", "--", url, str(folder))
    try:
        _git("-C", str(folder), "checkout", "--quiet", "--detach", commit)
    except CommandFailed as error:
        raise EnvironmentNotReady(
            f"{url} has no commit {commit[:12]} on any branch or tag",
            remedy="it may have been removed by a forced push: run `scalems env lock "
            "--upgrade-package NAME` to pin what `rev` means now",
        ) from error
    if (folder / ".gitmodules").is_file():
        _reach(url, "-C", str(folder), "submodule", "update", "--quiet", "--init", "--recursive")


def files(folder: Path) -> tuple[list[str], list[str]] | None:
    """Return the files of a checkout that git tracks, and others that it does not ignore.

    :return: ``None`` where there is no checkout, or no git.
    """
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    if shutil.which("git") is None:
        return None
    try:
        where = ("-C", str(folder), "ls-files", "-z")
        tracked = _git(*where, "--cached").stdout
        other = _git(*where, "--others", "--exclude-standard").stdout
        ignored = (
            _git("-C", str(folder), "check-ignore", "--quiet", ".", fails=True).returncode == 0
        )
    except CommandFailed:
        return None
    if ignored and not tracked:
        return None  # a folder that the repository around it does not know
    return sorted(set(filter(None, tracked.split("\0")))), sorted(filter(None, other.split("\0")))


def git_folder(folder: Path) -> Path | None:
    """Return git's own folder of a checkout; ``None`` if a folder is not the top of one."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    try:
        return Path(_git("-C", str(folder), "rev-parse", "--absolute-git-dir").stdout.strip())
    except CommandFailed:
        return None


def _reach(url: str, *words: str) -> Completed:
    if shutil.which("git") is None:
        raise EnvironmentNotReady(f"git is needed for {url}", remedy="install git")
    try:
        return _git(*words)
    except CommandFailed as error:
        said = error.completed.stderr.strip() if error.completed else error.cause
        remedy = "check the URL, the network and your rights: git ls-remote URL"
        if "transport 'file' not allowed" in said:  # since git 2.38.1, of submodules
            remedy = "if you trust them: git config --global protocol.file.allow always"
        raise EnvironmentNotReady(
            f"the repository {url} cannot be read: {said}", remedy=remedy
        ) from error


def _git(*words: str, fails: bool = False) -> Completed:
    """Run git, which never asks for anything and writes nothing into a checkout."""
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    if "GIT_SSH_COMMAND" not in os.environ:
        env["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
    away = [word for name in _AWAY for word in ("-u", name)]
    try:
        return run(["env", *away, "git", *words], env=env, cwd=Path("/"))
    except CommandFailed as error:
        if fails and error.completed:
            return error.completed
        raise
