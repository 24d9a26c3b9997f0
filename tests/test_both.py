"""One environment for the Pilot and for tasks: one build, which is verified and used as both."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from faults import builds
from homes import LABEL, Scalems, configure, debian, make_scalems

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

@scalems.task
def variable(name):
    import os
    return os.environ.get(name)

@scalems.app
def main():
    print(prefix().result(), variable("FROM").result())
    if sys.argv[1:]:
        print(scalems.executable(["sh", "-c", "echo rank $RANKS"], ranks=2).result().stdout)
"""
CONFIG = """\
tasks = ["pilot"]
pre_exec = ['export FROM="$FROM config"']
pre_rank = ['export RANKS="$RANKS its config"']
"""


SPEC = 'export FROM="a \\"spec\\","'
FROM = 'a "spec", config'


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home whose resource has one environment for all."""
    made = make_scalems(tmp_path_factory.mktemp("both"))
    spec = made.project / "envs" / "pilot.toml"
    text = spec.read_text().replace('role = "pilot"', 'role = "both"')
    text += f"pre_launch = ['touch {made.project}/launched']\n"
    text += f"pre_exec = ['{SPEC}']\npre_rank = ['export RANKS=\"$FROM,\"']\n"
    spec.write_text(text)
    configure(made.project, CONFIG)
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


@pytest.mark.mpi
@pytest.mark.parametrize(
    "words",
    [
        ["scalems.local"],
        pytest.param(["scalems.radical", "--pilot", "new"], marks=pytest.mark.radical),
    ],
)
def test_calls_run_in_the_pilots_build_after_all_lines(one: Scalems, words: list[str]) -> None:
    debian("mpiexec", "openmpi-bin")
    options = ["--no-store", "--resource", LABEL, "--venv", "pilot", "script.py", "mpi"]
    done = run(one, *words, *options)
    assert done.returncode == 0, done.stderr
    assert f"{one.build('pilot') / 'venv'} {FROM}" in done.stdout.splitlines()
    assert done.stdout.count(f"rank {FROM}, its config") == 2
    assert (one.project / "launched").exists() == ("scalems.radical" in words)
    (definition,) = json.loads(one.definition.read_text()).values()
    assert definition["virtenv"] == str(one.build("pilot") / "venv")


def run(one: Scalems, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=one.project,
        env=one.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_all_lines_are_shown_in_their_order_and_used_by_env_run(one: Scalems) -> None:
    shown = one.json("env", "show", "pilot")
    assert shown["before a launch"] == [f"touch {one.project}/launched"]
    assert [line for line in shown["entered by"] if "FROM" in line] == [
        SPEC,
        'export FROM="$FROM config"',
    ]
    assert [line.partition("=")[2] for line in shown["before each rank"]] == [
        '"$FROM,"',
        '"$RANKS its config"',
    ]
    assert one.run("env", "run", "pilot", "--", "printenv", "FROM").stdout == f"{FROM}\n"


def test_the_role_that_is_listed_is_that_of_the_spec_now(one: Scalems) -> None:
    spec, config = one.project / "envs" / "pilot.toml", one.project / "resource-configs"
    before, (folder,) = spec.read_text(), builds(one)
    (file,) = config.glob("local.toml")
    configured = file.read_text()
    spec.write_text(before.replace('role = "both"', 'role = "pilot"').partition("pre_launch")[0])
    configure(one.project, "tasks = []\n")
    assert [env["action"] for env in one.sync()["envs"]] == ["reused"]
    (listed,) = one.json("env", "list")
    assert (listed["role"], listed["folder"]) == ("pilot", str(folder))
    spec.write_text(before)
    file.write_text(configured)
    one.sync()
    (listed,) = one.json("env", "list")
    assert listed["role"] == "both"


def test_changed_lines_need_a_sync_but_no_build(one: Scalems) -> None:
    spec = one.project / "envs" / "pilot.toml"
    before, folders = spec.read_text(), builds(one)
    spec.write_text(before.replace("spec", "changed"))
    report = one.check(code=ExitCode.NOT_READY)
    assert [finding["kind"] for finding in report["findings"]] == ["spec changed since the sync"]
    assert [env["action"] for env in one.sync()["envs"]] == ["reused"]
    assert (
        one.run("env", "run", "pilot", "--", "printenv", "FROM").stdout
        == FROM.replace("spec", "changed") + "\n"
    )
    spec.write_text(before)
    one.sync()
    assert builds(one) == folders


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
