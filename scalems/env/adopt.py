"""Venvs that scalems did not build: looked at in full, named as they are, and watched for drift."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalems import probe
from scalems.env import fingerprint, layout, parity, target, verification, wheel
from scalems.env.canonical import digest
from scalems.env.finding import About, Finding, Policy, Severity, errors, not_ready
from scalems.env.parity import Parity, Side
from scalems.env.role import Role
from scalems.env.verification import Build, VerifiedResource
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.host.files import write_atomic
from scalems.host.local import CommandFailed, run

CHANGED = "changed since it was adopted"
"""Kind of the finding that it is not what it was at the last look."""
_LIMIT = 60.0  # seconds
_WORKER = "radical-pilot-raptor-worker"
_SPEC = (
    "import importlib.util as u; s = u.find_spec('scalems'); print((s and s.origin) or '', end='')"
)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A venv that somebody else made, as it is now.

    :param path: its folder.
    :param content_digest: of what is installed in it, and of what it sees elsewhere.
    :param side: what is compared with the client.
    :param code: folder of the package scalems that it sees.
    :param findings: differences from the client and from the last look, and warnings of its kind.
    """

    path: Path
    code: Path
    content_digest: str
    side: Side
    parity: Parity
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "venv": str(self.path),
            "managed": False,
            "python": self.side.python,
            "content_digest": self.content_digest,
            "versions": dict(self.side.versions),
            "parity": self.parity.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def inspect(path: Path) -> Adopted:
    """Look at a venv in full: every byte of its packages, and every version that a task would see.

    :raises UsageError: it is no venv.
    :raises EnvironmentNotReady: its Python does not work.
    """
    path = path.expanduser().absolute()
    python = path / "bin" / "python"
    if not python.exists():
        raise UsageError(
            f"{path} is neither a venv nor a conda environment: it has no bin/python",
            remedy="name the folder of a venv",
        )
    try:
        seen = probe.parse(run([python, probe.__file__], cwd=Path("/"), limit=_LIMIT).stdout)
        own = probe.parse(run([python, "-I", probe.__file__], cwd=Path("/"), limit=_LIMIT).stdout)
        origin = run([python, "-s", "-c", _SPEC], cwd=Path("/"), limit=_LIMIT).stdout
        content = _content(path)
    except (CommandFailed, ValueError, OSError) as error:
        raise EnvironmentNotReady(
            f"the Python of {path} does not work: {error}", remedy="make that venv again"
        ) from error
    side = Side(
        name=path.name,
        role=Role.TASK,
        python=seen["python"],
        versions=seen["versions"],
        scalems_digest=_scalems(origin, seen["versions"]),
    )
    client = target.client()
    compared = parity.compare(client, [side], remedy=_install(python, client))
    content = digest("adopted 1", [content, seen["interpreter"], seen["versions"]])
    findings = (*_kinds(path, seen["versions"], own["versions"]), *compared.findings)
    adopted = Adopted(
        path=path,
        code=Path(origin).parent,
        content_digest=content,
        side=side,
        parity=compared,
        findings=findings,
    )
    return replace(adopted, findings=(*findings, *_drift(adopted)))


def remember(adopted: Adopted) -> None:
    """Take a venv as it is now for what it must be from now on.

    :raises OSError: it cannot be written.
    """
    data = {
        "path": str(adopted.path),
        "content_digest": adopted.content_digest,
        "versions": dict(adopted.side.versions),
    }
    write_atomic(_record(adopted.path), json.dumps(data, indent=1, sort_keys=True) + "\n")


def known(path: Path) -> Mapping[str, Any] | None:
    """Return what was remembered of a venv; ``None`` if nothing was."""
    try:
        data = json.loads(_record(path).read_text(encoding="utf-8"))
        return data if data["path"] == str(path) and dict(data["versions"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(path: Path) -> Path:
    place = layout.default()
    if place.root.is_dir() and not place.is_ours:
        place = layout.personal()  # a shared folder is only read
    return place.root / "adopted" / f"{digest('path', str(path))[:16]}.json"


def _drift(adopted: Adopted) -> Iterator[Finding]:
    former = known(adopted.path)
    if former is None or former.get("content_digest") == adopted.content_digest:
        return
    was, now = former["versions"], adopted.side.versions
    changed = [
        f"{name} {was.get(name, '(none)')} -> {now.get(name, '(none)')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    yield Finding(
        env=adopted.side.name,
        kind=CHANGED,
        subject=", ".join(changed) or "files of its packages, in the same versions",
        remedy=f"to take it as it is now: scalems env adopt {shlex.quote(str(adopted.path))}",
    )


def _kinds(path: Path, seen: Mapping[str, str], own: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what makes it less of a world of its own than a venv that scalems builds."""

    def warn(kind: str, subject: str, remedy: str) -> Finding:
        severity = Severity.WARNING
        return Finding(env=path.name, kind=kind, subject=subject, severity=severity, remedy=remedy)

    yield warn("not built by scalems", str(path), "")
    if (path / "conda-meta").is_dir():
        what = "its libraries that are not Python packages are not looked at"
        yield warn("conda environment", what, "")
    try:
        lines = (path / "pyvenv.cfg").read_text(encoding="utf-8").lower().splitlines()
    except OSError:
        lines = []
    if any(line.replace(" ", "") == "include-system-site-packages=true" for line in lines):
        yield warn(
            "sees the packages of its Python",
            "include-system-site-packages = true in pyvenv.cfg",
            "make a venv without --system-site-packages",
        )
    if names := sorted(name for name in seen if seen[name] != own.get(name)):
        shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        yield warn("sees packages of pip --user", shown, "export PYTHONNOUSERSITE=1")


def _content(path: Path) -> str:
    """Digest the packages of a venv; of a conda environment only these, not all of its files."""
    site = probe.site_packages(path)
    inner = site.relative_to(path).as_posix()
    entries = {
        f"{inner}/{name}": fingerprint.read_entry(str(site), name, status)
        for name, status in fingerprint.walk(site)
    }
    return fingerprint.content_digest(path, entries)


def _scalems(origin: str, versions: Mapping[str, str]) -> str:
    """Return the digest of the scalems that a venv has, wherever its files are."""
    if not origin or "scalems" not in versions:
        return ""
    return wheel.source_digest(Path(origin).parent, versions["scalems"])


def _install(python: Path, client: Side) -> str:
    wanted = [f"{name}=={version}" for name, version in parity.pins(client.versions).items()]
    wanted += [f"scalems=={client.versions.get('scalems', '')}"]
    return f"{shlex.quote(str(python))} -m pip install {' '.join(wanted)}"


def _worker(adopted: Adopted) -> list[Finding]:
    """Return that no Worker of RADICAL-Pilot can start in it, if that is so.

    Without its own script the one of the Pilot venv would be found, and run there.
    """
    if (adopted.path / "bin" / _WORKER).is_file():
        return []
    remedy = _install(adopted.path / "bin" / "python", target.client())
    return [
        Finding(
            env=adopted.side.name,
            kind="no Worker can start in it",
            subject=f"bin/{_WORKER} of radical.pilot is missing",
            remedy=remedy.replace("install ", "install --force-reinstall --no-deps ", 1),
        )
    ]


def verify(
    text: str,
    *,
    resource: str,
    pilot: bool,
    worker: bool = False,
    policies: Mapping[About, Policy] = {},
) -> VerifiedResource:
    """Verify a venv that scalems did not build before a run, and remember it as it is.

    :param text: its folder.
    :param pilot: whether a Pilot venv is needed with it.
    :param worker: whether a Worker of RADICAL-Pilot is to start in it, also without that.
    :raises UsageError: it is no venv, or the resource is on another host.
    :raises EnvironmentNotReady: with every difference that no policy lets pass.
    """
    managed = None
    if pilot:
        managed = verification.verify(resource, policies=policies, hold=True)
        if managed.host is not None:
            raise UsageError(
                f"{resource} is on {managed.host.name}, and {text} is a venv of this machine",
                remedy=f"write its spec: scalems env init --from {shlex.quote(text)}; and sync it "
                "there",
            )
    adopted = inspect(Path(text))
    found = errors(adopted.findings)
    if pilot or worker:
        found += _worker(adopted)
    policy = {one: policies.get(one.about, Policy.ERROR) for one in found}
    if refused := [one for one in found if policy[one] is Policy.ERROR]:
        problem = not_ready(str(adopted.path), refused)
        cause = problem.cause.replace("the environments of ", "", 1).replace(" are ", " is ", 1)
        raise EnvironmentNotReady(cause, remedy=problem.remedy)
    if known(adopted.path) is None:
        remember(adopted)
    build = Build(
        name=text,
        role=Role.TASK,
        folder=adopted.path.parent,
        place=adopted.path,
        input_digest="",
        content_digest=adopted.content_digest,
        scalems_digest=adopted.side.scalems_digest,
        versions=adopted.side.versions,
        code=adopted.code,
        top_level=tuple(entry.name for entry in probe.site_packages(adopted.path).iterdir()),
    )
    warnings = [one for one in adopted.findings if one.severity is Severity.WARNING]
    tolerated = tuple(one for one in found if policy[one] is Policy.WARN)
    return VerifiedResource(
        label=resource,
        pilot=managed.pilot if managed else build,
        tasks={text: build},
        definition=managed.definition if managed else Path(),
        tolerated=(*(managed.tolerated if managed else ()), *tolerated),
        remarks=tuple(warnings),
    )
