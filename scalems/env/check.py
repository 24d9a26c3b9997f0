"""Checks: whether a build still is what its manifest says, in three depths."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from scalems import probe
from scalems.env import bytecode, fingerprint, manifest
from scalems.env.finding import Finding
from scalems.env.manifest import Manifest


class Depth(str, Enum):
    """How closely a build is looked at."""

    FAST = "fast"
    """Manifest, interpreter, the list of distributions: milliseconds, at every launch."""
    NORMAL = "normal"
    """Size and time of every file as well; files whose time changed are read."""
    DEEP = "deep"
    """Every byte."""


def inspect(name: str, folder: Path, *, depth: Depth) -> list[Finding]:
    """Compare a build with its manifest.

    :param name: name of the environment, for the findings.
    :return: every difference; empty if there is none.
    """
    known = manifest.read(folder)
    if not folder.exists():
        return [Finding(env=name, kind="missing build", subject=str(folder))]
    if known is None:
        there = (folder / probe.MANIFEST).exists()
        kind = "changed manifest" if there else "build was never verified"
        return [Finding(env=name, kind=kind, subject=str(folder))]
    venv = folder / "venv"
    findings = [*_interpreter(name, venv, known), *_base(name, folder, known)]
    try:
        findings += _distributions(name, venv, known, fast=depth is Depth.FAST)
        if depth is not Depth.FAST:
            findings += _files(name, folder, known, deep=depth is Depth.DEEP)
    except OSError as error:
        findings.append(Finding(env=name, kind="cannot be read", subject=str(error)))
    return _summarized(findings)


def is_good(folder: Path, *, depth: Depth) -> bool:
    """Whether a build still is what its manifest says."""
    return not inspect("", folder, depth=depth)


def _interpreter(name: str, venv: Path, known: Manifest) -> Iterator[Finding]:
    link = venv / "bin" / "python"
    try:
        real = link.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError):
        kind = "broken link" if link.is_symlink() else "missing interpreter"
        yield Finding(env=name, kind=kind, subject="venv/bin/python", expected=known.python)
        return
    if str(real) != known.python:
        yield Finding(
            env=name,
            kind="moved interpreter",
            subject="venv/bin/python",
            expected=known.python,
            found=str(real),
        )
    if (status.st_size, status.st_mtime_ns) == known.python_stat:
        return
    from scalems.host.local import CommandFailed, run  # only now: nothing is run mostly

    expected = known.interpreter["version"]
    try:
        code = "import platform; print(platform.python_version())"
        version = run([link, "-I", "-c", code]).stdout.strip()
    except CommandFailed as error:
        yield Finding(
            env=name, kind="broken interpreter", subject="venv/bin/python", found=error.cause
        )
        return
    if version.split(".")[:2] != expected.split(".")[:2]:
        kind = "Python minor version changed"
    elif version != expected:
        kind = "Python version changed"
    else:
        kind = "interpreter file changed"
    yield Finding(env=name, kind=kind, subject=str(real), expected=expected, found=version)


def _base(name: str, folder: Path, known: Manifest) -> Iterator[Finding]:
    """Whether the build that it adds to is the one that it was verified with; a look, no check."""
    if not known.base:
        return
    there = folder.with_name(known.base["folder"])
    base = manifest.read(there)
    if base is None:
        kind = "what it adds to is not usable" if there.exists() else "what it adds to is missing"
        yield Finding(env=name, kind=kind, subject=str(there))
    elif base.content_digest != known.base["content_digest"]:
        yield Finding(
            env=name,
            kind="what it adds to was built anew, with other files",
            subject=str(there),
            expected=known.base["content_digest"][:16],
            found=base.content_digest[:16],
        )


def _distributions(name: str, venv: Path, known: Manifest, *, fast: bool) -> Iterator[Finding]:
    """Compare by name and version first: one finding a distribution, not one a file."""
    try:
        now = probe.versions(probe.sites(venv))
    except FileNotFoundError:
        yield Finding(env=name, kind="missing folder", subject="site-packages")
        return
    for dist in sorted(known.versions.keys() | now.keys()):
        was, found = known.versions.get(dist, ""), now.get(dist, "")
        if was != found:
            kind = "missing" if not found else "extra" if not was else "changed version of"
            yield Finding(
                env=name, kind=f"{kind} distribution", subject=dist, expected=was, found=found
            )
    top, records = fingerprint.top_level(venv)
    for entry in sorted(set(top) ^ set(known.top_level)):
        if not entry.endswith(".dist-info"):
            kind = "extra" if entry in top else "missing"
            yield Finding(env=name, kind=f"{kind} in site-packages", subject=entry)
    for info in sorted(known.records.keys()):
        if info in fingerprint.ENTRANCES:
            if fast and records.get(info) != known.records[info]:  # else they are read
                kind = "changed" if info in records else "missing"
                yield Finding(env=name, kind=f"{kind} file", subject=info)
        elif info in records and records[info] != known.records[info]:
            if info.endswith(".pth"):
                yield Finding(env=name, kind="changed hook in site-packages", subject=info)
            else:
                yield Finding(env=name, kind="reinstalled distribution", subject=_dist(info))


def _as_recorded(folder: Path, known: Manifest) -> bool:
    """Whether all files are there as they were, but for what Python has compiled since."""
    were = manifest.read_stats(folder, known)
    now = set(fingerprint.stamps(folder / "venv"))
    if were - now or not were:
        return False
    more = [stamp.split(" ", 3)[3] for stamp in now - were]
    tag, python = known.interpreter["cache_tag"], known.python
    return all(map(bytecode.is_cached, more)) and not any(
        bytecode.wrong(folder / "venv", more, tag=tag, python=python, deep=False)
    )


def _files(name: str, folder: Path, known: Manifest, *, deep: bool) -> Iterator[Finding]:
    if not deep and _as_recorded(folder, known):
        return
    table = manifest.read_files(folder, known)
    if table is None:
        yield Finding(env=name, kind="changed file", subject=manifest.FILES)
        return
    venv = folder / "venv"
    now = dict(fingerprint.walk(venv))
    owners = _Owners(venv)
    both = sorted(now.keys() & table.keys())
    looked_at = both if deep else [path for path in both if not table[path].seen(now[path])]
    read = fingerprint.read(venv, [(path, now[path]) for path in looked_at])
    changed = {path for path, entry in read.items() if entry.sha256 != table[path].sha256}
    gone, more = table.keys() - now.keys(), now.keys() - table.keys()
    # What Python compiled may go, and be made again; but it must come from the source.
    compiled = {path for path in {*changed, *gone, *more} if bytecode.is_cached(path)}
    tag, python = known.interpreter["cache_tag"], known.python
    wrong = bytecode.wrong(venv, sorted(compiled - gone), tag=tag, python=python, deep=deep)
    numba = {path for path in more if path.endswith((".nbi", ".nbc"))}
    for kind, paths in (
        ("missing file", gone - compiled),
        ("extra file", more - compiled - numba),
        ("machine code that numba kept", numba),
        ("compiled file that is not of its source", set(wrong)),
    ):
        for path in sorted(paths):
            yield Finding(env=name, kind=kind, subject=owners.label(path))
    for path in sorted(changed - compiled):
        was = table[path].sha256
        yield Finding(
            env=name,
            kind="changed link" if was.startswith("-> ") else "changed file",
            subject=owners.label(path),
            expected=was[:12],
            found=read[path].sha256[:12],
        )
    for path in [path for path in both if path not in changed]:
        before, after = table[path].mode, stat.S_IMODE(now[path].st_mode)
        if _permits_otherwise(before, after):
            yield Finding(
                env=name,
                kind="changed permissions",
                subject=owners.label(path),
                expected=f"{before:04o}",
                found=f"{after:04o}",
            )


def _permits_otherwise(before: int, after: int) -> bool:
    """Whether the owner may do something else, or others may write; to share is no drift."""
    return bool((before ^ after) & 0o7700 or after & ~before & 0o022)


class _Owners:
    """Which distribution a file belongs to; the RECORDs are read when first asked."""

    def __init__(self, venv: Path) -> None:
        self._venv = venv
        self._owners: Mapping[str, str] | None = None

    def label(self, path: str) -> str:
        """Return the path with the distribution that it belongs to."""
        if self._owners is None:
            self._owners = {path: dist for path, dist, _ in fingerprint.recorded(self._venv)}
        owner = self._owners.get(path)
        return f"{path} ({owner})" if owner else path


def _dist(info: str) -> str:
    return probe.normalize(info.partition("-")[0])


def _summarized(findings: list[Finding]) -> list[Finding]:
    """Leave out the files of what is named as missing, extra or changed itself."""
    kinds = ("missing distribution", "extra distribution", "changed version of distribution")
    named = {f.subject for f in findings if f.kind in kinds}
    tops = {f.subject for f in findings if f.kind.endswith(" in site-packages")}
    kept = []
    for finding in findings:
        path, _, owner = finding.subject.partition(" (")
        top = path.partition("/site-packages/")[2].partition("/")[0]
        if finding.kind.endswith(" file") and (
            owner.rstrip(")") in named
            or top in tops
            or (top.endswith(".dist-info") and _dist(top) in named)
        ):
            continue
        kept.append(finding)
    return kept
