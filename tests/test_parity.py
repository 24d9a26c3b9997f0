"""Parity: what must be equal between client, pilot and workers, and the command that mends it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from homes import REPO
from hypothesis import given
from hypothesis import strategies as st

from scalems.env import parity
from scalems.env.finding import Severity
from scalems.env.parity import Side
from scalems.env.role import Role

ERROR, WARNING = Severity.ERROR, Severity.WARNING
MEND = "scalems env sync --resource local.localhost"
VERSIONS = {
    "radical-pilot": "1.103.2",
    "radical-utils": "1.102.1",
    "radical-gtod": "1.100.0",
    "rc-process": "1.0",
    "psij-python": "0.9.9",
    "cloudpickle": "3.1.1",
    "pyzmq": "26.2.0",
    "msgpack": "1.1.0",
    "dill": "0.3.9",
    "numpy": "2.1.0",
}
CLIENT = Side(name="client", role=None, python="3.11.7", versions=VERSIONS, scalems_digest="0" * 64)


def side(role: Role, **changes: str) -> Side:
    """A side like the client but for the distributions named, or without those that are empty."""
    changed = {name.replace("_", "-"): version for name, version in changes.items()}
    found = {name: v for name, v in {**VERSIONS, **changed}.items() if v}
    return replace(CLIENT, name=role.value, role=role, versions=found)


def judged(*others: Side, client: Side = CLIENT) -> list[tuple[str, str, Severity]]:
    compared = parity.compare(client, others, remedy=MEND)
    return [(one.env, one.subject, one.severity) for one in compared.findings]


EXACT = ("radical-pilot", "radical-utils", "radical-gtod", "rc-process", "psij-python")
RULES = [
    *((name, version, ERROR, ERROR) for name in EXACT for version in ("99", "1.103.2.post1", "")),
    ("cloudpickle", "3.1.2", WARNING, ERROR),
    ("cloudpickle", "2.0", WARNING, ERROR),
    ("cloudpickle", "", WARNING, ERROR),
    ("pyzmq", "26.2.1", WARNING, WARNING),
    ("pyzmq", "26", WARNING, WARNING),
    ("pyzmq", "27.2.0", ERROR, ERROR),
    ("pyzmq", "2.2.0", ERROR, ERROR),
    ("pyzmq", "", ERROR, ERROR),
    ("msgpack", "1.9", WARNING, WARNING),
    ("msgpack", "2.1.0", ERROR, ERROR),
    ("msgpack", "", ERROR, ERROR),
    ("dill", "0.3.8", WARNING, WARNING),
    ("dill", "1.0", WARNING, WARNING),
    ("dill", "", WARNING, WARNING),
    ("numpy", "1.0", None, None),
    ("numpy", "", None, None),
    ("openmm", "8.2", None, None),
]


@pytest.mark.parametrize(("name", "version", "pilot", "task"), RULES)
def test_how_equal_each_distribution_must_be(name, version, pilot, task):
    for role, severity in ((Role.PILOT, pilot), (Role.TASK, task)):
        other = side(role, **{name: version})
        expected = [(role.value, name, severity)] if severity else []
        assert judged(other) == expected
        # What the client lacks differs as much as what the other lacks.
        theirs = replace(CLIENT, versions=other.versions)
        assert judged(side(role), client=theirs) == expected


def test_the_rules_are_those_that_are_documented():
    listed = {name for name, *_ in RULES if name not in ("numpy", "openmm")}
    assert parity.RULES.keys() == listed
    text = (REPO / "docs" / "how-it-works.md").read_text()
    table = text.partition("### Parity")[2].partition("###")[0].replace("radical.", "radical-")
    for name in (*(listed - {"rc-process"}), "rc.process", "Python", "scalems"):
        assert name in table


@pytest.mark.parametrize(
    ("python", "severity"),
    [
        ("3.11.8", WARNING),
        ("3.11", WARNING),
        ("3.12.7", ERROR),
        ("3.1.7", ERROR),
        ("4.11.7", ERROR),
    ],
)
def test_python_must_have_the_same_minor_version(python, severity):
    assert judged(replace(side(Role.TASK), python=python)) == [("task", "python", severity)]


def test_scalems_must_be_the_same_code():
    other = replace(side(Role.PILOT, scalems="0.1.0"), scalems_digest="1" * 64)
    client = replace(CLIENT, versions={**VERSIONS, "scalems": "0.1.0"})
    compared = parity.compare(client, [other], remedy=MEND)
    (finding,) = compared.findings
    assert (finding.subject, finding.severity) == ("scalems", ERROR)
    # The version alone would read as if nothing differed.
    assert (finding.expected, finding.found) == ("0.1.0 (00000000)", "0.1.0 (11111111)")


numbers = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,2}", fullmatch=True)
some_versions = st.dictionaries(st.sampled_from([*VERSIONS, "scipy"]), numbers)
sides = st.builds(
    Side,
    name=st.sampled_from(["a", "b", "c"]),
    role=st.sampled_from(Role),
    python=st.sampled_from(["3.10.1", "3.11.7", "3.11.9"]),
    versions=some_versions,
    scalems_digest=st.sampled_from(["0" * 64, "1" * 64]),
)
others = st.lists(sides, max_size=3, unique_by=lambda one: one.name)


@given(sides)
def test_everything_is_equal_to_itself(one):
    compared = parity.compare(replace(one, name="client"), [one], remedy=MEND)
    assert compared.findings == ()
    assert {row.severity for row in compared.rows} == {None}


@given(sides, others)
def test_every_finding_has_its_row_and_a_command_that_mends_it(client, listed):
    client = replace(client, name="client", role=None)
    compared = parity.compare(client, listed, remedy=MEND)
    assert compared.sides == ("client", *(one.name for one in listed))
    for finding in compared.findings:
        assert finding.env != "client"
        assert finding.remedy.endswith(MEND)
    rows = {row.what: row for row in compared.rows}
    assert rows.keys() == {"python", "scalems", *parity.RULES}
    for what, row in rows.items():
        found = {one.severity for one in compared.findings if one.subject == what}
        worst = ERROR if ERROR in found else WARNING if WARNING in found else None
        assert row.severity == worst
        assert row.values.keys() == set(compared.sides)
        if what in parity.RULES:
            assert row.values["client"] == client.versions.get(what, "")
    assert json.loads(json.dumps(compared.to_dict())) == compared.to_dict()


def test_another_python_is_mended_by_choosing_one():
    compared = parity.compare(CLIENT, [replace(side(Role.TASK), python="3.12.1")], remedy=MEND)
    (finding,) = compared.findings
    assert "Python 3.12.1" in finding.remedy
    assert "`interpreter` in envs/task.toml" in finding.remedy
    assert finding.remedy.endswith(MEND)


@given(some_versions)
def test_environments_are_locked_to_what_the_client_has_of_the_rules(client):
    pins = parity.pins(client)
    assert pins == {name: v for name, v in client.items() if name in parity.RULES}
    # A side with these versions is at peace with the client, whatever else it has.
    other = replace(side(Role.TASK), versions={**pins, "numpy": "0"})
    assert judged(other, client=replace(CLIENT, versions=client)) == []
