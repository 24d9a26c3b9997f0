"""What one check found, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum


class Verdict(str, Enum):
    """How a check went."""

    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What one check found.

    :param subject: what was looked at.
    :param remedy: the command or edit that mends it.
    """

    subject: str
    verdict: Verdict
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it in values that JSON can hold."""
        return {**asdict(self), "verdict": self.verdict.value}


def good(subject: str, detail: str) -> Diagnosis:
    """Return that all is well."""
    return Diagnosis(subject=subject, verdict=Verdict.GOOD, detail=detail)


def warning(subject: str, detail: str, remedy: str) -> Diagnosis:
    """Return what may hurt a run."""
    return Diagnosis(subject=subject, verdict=Verdict.WARNING, detail=detail, remedy=remedy)


def error(subject: str, detail: str, remedy: str) -> Diagnosis:
    """Return what will stop a run."""
    return Diagnosis(subject=subject, verdict=Verdict.ERROR, detail=detail, remedy=remedy)
