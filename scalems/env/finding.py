"""Findings: what differs from what it must be, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from scalems.errors import EnvironmentNotReady


class Severity(str, Enum):
    """Whether a run may start in spite of a finding."""

    ERROR = "error"
    WARNING = "warning"


class Policy(str, Enum):
    """What to do about findings of a kind before a run."""

    ERROR = "error"
    """Refuse to run."""
    WARN = "warn"
    """Tell, and run."""
    OFF = "off"
    """Run."""


class About(str, Enum):
    """What a finding is about; a policy is for one of these."""

    PARITY = "parity"
    """Client, Pilot venv and Task venvs, compared with each other."""
    DRIFT = "drift"
    """An environment or a definition, compared with what was verified."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference.

    :param env: name of the environment, or ``client``, or the resource's label.
    :param kind: what sort of difference, such as "changed file".
    :param subject: what differs: a distribution, a file, a field.
    :param remedy: the command or edit that mends it.
    """

    env: str
    kind: str
    subject: str
    expected: str = ""
    found: str = ""
    severity: Severity = Severity.ERROR
    remedy: str = ""
    about: About = About.DRIFT

    def __str__(self) -> str:
        detail = ""
        if self.expected or self.found:
            detail = f": expected {self.expected or 'nothing'}, found {self.found or 'nothing'}"
        return f"{self.env}: {self.kind}: {self.subject}{detail}"

    def to_dict(self) -> dict[str, str]:
        """Return it in values that JSON can hold."""
        return {**asdict(self), "severity": self.severity.value, "about": self.about.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, str]) -> Finding:
        """Read it back.

        :raises ValueError: it is not what :meth:`to_dict` has returned.
        """
        severity, about = Severity(data["severity"]), About(data["about"])
        try:
            return cls(**{**data, "severity": severity, "about": about})  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(str(error)) from error


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that must stop a run."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def not_ready(label: str, findings: Iterable[Finding], *, limit: int = 20) -> EnvironmentNotReady:
    """Make one error of findings; it lists them all, up to a limit, and each remedy once."""
    listed = list(findings)
    lines = [f"  {finding}" for finding in listed[:limit]]
    if len(listed) > limit:
        lines.append(f"  ... and {len(listed) - limit} more: scalems env check --resource {label}")
    remedies = list(dict.fromkeys(finding.remedy for finding in listed if finding.remedy))
    return EnvironmentNotReady(
        f"the environments of {label} are not ready:\n" + "\n".join(lines),
        remedy="\n          ".join(remedies) or None,
    )
