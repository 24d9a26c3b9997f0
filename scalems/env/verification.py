"""Verification: are a resource's environments what was synced, and equal where they must be?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.env import canonical, layout, parity, state, target
from scalems.env.check import Depth
from scalems.env.finding import About, Finding, Policy, Severity, errors, not_ready
from scalems.env.look import Seen, look
from scalems.env.manifest import Manifest
from scalems.env.parity import Parity, Row, Side
from scalems.env.role import Role
from scalems.env.site import Site
from scalems.env.state import Synced, SyncedEnv
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.host.address import Host
from scalems.resource import definition
from scalems.resource.lines import Lines
from scalems.tomlfile import near

if TYPE_CHECKING:
    from scalems.env.package import Package


@dataclass(frozen=True, kw_only=True)
class Build:
    """A verified build of an environment.

    :param folder: where manifest and venv are.
    :param python: the venv's interpreter.
    :param versions: distributions by normalized name.
    :param site: what it takes from its site.
    :param top_level: entries of its site-packages.
    :param software: versions of its site's programs.
    :param lines: shell lines of its spec, then those of the resource config.
    :param place: the venv, if scalems did not build it; ``folder`` is then of no meaning.
    :param code: folder of the package scalems that it sees, if that is not in its own packages.
    :param conda: whether it is a conda environment.
    """

    name: str
    role: Role
    folder: Path
    input_digest: str
    content_digest: str
    scalems_digest: str
    versions: Mapping[str, str]
    site: Site = field(default_factory=Site)
    top_level: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)
    place: Path | None = None
    code: Path | None = None
    conda: bool = False
    lines: Lines = field(default_factory=Lines)

    @property
    def computes(self) -> str:
        """Fingerprint of what computes in it: what is installed, the site's programs, its lines."""
        if not (self.software or self.lines):
            return self.content_digest
        parts: dict[str, Any] = {"content": self.content_digest, "software": dict(self.software)}
        if self.lines:
            parts["lines"] = self.lines.to_dict()
        return canonical.digest("environment with software 1", parts)

    @property
    def venv(self) -> Path:
        """The venv itself."""
        return self.place or self.folder / "venv"

    @property
    def python(self) -> Path:
        """The venv's interpreter."""
        return self.venv / "bin" / "python"


@dataclass(frozen=True, kw_only=True)
class VerifiedResource:
    """A resource whose environments may be used now.

    :param definition: RP's resource file that names the Pilot venv.
    :param tolerated: what was found, and a policy lets pass with a warning.
    :param host: where the builds are; ``None`` is this machine.
    :param remarks: what else is worth telling, and stops no run.
    """

    label: str
    pilot: Build
    tasks: Mapping[str, Build]
    definition: Path
    tolerated: tuple[Finding, ...] = ()
    remarks: tuple[Finding, ...] = ()
    host: Host | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a look at a resource's environments found."""

    label: str
    depth: Depth
    synced: Synced
    manifests: Mapping[str, Manifest]
    parity: Parity
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether a run may start."""
        return not errors(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "resource": self.label,
            "ok": self.ok,
            "depth": self.depth.value,
            "envs": [
                {
                    "name": env.name,
                    "role": env.role.value,
                    "folder": str(env.folder),
                    "input_digest": known.input_digest if known else None,
                    "content_digest": known.content_digest if known else None,
                    "created": known.created if known else None,
                    "engine": known.engine if known else None,
                    "files": known.files if known else None,
                }
                for env in self.synced.envs
                for known in [self.manifests.get(env.name)]
            ],
            "parity": self.parity.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def sync_command(label: str, *, depth: Depth = Depth.NORMAL) -> str:
    """Return the command that mends most findings, of a check of that depth."""
    return f"scalems env sync --resource {label}{' --deep' if depth is Depth.DEEP else ''}"


def verify(
    resource: str,
    *,
    tasks: Sequence[str] = (),
    depth: Depth = Depth.FAST,
    policies: Mapping[About, Policy] = {},
    hold: bool = False,
) -> VerifiedResource:
    """Verify a resource's Pilot venv and the named Task venvs before a run.

    :param resource: RP label, such as ``local.localhost``.
    :param policies: what to do about findings; without one they are errors.
    :param hold: keep the builds from being removed or built anew until this process ends.
    :raises UsageError: unknown resource or environment; near names are offered.
    :raises EnvironmentNotReady: with every difference and the command that mends it; also if
        a policy lets differences pass, but a build is not usable at all.
    """
    report = examine(resource, tasks=tasks, depth=depth, hold=hold)
    found = errors(report.findings)
    wanted = [report.synced.pilot.name, *tasks]
    unusable = any(name not in report.manifests for name in wanted)
    policy = {one: policies.get(one.about, Policy.ERROR) for one in found}
    refused = [one for one in found if unusable or policy[one] is Policy.ERROR]
    if refused:
        raise not_ready(resource, refused)
    builds = {
        env.name: build_of(report.synced, env, report.manifests)
        for env in report.synced.envs
        if env.name in report.manifests
    }
    return VerifiedResource(
        label=resource,
        pilot=builds[report.synced.pilot.name],
        tasks={name: builds[name] for name in tasks},
        definition=report.synced.definition,
        tolerated=tuple(one for one in found if policy[one] is Policy.WARN),
        remarks=tuple(
            one
            for one in report.findings
            if one.severity is Severity.WARNING and policies.get(one.about) is not Policy.OFF
        ),
        host=report.synced.host,
    )


def examine(
    resource: str,
    *,
    tasks: Sequence[str] | None = None,
    depth: Depth = Depth.NORMAL,
    hold: bool = False,
) -> Report:
    """Look at a resource's environments and report all that differs from what it must be.

    :param tasks: Task venvs to look at; ``None`` means all.
    :param hold: keep the builds from being removed or built anew until this process ends.
    :raises UsageError: unknown resource or environment.
    :raises EnvironmentNotReady: the resource was never synced.
    """
    synced = find(resource)
    others = [env for env in _chosen(synced, tasks) if env is not synced.pilot]
    envs = [synced.pilot, *others]
    mend = sync_command(resource)
    findings: list[Finding] = []
    manifests: dict[str, Manifest] = {}
    client = target.client()
    builds = state.with_bases(envs)
    for env, seen in zip(builds, see(synced, builds, depth=depth, hold=hold), strict=True):
        again = sync_command(resource, depth=depth)
        findings += [
            replace(one, remedy=f"{one.remedy}; then {again}" if one.remedy else again)
            for one in seen.findings
        ]
        if known := seen.manifest:
            manifests[env.name] = known
            findings += _inputs(env, known, client, mend)
            findings += _sources(env, mend)
            findings += _signature(synced, env, known)
    compared = parity.compare(
        client,
        [_side(env, manifests[env.name]) for env in envs if env.name in manifests],
        remedy=mend,
    )
    findings += compared.findings
    compared = replace(compared, rows=(*compared.rows, *_software(manifests, findings)))
    ours = layout.default().is_ours
    findings += _definition(synced, mend if ours else f"scalems resource write {resource}")
    return Report(
        label=resource,
        depth=depth,
        synced=synced,
        manifests=manifests,
        parity=compared,
        findings=tuple(findings),
    )


def _signature(synced: Synced, env: SyncedEnv, known: Manifest) -> list[Finding]:
    """Whether who may sign has signed, where the project says so."""
    if not env.spec.with_name("allowed_signers").is_file():
        return []
    from scalems.env import signature  # only now: few projects have signatures

    return list(signature.check(synced, env, known))


def see(
    synced: Synced, envs: Sequence[SyncedEnv], *, depth: Depth, hold: bool = False
) -> list[Seen]:
    """Look at builds where they are.

    :param hold: keep them from being removed or built anew until this process ends.

    :raises HostError: their host cannot be reached.
    """
    if synced.host:
        from scalems.env.remote import far  # most resources are of this machine

        return far.look(synced, envs, depth=depth, hold=hold)
    return look(((env.name, env.folder) for env in envs), depth=depth, hold=hold)


def find(label: str) -> Synced:
    """Return what was synced for a resource.

    :raises UsageError: unknown resource; near names are offered.
    :raises EnvironmentNotReady: it was never synced.
    """
    place = layout.default()
    known = state.labels(place)
    found = state.read(place, label) if label in known else None
    if found:
        return found
    from scalems.resource.config import find_project  # only for who has nothing, or erred

    try:
        configured = find_project().labels()
    except UsageError:
        configured = []
    if label in configured or label in known:
        raise EnvironmentNotReady(
            f"the environments of {label} are not built yet", remedy=sync_command(label)
        )
    everything = sorted({*known, *configured})
    raise UsageError(
        f"there is no resource {label!r}{near(label, everything)}",
        remedy=f"use one of: {', '.join(everything)}"
        if everything
        else "write a resource config and run `scalems env sync --resource LABEL` in its project",
    )


def _chosen(synced: Synced, tasks: Sequence[str] | None) -> list[SyncedEnv]:
    if tasks is None:
        return list(synced.tasks)
    by_name = {env.name: env for env in synced.tasks}
    for name in tasks:
        if name not in by_name:
            if name == synced.pilot.name:
                cause = f"{name!r} is the Pilot venv of {synced.label}; calls run in a Task venv"
            else:
                cause = f"{synced.label} has no Task venv {name!r}{near(name, by_name)}"
            raise UsageError(
                cause,
                remedy=f"use one of: {', '.join(by_name) or '(none)'}; or add it to `tasks` in "
                f"the resource config and run {sync_command(synced.label)}",
            )
    return [by_name[name] for name in tasks]


def build_of(synced: Synced, env: SyncedEnv, manifests: Mapping[str, Manifest]) -> Build:
    """Return the build that an environment of a resource has.

    :param manifests: that of its build, and that of its base if it has one, by their names.
    """
    known = manifests[env.name]
    base = manifests.get(env.base.name) if env.base else None
    return Build(
        name=env.name,
        role=env.role,
        folder=env.folder,
        input_digest=known.input_digest,
        content_digest=known.content_digest,
        scalems_digest=known.scalems_digest,
        versions=known.versions,
        site=Site.from_dict(known.site),
        top_level=(*known.top_level, *(base.top_level if base else ())),
        software=known.software,
        lines=env.lines + synced.lines,
    )


def _side(env: SyncedEnv, known: Manifest) -> Side:
    return Side(
        name=env.name,
        role=env.role,
        python=known.interpreter["version"],
        versions=known.versions,
        scalems_digest=known.scalems_digest,
    )


def _inputs(env: SyncedEnv, known: Manifest, client: Side, mend: str) -> list[Finding]:
    """Whether the env spec still asks for what was built. A spec that is gone asks nothing."""
    if state.file_digest(env.spec) in ("", env.spec_digest):
        return []
    from scalems.env import lock, spec  # only now: most launches need no parser

    asked = spec.load(env.spec)
    needs = {name: one["needs"] for name, one in known.packages.items()}
    pins, base = parity.pins(client.versions), lock.base_of(asked)
    wanted = lock.inputs_digest(asked, pins, needs, base)
    same_site = asked.site == Site.from_dict(known.site)
    same_site &= _same_packages(asked.packages, known)
    same_site &= asked.build_rules == known.build_rules
    same_site &= asked.lines == env.lines
    if (same_site and wanted == known.lock_inputs) or any(
        known.versions.get(name) != version
        for name, version in parity.pins(client.versions).items()
    ):
        return []  # parity names the client's versions that changed
    return [
        Finding(
            env=env.name, kind="spec changed since the sync", subject=str(env.spec), remedy=mend
        )
    ]


def _sources(env: SyncedEnv, mend: str) -> list[Finding]:
    """Whether the local packages are what was built."""
    if not env.sources:
        return []
    from scalems.env import source_check  # only now: most environments have none

    return list(source_check.check(env, remedy=mend))


def _same_packages(asked: Sequence[Package], known: Manifest) -> bool:
    built = {name: bool(one["editable"]) for name, one in known.packages.items()}
    return {one.name: one.editable for one in asked} == built


def _software(manifests: Mapping[str, Manifest], findings: Sequence[Finding]) -> list[Row]:
    """Return rows of the parity table for what is not Python."""
    names = sorted({name for known in manifests.values() for name in known.software})
    told = {
        (one.env, one.subject.partition(":")[0]): one
        for one in findings
        if one.kind.endswith(" software")
    }
    rows = _world(manifests, findings)
    for name in names:
        values = {env: known.software.get(name, "") for env, known in manifests.items()}
        now = {env: told[env, name].found for env in values if (env, name) in told}
        rows.append(
            Row(what=name, values={**values, **now}, severity=Severity.ERROR if now else None)
        )
    return rows


def _world(manifests: Mapping[str, Manifest], findings: Sequence[Finding]) -> list[Row]:
    """Return the row of what mpi4py runs with, if there is any."""
    world = {env: known.mpi["name"] for env, known in manifests.items() if known.mpi}
    if not world:
        return []
    from scalems.env import mpi  # only now: most environments have none

    severities = [f.severity for f in findings if f.kind == mpi.DIFFERENT]
    return [Row(what="MPI of mpi4py", values=world, severity=min(severities, default=None))]


def _definition(synced: Synced, mend: str) -> list[Finding]:
    now = definition.fields_of(synced.label)
    # That of this user, whoever has synced.
    path = definition.user_folder() / f"resource_{synced.label.partition('.')[0]}.json"
    return [
        Finding(
            env=synced.label,
            kind="RP resource definition changed",
            subject=f"{key} in {path}",
            expected=str(value),
            found=str(now.get(key, "")),
            remedy=mend,
        )
        for key, value in synced.fields.items()
        if now.get(key) != value
    ]
