"""Local packages: those of an env spec that come from a folder or a git repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env import bundled, repository
from scalems.env.bundled import Bundled
from scalems.env.source import Table
from scalems.probe import normalize


@dataclass(frozen=True, kw_only=True)
class Package:
    """One ``[packages.NAME]`` of an env spec.

    :param name: of the distribution, normalized.
    :param path: its folder; ``None`` for one from git.
    :param written: the path as it was written.
    :param editable: whether the environment links to the folder.
    :param git: URL of its repository, without credentials.
    :param rev: branch, tag or commit.
    :param subdirectory: folder of the package in its repository.
    :param extras: its optional parts that are wanted.
    :param bundled: the wheel that a bundle has brought, if its folder is not here.
    """

    name: str
    path: Path | None = None
    written: str = ""
    editable: bool = False
    git: str = ""
    rev: str = "HEAD"
    subdirectory: str = ""
    extras: tuple[str, ...] = ()
    bundled: Bundled | None = None

    @property
    def requested(self) -> str:
        """What the spec says of it, in one line."""
        if self.bundled is not None and not self.git:
            return f"{self.written} (as a wheel, from a bundle)"
        if self.path is not None:
            return f"{self.written}{' (editable)' if self.editable else ''}"
        return f"{self.git} at {self.rev}"

    def reference(self, commit: str) -> str:
        """Return where it is from, as a direct reference (PEP 440) does.

        :param commit: of a git source.
        """
        if self.path is not None:
            return self.requested
        inner = f"#subdirectory={self.subdirectory}" if self.subdirectory else ""
        return f"git+{self.git}@{commit}{inner}"


def load(data: Mapping[str, Any], *, beside: Path) -> tuple[Package, ...]:
    """Read the local packages of an env spec that has no mistakes.

    :param beside: folder of the spec, from which relative paths go.
    """
    if not data:
        return ()
    brought = bundled.read(beside)
    return tuple(
        _package(normalize(name), table, beside, brought.get(normalize(name)))
        for name, table in sorted(data.items())
    )


def _package(name: str, table: Mapping[str, Any], beside: Path, brought: Bundled | None) -> Package:
    path = (beside / Path(table["path"]).expanduser()).resolve() if "path" in table else None
    if path is not None and _is_project(path):
        brought = None
    return Package(
        name=name,
        path=None if brought else path,
        written=table.get("path", ""),
        editable=table.get("editable", False) and not brought,
        git=table.get("git", ""),
        rev=table.get("rev", "HEAD"),
        subdirectory=table.get("subdirectory", "").strip("/"),
        extras=tuple(sorted(table.get("extras", ()))),
        bundled=brought,
    )


def _is_project(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("pyproject.toml", "setup.py"))


def mistakes(data: Mapping[str, Any], *, beside: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what a schema cannot see in the ``[packages]`` of an env spec."""
    tables = data.get("packages")
    seen: dict[str, str] = {}
    for name, table in tables.items() if isinstance(tables, dict) else ():
        where = ("packages", name)
        if normalize(name) == "scalems":
            yield where, "scalems is always installed as the code that the client runs"
        if other := seen.get(normalize(name)):
            yield where, f"is the same package as {other!r}"
        seen[normalize(name)] = name
        if isinstance(table, dict):  # else the schema reports it
            yield from _table_mistakes(where, table, beside)


def _table_mistakes(
    where: tuple[str, ...], table: Mapping[str, Any], beside: Path
) -> Iterator[tuple[tuple[str, ...], str]]:
    path, git = table.get("path"), table.get("git")
    if (path is None) == (git is None):
        yield where, "needs either `path` or `git`"
    for key in ("rev", "subdirectory") if git is None else ("editable",):
        if key in table:
            kind = "git" if git is None else "path"
            yield (*where, key), f"is only for packages with `{kind}`"
    if isinstance(git, str) and (wrong := repository.mistake(git)):
        yield (*where, "git"), wrong
    rev = table.get("rev", "HEAD")
    if isinstance(rev, str) and (not repository.REV.fullmatch(rev) or ".." in rev):
        yield (*where, "rev"), f"{rev!r} is not the name of a branch, a tag or a commit"
    inner = table.get("subdirectory", "")
    if isinstance(inner, str) and (inner.startswith("/") or ".." in Path(inner).parts):
        yield (*where, "subdirectory"), f"{inner!r} is not a folder inside of the repository"
    if isinstance(path, str):
        try:
            folder = (beside / Path(path).expanduser()).resolve()
            missing = not folder.is_dir()
            there = _is_project(folder)
        except (OSError, ValueError, RuntimeError):
            missing, there = True, False
        if not there and normalize(where[-1]) not in bundled.read(beside):
            project = f"there is no Python project in {path!r}: no pyproject.toml"
            yield (*where, "path"), f"there is no folder {path!r}" if missing else project


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A local package that can be installed.

    :param reference: where it is from, see :meth:`Package.reference`.
    :param digest: of its files, or of its commit.
    :param wheel: what was built from it.
    :param needs: what the wheel requires, its Python range included.
    :param table: its files, of one with a path.
    """

    package: Package
    reference: str
    digest: str
    wheel: Path
    version: str
    needs: tuple[str, ...]
    table: Table

    @property
    def name(self) -> str:
        """Its normalized name."""
        return self.package.name

    @property
    def requirement(self) -> str:
        """Return it as a requirement that names the wheel."""
        extras = f"[{','.join(self.package.extras)}]" if self.package.extras else ""
        return f"{self.name}{extras} @ {self.wheel.as_uri()}"

    @property
    def inputs(self) -> list[str]:
        """Return what of it decides a build; the path only of one that is linked to."""
        link = str(self.package.path) if self.package.editable else ""
        return [self.name, self.version, self.digest, link]

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest keeps of it, in values that JSON can hold."""
        return {
            "version": self.version,
            "reference": self.reference,
            "digest": self.digest,
            "wheel": self.wheel.parent.name,
            "editable": self.package.editable,
            "needs": list(self.needs),
        }
