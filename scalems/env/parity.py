"""Parity: client, pilot and workers must run the same software where it matters.

The rules, and why:

==================================  ==============  =============================================
what                                must be equal   because
==================================  ==============  =============================================
scalems                             files           both ends of every call are its code
radical.pilot, radical.utils,       version         the agent speaks the client's protocol; RP
radical.gtod, rc.process,                           itself never compares them
psij-python
Python                              minor version   functions of a script travel as bytecode
cloudpickle                         version (task)  its pickles hold for one version only
pyzmq, msgpack                      major version   what RP's messages are made of
dill                                version: warns  RP uses it for calls that are not scalems'
Python, micro version               warns           rarely matters, and then it is good to know
==================================  ==============  =============================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scalems.env.finding import About, Finding, Severity
from scalems.env.role import Role

Level = Literal["version", "major", "minor"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How equal a distribution must be, and in which roles.

    :param level: leading part of the version that must be equal, for an error.
    :param warn: whether the rest of the version gives a warning.
    """

    level: Level
    severity: Severity = Severity.ERROR
    roles: tuple[Role, ...] = (Role.PILOT, Role.TASK)
    warn: bool = False


_EXACT = Rule(level="version")
RULES: Mapping[str, Rule] = {
    "radical-pilot": _EXACT,
    "radical-utils": _EXACT,
    "radical-gtod": _EXACT,
    "rc-process": _EXACT,
    "psij-python": _EXACT,
    "cloudpickle": Rule(level="version", roles=(Role.TASK,), warn=True),
    "pyzmq": Rule(level="major", warn=True),
    "msgpack": Rule(level="major", warn=True),
    "dill": Rule(level="version", severity=Severity.WARNING),
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the environments that are compared.

    :param role: ``None`` is the client.
    :param scalems_digest: digest of the installed scalems' files.
    """

    name: str
    role: Role | None
    python: str
    versions: Mapping[str, str]
    scalems_digest: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the parity table.

    :param values: by name of the side; empty where it is not installed.
    :param severity: ``None`` when all is well.
    """

    what: str
    values: Mapping[str, str]
    severity: Severity | None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The parity table and what it finds."""

    sides: tuple[str, ...]
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return it in values that JSON can hold."""
        return {
            "sides": list(self.sides),
            "rows": [
                {
                    "what": row.what,
                    "values": dict(row.values),
                    "severity": row.severity.value if row.severity else None,
                }
                for row in self.rows
            ],
        }


def pins(client: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that every environment is locked to, of what the client has."""
    return {name: client[name] for name in RULES if name in client}


def compare(client: Side, others: Sequence[Side], *, remedy: str) -> Parity:
    """Compare environments with the client's.

    :param remedy: command that rebuilds the others from the client's versions.
    """
    findings: list[Finding] = []
    rows = [_python_row(client, others, findings), _scalems_row(client, others, findings)]
    for name, rule in RULES.items():
        rows.append(_row(name, rule, client, others, findings))
    named = [replace(_with_remedy(finding, remedy), about=About.PARITY) for finding in findings]
    return Parity(
        sides=(client.name, *(side.name for side in others)),
        rows=tuple(rows),
        findings=tuple(named),
    )


def _row(
    name: str, rule: Rule, client: Side, others: Sequence[Side], findings: list[Finding]
) -> Row:
    mine = client.versions.get(name, "")
    new = [
        Finding(
            env=side.name,
            kind="version differs from the client's",
            subject=name,
            expected=mine,
            found=side.versions.get(name, ""),
            severity=severity,
        )
        for side in others
        if (severity := _judge(rule, side, mine, side.versions.get(name, "")))
    ]
    findings += new
    values = {side.name: side.versions.get(name, "") for side in (client, *others)}
    return Row(what=name, values=values, severity=_worst(new))


def _judge(rule: Rule, side: Side, mine: str, theirs: str) -> Severity | None:
    if mine == theirs:
        return None
    same = bool(mine and theirs) and _leading(mine, rule.level) == _leading(theirs, rule.level)
    if same or not (side.role and any(map(side.role.plays, rule.roles))):
        return Severity.WARNING if rule.warn else None
    return rule.severity


def _python_row(client: Side, others: Sequence[Side], findings: list[Finding]) -> Row:
    new = []
    for side in others:
        if side.python != client.python:
            minor = _leading(side.python, "minor") != _leading(client.python, "minor")
            new.append(
                Finding(
                    env=side.name,
                    kind="Python differs from the client's",
                    subject="python",
                    expected=client.python,
                    found=side.python,
                    severity=Severity.ERROR if minor else Severity.WARNING,
                )
            )
    findings += new
    values = {side.name: side.python for side in (client, *others)}
    return Row(what="python", values=values, severity=_worst(new))


def _scalems_row(client: Side, others: Sequence[Side], findings: list[Finding]) -> Row:
    new = [
        Finding(
            env=side.name,
            kind="code differs from the client's",
            subject="scalems",
            expected=_shown(client),
            found=_shown(side),
        )
        for side in others
        if side.scalems_digest != client.scalems_digest
    ]
    findings += new
    values = {side.name: _shown(side) for side in (client, *others)}
    return Row(what="scalems", values=values, severity=_worst(new))


def _shown(side: Side) -> str:
    return f"{side.versions.get('scalems', '')} ({side.scalems_digest[:8]})"


def _leading(version: str, level: Level) -> tuple[str, ...]:
    count = {"major": 1, "minor": 2, "version": 99}[level]
    return tuple(version.split(".")[:count])


def _worst(findings: Iterable[Finding]) -> Severity | None:
    severities = {finding.severity for finding in findings}
    for severity in (Severity.ERROR, Severity.WARNING):
        if severity in severities:
            return severity
    return None


def _with_remedy(finding: Finding, remedy: str) -> Finding:
    if finding.subject == "python":
        return replace(
            finding,
            remedy=f"run scalems from a venv of Python {finding.found}, or set `interpreter` "
            f"in envs/{finding.env}.toml; then {remedy}",
        )
    return replace(finding, remedy=remedy)
