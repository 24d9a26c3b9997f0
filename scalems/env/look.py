"""What there is of builds, on the host that they are on: in values that can travel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalems.env import check, lease, manifest, site
from scalems.env.check import Depth
from scalems.env.finding import Finding
from scalems.env.manifest import Manifest
from scalems.env.site import Site


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A build that was looked at.

    :param manifest: ``None`` if it is not usable.
    :param findings: what differs from the manifest, its software included.
    :param leased: whether a run uses it.
    """

    manifest: Manifest | None
    findings: tuple[Finding, ...] = ()
    leased: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "manifest": manifest.to_dict(self.manifest) if self.manifest else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "leased": self.leased,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Seen:
        """Read it back.

        :raises ValueError: it is not what :meth:`to_dict` has returned.
        """
        known = data["manifest"]
        return cls(
            manifest=manifest.from_dict(known) if known else None,
            findings=tuple(map(Finding.from_dict, data["findings"])),
            leased=bool(data["leased"]),
        )


def look(envs: Iterable[tuple[str, Path]], *, depth: Depth, hold: bool = False) -> list[Seen]:
    """Compare builds with their manifests, and the software of their site with what it was,
    its MPI included.

    :param envs: name and folder of each.
    :param hold: keep them from being removed or built anew until this process ends.
    """
    return [_look(name, folder, depth=depth, hold=hold) for name, folder in envs]


def _look(name: str, folder: Path, *, depth: Depth, hold: bool) -> Seen:
    leased = lease.held(folder)
    if hold:
        lease.hold(folder)
    findings = check.inspect(name, folder, depth=depth)
    known = manifest.read(folder)
    if known:
        findings += site.check(name, Site.from_dict(known.site), known.software)
        if known.mpi:
            from scalems.env import mpi  # only now: most environments have none

            here = mpi.PACKAGE in known.compiled
            findings += mpi.check(name, Site.from_dict(known.site), known.mpi, built_here=here)
    return Seen(manifest=known, findings=tuple(findings), leased=leased)
