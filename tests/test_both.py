"""One environment for the Pilot and for tasks: one build, which is verified and used as both."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from faults import builds
from homes import LABEL, Scalems, configure, make_scalems

from scalems.env.parity import Side, compare
from scalems.env.role import Role
from scalems.errors import ExitCode

pytestmark = pytest.mark.network

SCRIPT = """\
import sys
import scalems

@scalems.task
def prefix():
    import sys
    return sys.prefix

@scalems.app
def main():
    print(prefix().result())
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home whose resource has one environment for all."""
    made = make_scalems(tmp_path_factory.mktemp("both"))
    spec = made.project / "envs" / "pilot.toml"
    spec.write_text(spec.read_text().replace('role = "pilot"', 'role = "both"'))
    configure(made.project, 'tasks = ["pilot"]\n')
    made.sync()
    (made.project / "script.py").write_text(SCRIPT)
    return made


def test_it_is_built_once_and_known_as_both(one: Scalems) -> None:
    (folder,) = builds(one)
    assert [env["action"] for env in one.sync()["envs"]] == ["unchanged"]
    report = one.check("--deep")
    assert report["ok"]
    assert [(env["name"], env["role"]) for env in report["envs"]] == [("pilot", "both")]
    described = one.json("env", "show", "pilot")
    assert (described["role"], described["folder"]) == ("both", str(folder))
    (listed,) = one.json("env", "list")
    assert (listed["role"], listed["current"]) == ("both", [LABEL])


@pytest.mark.parametrize(
    "words",
    [
        ["scalems.local"],
        pytest.param(["scalems.radical", "--pilot", "new"], marks=pytest.mark.radical),
    ],
)
def test_calls_run_in_the_pilots_build(one: Scalems, words: list[str]) -> None:
    options = ["--no-store", "--resource", LABEL, "--venv", "pilot", "script.py"]
    done = subprocess.run(
        [sys.executable, "-m", *words, *options],
        cwd=one.project,
        env=one.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert str(one.build("pilot") / "venv") in done.stdout.splitlines()
    (definition,) = json.loads(one.definition.read_text()).values()
    assert definition["virtenv"] == str(one.build("pilot") / "venv")


def test_a_spec_for_one_role_is_refused_with_the_line_to_write(scalems: Scalems) -> None:
    configure(scalems.project, 'tasks = ["pilot"]\n')
    done = scalems.run("env", "sync", "--resource", LABEL, code=ExitCode.USAGE)
    assert "uses it as the pilot and the task environment" in done.stderr
    assert 'write role = "both" in' in done.stderr
    assert builds(scalems) == []


def test_what_is_for_both_must_be_right_for_both() -> None:
    def side(name: str, role: Role | None, version: str) -> Side:
        versions = {"cloudpickle": version}
        return Side(name=name, role=role, python="3.12.1", versions=versions, scalems_digest="")

    client = side("client", None, "3.1.0")
    findings = {
        role: compare(client, [side("x", role, "3.0.0")], remedy="").findings for role in Role
    }
    severities = {role: [one.severity.value for one in found] for role, found in findings.items()}
    assert severities[Role.BOTH] == severities[Role.TASK] == ["error"]
    assert severities[Role.PILOT] == ["warning"]
