"""pip's requirements files: what they ask for, and what of it comes from elsewhere than an index.

Written to https://pip.pypa.io/en/stable/reference/requirements-file-format/, and of direct
references to https://packaging.python.org/specifications/direct-url/. pip-requirements-parser
was weighed: it does not say which lines it could not read, and was last released in 2022.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement

from scalems import tomlfile
from scalems.env import pep508, repository
from scalems.errors import UsageError

Package = dict[str, Any]
"""The table ``[packages.NAME]`` of an env spec."""

_OTHER = re.compile(r"(-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc]))(\S.*)")
_EDITABLE = re.compile(r"(?:-e|--editable)(?:\s+|=)(\S.*)")
_EXTRAS = re.compile(r"(.+)\[([\w., -]+)\]")
_NAME = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)


def lines(path: Path, *, above: tuple[Path, ...] = ()) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a requirements file and of those that it includes.

    :return: each without comments and hashes, continued ones joined, and whether it only
        limits versions.
    :raises UsageError: a file is not there, is no text, or includes itself.
    """
    here = path.resolve()
    if here in above:
        raise UsageError(f"{path} includes itself", remedy="take that -r or -c out")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        named = f", which {above[-1]} includes" if above else ""
        raise UsageError(f"{path}{named}, cannot be read: {error}") from error
    for line in logical(text.splitlines()):
        if (other := _OTHER.fullmatch(line)) and "://" not in other[2]:
            limits = other[1] in ("-c", "--constraint")
            inner = path.parent / other[2].strip()
            for deeper, limit in lines(inner, above=(*above, here)):
                yield deeper, limit or limits
        else:
            yield line, False


def logical(raw: Iterable[str]) -> Iterator[str]:
    """Yield lines without comments and hashes, continued ones joined."""
    joined = ""
    for one in raw:
        line = re.sub(r"(^|\s)#.*$", "", one).strip()
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        if text := re.sub(r"\s+--hash[= ]\S+", "", joined + line).strip():
            yield text
        joined = ""
    if joined.strip():
        yield joined.strip()


def package(line: str, *, beside: Path, specs: Path) -> tuple[str, Package] | None:
    """Return the package that a line takes from a folder or from git; ``None`` if it does not.

    :param beside: the folder that relative paths of the line go from. Those of a requirements
        file go from where pip is run, not from the file.
    :param specs: the folder that those of an env spec go from.
    """
    editable = _EDITABLE.fullmatch(line)
    reference = editable[1] if editable else line
    name, extras = "", set[str]()
    try:
        requirement = pep508.parse(reference)
    except InvalidRequirement:
        if bare := _EXTRAS.fullmatch(reference):
            reference, extras = bare[1], set(re.split(r"[\s,]+", bare[2].strip()))
    else:
        # A package of a spec is there on every Python.
        if (requirement.url is None and not editable) or requirement.marker is not None:
            return None
        extras = requirement.extras
        name = requirement.name if requirement.url else ""
        reference = requirement.url or requirement.name  # of a folder beside, such as "-e lib"
    told, table = (
        _git(reference)
        if reference.startswith("git+")
        else _folder(reference, beside, specs, editable=bool(editable))
    )
    name = name or told
    if extras:
        table["extras"] = sorted(extras)
    return (name, table) if table and _NAME.fullmatch(name) else None


def _git(reference: str) -> tuple[str, Package]:
    """Return the name that a reference may tell, and where it leads; nothing if nowhere."""
    where, _, fragment = reference.removeprefix("git+").partition("#")
    start = where.find("/", where.find("://") + 3)  # behind the host, and ssh's user
    url, at, rev = where.rpartition("@") if "@" in where[max(start, 0) :] else (where, "", "")
    if repository.mistake(url) or (at and (".." in rev or not repository.REV.fullmatch(rev))):
        return "", {}
    more = dict(part.partition("=")[::2] for part in fragment.split("&"))
    table = {"git": url, "rev": rev, "subdirectory": more.get("subdirectory")}
    if ".." in Path(more.get("subdirectory", "")).parts:
        return "", {}
    return more.get("egg", ""), {key: value for key, value in table.items() if value}


def _folder(reference: str, beside: Path, specs: Path, *, editable: bool) -> tuple[str, Package]:
    """Return the name of the project in a folder, and where that is; nothing if there is none."""
    try:
        url = urlsplit(reference)
        if url.scheme not in ("", "file"):
            return "", {}
        place = Path(unquote(url.path) if url.scheme else reference)
        folder = (beside / place).resolve()
        project = tomlfile.load(folder / "pyproject.toml").get("project")
    except (OSError, ValueError, UsageError):
        return "", {}
    path = str(folder) if place.is_absolute() else os.path.relpath(folder, specs.resolve())
    table: Package = {"path": path} | ({"editable": True} if editable else {})
    return (
        (str(project["name"]), table)
        if isinstance(project, dict) and "name" in project
        else ("", {})
    )
