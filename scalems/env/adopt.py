"""Venvs that scalems did not build: looked at in full, named as they are, and watched for drift."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from scalems.env import layout, parity, state, target, venv, verification
from scalems.env.canonical import digest
from scalems.env.finding import About, Finding, Policy, Severity, errors, not_ready
from scalems.env.parity import Parity, Side
from scalems.env.role import Role
from scalems.env.venv import Venv
from scalems.env.verification import Build, VerifiedResource
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.host.address import Host
from scalems.host.files import write_atomic
from scalems.resource.config import find_project

CHANGED = "changed since it was adopted"
"""Kind of the finding that it is not what it was at the last look."""


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A venv that somebody else made, as it is now.

    :param venv: what there is in it.
    :param host: where it is; ``None`` is this machine.
    :param side: what is compared with the client.
    :param findings: differences from the client and from the last look, and warnings of its kind.
    """

    venv: Venv
    host: Host | None
    side: Side
    parity: Parity
    findings: tuple[Finding, ...]

    @property
    def shown(self) -> str:
        """How it is named to people."""
        return f"{self.venv.path} on {self.host.name}" if self.host else self.venv.path

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "venv": self.venv.path,
            "host": self.host.name if self.host else None,
            "managed": False,
            "python": self.side.python,
            "content_digest": self.venv.content_digest,
            "versions": dict(self.side.versions),
            "parity": self.parity.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def inspect(folder: str, resource: str | None = None) -> Adopted:
    """Look at a venv in full, where it is, and compare it with the client and the last look.

    :param resource: whose host it is on; ``None`` is this machine.
    :raises UsageError: it is no venv, or there is no such resource; near names are offered.
    :raises EnvironmentNotReady: its Python does not work.
    :raises HostError: the host cannot be reached.
    """
    host = _host(resource) if resource else None
    seen = venv.look(Path(folder)) if host is None else _there(folder, host)
    side = Side(
        name=PurePosixPath(seen.path).name,
        role=Role.TASK,
        python=seen.python,
        versions=seen.versions,
        scalems_digest=seen.scalems_digest,
    )
    client = target.client()
    compared = parity.compare(client, [side], remedy=_mend(side, client, seen, host))
    findings = (*_kinds(seen, side.name), *compared.findings)
    adopted = Adopted(venv=seen, host=host, side=side, parity=compared, findings=findings)
    return replace(adopted, findings=(*findings, *_drift(adopted, resource)))


def _host(label: str) -> Host | None:
    known = state.read(layout.default(), label)
    return known.host if known else find_project().resource(label).host


def _there(folder: str, host: Host) -> Venv:
    if not folder.startswith(("/", "~/")):
        raise UsageError(
            f"{folder!r} is not the whole path of a folder on {host.name}",
            remedy="name it as it is there: /PATH, or '~/PATH' in quotes",
        )
    from scalems.env.remote import far  # most resources are of this machine

    return far.venv(host, folder)


def remember(adopted: Adopted) -> None:
    """Take a venv as it is now for what it must be from now on.

    :raises OSError: it cannot be written.
    """
    data = {
        "path": adopted.venv.path,
        "host": adopted.host.name if adopted.host else "",
        "content_digest": adopted.venv.content_digest,
        "versions": dict(adopted.side.versions),
    }
    record = _record(adopted.venv.path, adopted.host)
    write_atomic(record, json.dumps(data, indent=1, sort_keys=True) + "\n")


def known(path: str, host: Host | None = None) -> Mapping[str, Any] | None:
    """Return what was remembered of a venv; ``None`` if nothing was."""
    where = (path, host.name if host else "")
    try:
        data = json.loads(_record(path, host).read_text(encoding="utf-8"))
        return data if (data["path"], data.get("host", "")) == where and data["versions"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _record(path: str, host: Host | None) -> Path:
    """Return the file that remembers a venv: here, as who trusts it is here."""
    place = layout.default()
    if place.root.is_dir() and not place.is_ours:
        place = layout.personal()  # a shared folder is only read
    key = digest("path", path if host is None else [host.name, path])
    return place.root / "adopted" / f"{key[:16]}.json"


def _drift(adopted: Adopted, resource: str | None) -> Iterator[Finding]:
    former = known(adopted.venv.path, adopted.host)
    if former is None or former.get("content_digest") == adopted.venv.content_digest:
        return
    was, now = former["versions"], adopted.side.versions
    changed = [
        f"{name} {was.get(name, '(none)')} -> {now.get(name, '(none)')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    there = f" --resource {resource}" if adopted.host else ""
    yield Finding(
        env=adopted.side.name,
        kind=CHANGED,
        subject=", ".join(changed) or "files of its packages, in the same versions",
        remedy="to take it as it is now: scalems env adopt "
        f"{shlex.quote(adopted.venv.path)}{there}",
    )


def _kinds(seen: Venv, name: str) -> Iterator[Finding]:
    """Yield what makes it less of a world of its own than a venv that scalems builds."""

    def warn(kind: str, subject: str, remedy: str) -> Finding:
        severity = Severity.WARNING
        return Finding(env=name, kind=kind, subject=subject, severity=severity, remedy=remedy)

    yield warn("not built by scalems", seen.path, "")
    if seen.conda:
        what = "its libraries that are not Python packages are not looked at"
        yield warn("conda environment", what, "")
    if seen.open:
        yield warn(
            "sees the packages of its Python",
            "include-system-site-packages = true in pyvenv.cfg",
            "make a venv without --system-site-packages",
        )
    if seen.outside:
        shown = ", ".join(seen.outside[:8]) + (" ..." if len(seen.outside) > 8 else "")
        yield warn("sees packages of pip --user", shown, "export PYTHONNOUSERSITE=1")


def _mend(side: Side, client: Side, seen: Venv, host: Host | None) -> str:
    """Return the commands that make a venv equal to the client."""
    pins = parity.pins(client.versions)
    wanted = [f"{name}=={pin}" for name, pin in pins.items() if side.versions.get(name) != pin]
    commands = [_install(seen, *wanted)] if wanted else []
    if side.scalems_digest != client.scalems_digest:
        # Other code of the same version is there already for pip.
        fresh = ("--force-reinstall", "--no-deps", _source(client, host))
        commands.append(_install(seen, *fresh))
    return (f"on {host.name}: " if host else "") + " && ".join(commands)


def _install(seen: Venv, *words: str) -> str:
    return shlex.join([f"{seen.path}/bin/python", "-m", "pip", "install", *words])


def _source(client: Side, host: Host | None) -> str:
    """Return what pip installs the client's scalems from: where it came from itself (PEP 610)."""
    import importlib.metadata

    try:
        text = importlib.metadata.distribution("scalems").read_text("direct_url.json")
        origin = json.loads(text or "{}")
        url = origin.get("url", "")
        if "vcs_info" in origin:
            return f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
        if "dir_info" in origin and host is None and url.startswith("file://"):
            return unquote(url.removeprefix("file://"))
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        pass  # it came from an index
    return f"scalems=={client.versions.get('scalems', '')}"


def _worker(adopted: Adopted) -> list[Finding]:
    """Return that no Worker of RADICAL-Pilot can start in it, if that is so.

    Without its own script the one of the Pilot venv would be found, and run there.
    """
    if adopted.venv.worker:
        return []
    return [
        Finding(
            env=adopted.side.name,
            kind="no Worker can start in it",
            subject=f"bin/{venv.WORKER} of radical.pilot is missing",
            remedy=(f"on {adopted.host.name}: " if adopted.host else "")
            + _install(
                adopted.venv,
                "--force-reinstall",
                "--no-deps",
                f"radical.pilot=={target.client().versions.get('radical-pilot', '')}",
            ),
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

    :param text: its folder, on the host of the resource if a Pilot venv is needed.
    :param pilot: whether a Pilot venv is needed with it.
    :param worker: whether a Worker of RADICAL-Pilot is to start in it, also without that.
    :raises UsageError: it is no venv.
    :raises EnvironmentNotReady: with every difference that no policy lets pass.
    """
    managed = verification.verify(resource, policies=policies, hold=True) if pilot else None
    adopted = inspect(text, resource if managed else None)
    found = errors(adopted.findings)
    if pilot or worker:
        found += _worker(adopted)
    policy = {one: policies.get(one.about, Policy.ERROR) for one in found}
    if refused := [one for one in found if policy[one] is Policy.ERROR]:
        problem = not_ready(adopted.shown, refused)
        cause = problem.cause.replace("the environments of ", "", 1).replace(" are ", " is ", 1)
        raise EnvironmentNotReady(cause, remedy=problem.remedy)
    if known(adopted.venv.path, adopted.host) is None:
        remember(adopted)
    build = _build(text, adopted.venv)
    warnings = [one for one in adopted.findings if one.severity is Severity.WARNING]
    tolerated = tuple(one for one in found if policy[one] is Policy.WARN)
    return VerifiedResource(
        label=resource,
        pilot=managed.pilot if managed else build,
        tasks={text: build},
        definition=managed.definition if managed else Path(),
        tolerated=(*(managed.tolerated if managed else ()), *tolerated),
        remarks=tuple(warnings),
        host=managed.host if managed else None,
    )


def _build(text: str, seen: Venv) -> Build:
    return Build(
        name=text,
        role=Role.TASK,
        folder=Path(seen.path).parent,
        place=Path(seen.path),
        input_digest="",
        content_digest=seen.content_digest,
        scalems_digest=seen.scalems_digest,
        versions=seen.versions,
        code=Path(seen.code) if seen.code else None,
        top_level=seen.top_level,
        conda=seen.conda,
    )
