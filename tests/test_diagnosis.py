"""Why runs fail: rules held against recorded logs of RADICAL-Pilot, and what a report has in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from homes import REPO
from hypothesis import given
from hypothesis import strategies as st

from scalems import probe
from scalems.env.role import Role
from scalems.env.verification import Build
from scalems.errors import UsageError
from scalems.radical import bundle, causes, diagnosis, scrub, surroundings
from scalems.radical.patience import Patience
from scalems.radical.surroundings import Place

LOGS = Path(__file__).parent / "data" / "rp-logs"
RULES_OF_SYSTEMS = Path(__file__).parent / "data" / "batch-messages.txt"


def place_of(case, tmp_path, **more):
    """Lay the logs of a case where RP leaves them."""
    sandbox, folder = tmp_path / "sandbox", tmp_path / "run"
    folder.mkdir()
    shutil.copytree(LOGS / case / "sandbox", sandbox) if (
        LOGS / case / "sandbox"
    ).is_dir() else sandbox.mkdir()
    if (LOGS / case / "client").is_dir():
        shutil.copytree(LOGS / case / "client", folder / "session")
    return Place(label="lab.cluster", folder=folder, sandbox=sandbox, **more)


# What RP left in a run with each fault, and what a user is told of it.
CASES = {
    "venv-missing": "The Pilot venv /nonexistent/venv is not there",
    "venv-without-rp": "has no RADICAL-Pilot",
    "venv-broken-link": "cannot load RADICAL-Pilot",
    "venv-dangling": "a link that leads nowhere",
    "venv-not-a-venv": "is not a venv",
    "wrong-rm": "no resource manager NONSENSE",
    "wrong-lm": "None of the launch methods of lab.cluster works",
    "wrong-scheduler": "no scheduler NONSENSE",
    "wrong-spawner": "no spawner NONSENSE",
    "wrong-agent-config": "agent config",
    "percent-workdir": "There is a % in the definition of lab.cluster",
    "bad-job-endpoint": "Nothing here can start pilots",
    "percent": "There is a % in the definition of lab.cluster",
    "slurm-no-controller": "The batch system does not answer",
    "slurm-invalid-partition": "does not accept the partition or queue",
    "slurm-drained-partition": "The partition or queue takes no jobs now",
    "slurm-invalid-account": "does not accept the account",
    "slurm-time-limit": "does not accept the run time",
    "slurm-too-many-nodes": "no nodes like those",
    "slurm-node-count": "no nodes like those",
    "psij-pbs": "There is no qsub here",
    "no-host": "Nothing here can start pilots",
    "unwritable-sandbox": "cannot make the pilot's folder below /proc/nowhere",
    "pre-bootstrap-fails": "no site module nothing",
    "slurm-rm-outside": "jobs of a batch system run here",
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_with_its_remedy(case, tmp_path):
    error = diagnosis.failure("The pilot has failed.", place_of(case, tmp_path))
    first, cause, *lines = error.cause.splitlines()
    assert first == "The pilot has failed."
    assert CASES[case] in cause
    assert lines, "the log that says so is shown"
    words = (
        "lab.cluster",
        "modules",
        "--nodes",
        "--runtime",
        "--queue",
        "sandbox=",
        "sinfo",
        "--resource",
    )
    assert any(word in error.remedy for word in words)
    assert str(tmp_path / "run") in error.remedy
    assert "--debug-bundle" in error.remedy
    assert "{" not in cause + error.remedy


def test_logs_of_a_good_run_have_no_cause(tmp_path):
    place = place_of("healthy", tmp_path)
    error = diagnosis.failure("The pilot was cancelled.", place)
    assert error.cause == "The pilot was cancelled."
    assert error.remedy.startswith("the logs are in")


def test_what_was_told_of_an_earlier_failure_is_no_reason_of_the_next(tmp_path):
    told = "  scalems.worker.0.err: 9490 Killed    radical-pilot-raptor-worker"
    (tmp_path / "server.log").write_text(f"ERROR the Worker 0 has ended\n{told}\n  x: Killed\n")
    expected = ["server.log: ERROR the Worker 0 has ended", "server.log: x: Killed"]
    assert diagnosis.explain(None, tmp_path) == expected


def batch_messages():
    lines = RULES_OF_SYSTEMS.read_text().splitlines()
    return [line.split(" | ") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("message", "expected"), batch_messages())
def test_what_batch_systems_and_kernels_say_is_understood(message, expected, tmp_path):
    place = place_of("healthy", tmp_path)
    (place.sandbox / "bootstrap_0.err").write_text(f"\n{message}\n")
    error = diagnosis.failure("It failed.", place)
    assert expected in error.cause.splitlines()[1]
    assert message.strip() in error.cause


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_log_breaks_a_rule(text):
    place = Place(label="a.b", folder=Path("/nonexistent"))
    cause = causes.find([("agent_0.err", text), ("scalems.worker.0.err", text)], place)
    assert cause is None or (cause.text and cause.remedy)


@pytest.mark.parametrize("rule", causes.RULES, ids=lambda rule: rule.pattern[:30])
def test_every_rule_can_be_told(rule):
    found = dict.fromkeys(rule.compiled.groupindex, "X")
    place = Place(label="a.b", folder=Path("/nonexistent"))
    cause = causes._cause(rule, place, found, "")
    assert cause.text.endswith(".")
    assert cause.remedy


# --- the environment ------------------------------------------------------------------------


@pytest.fixture
def venv(tmp_path):
    """A venv with the metadata of what a build has, and a table of its files."""
    folder = tmp_path / "task-0123"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    site = probe.site_packages(folder / "venv")
    versions = {"radical-pilot": "", "radical-utils": "", "numpy": "2.0"}
    for name in versions:
        versions[name] = versions[name] or surroundings._version(name)
        (site / f"{name.replace('-', '_')}-{versions[name]}.dist-info").mkdir()
    (site / "numpy").mkdir()
    inside = f"lib/{site.parent.name}/site-packages"
    (folder / "files.json").write_text(json.dumps({f"{inside}/numpy/__init__.py": [0, 0, ""]}))
    return Build(
        name="task",
        role=Role.TASK,
        folder=folder,
        input_digest="",
        content_digest="",
        scalems_digest="",
        versions=versions,
    )


def told(build, tmp_path):
    place = Place(label="a.b", folder=tmp_path, venv=build.venv, build=build)
    return [text for text, remedy in surroundings.faults(place) if remedy]


def test_a_good_venv_is_no_cause(venv, tmp_path):
    assert told(venv, tmp_path) == []


def test_what_was_removed_by_hand_is_told_with_the_day(venv, tmp_path):
    site = probe.site_packages(venv.venv)
    (site / "numpy-2.0.dist-info").rmdir()
    os.utime(site, (1795521600, 1795521600))  # a Tuesday
    (text,) = told(venv, tmp_path)
    assert "has lost numpy 2.0" in text
    assert "removed by hand on Tuesday, 24 November" in text
    (site / "numpy-1.0.dist-info").mkdir()
    assert "has numpy 1.0, and was built with 2.0" in told(venv, tmp_path)[0]


def test_a_module_of_the_build_was_removed_and_another_was_never_there(venv, tmp_path):
    place = Place(label="a.b", folder=tmp_path, build=venv)
    text, remedy = surroundings.missing_module(place, "numpy")
    assert "has lost the module 'numpy': it was removed by hand on" in text
    assert remedy == "scalems env sync --resource a.b"
    text, remedy = surroundings.missing_module(place, "mpi4py.MPI")
    assert "has no module 'mpi4py.MPI'" in text
    assert "add mpi4py to the dependencies in envs/task.toml" in remedy


def test_another_rp_and_a_python_that_is_gone_are_told(venv, tmp_path):
    site = probe.site_packages(venv.venv)
    (name,) = site.glob("radical_pilot-*.dist-info")
    name.rename(site / "radical_pilot-1.92.0.dist-info")
    assert "has radical-pilot 1.92.0, and the client has" in told(venv, tmp_path)[0]
    python = venv.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")
    assert "leads to /nonexistent/python, which is gone" in told(venv, tmp_path)[0]


# --- waits ----------------------------------------------------------------------------------


def test_waits_are_told_with_their_limit_and_ever_less_often():
    lines = []
    patience = Patience(lines.append)
    for second in range(3600):
        patience.waits("the agent", float(second), 172800.0)
    assert lines[0] == "waiting for the agent: 10 s of at most 48 h"
    assert 4 < len(lines) < 12
    patience.waits("the Worker", 10.0, 180.0)
    assert lines[-1] == "waiting for the Worker: 10 s of at most 180 s"


# --- reports --------------------------------------------------------------------------------

SECRETS = [
    "index-url = https://me:{}@pypi.example.org/simple",
    "API_KEY={}",
    "export GITHUB_TOKEN='{}'",
    '{{"password": "{}", "user": "me"}}',
    "Authorization: Bearer {}",
    "--secret-key {}",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("form", SECRETS)
@given(
    secret=st.from_regex(r"[A-Z0-9+_.~-]{12,40}", fullmatch=True),
    before=st.text(alphabet="ab=:'\"/@ \n"),
)
def test_no_secret_is_packed(form, secret, before):
    clean = scrub.text(f"{before}\n{form.format(secret)}\nafter")
    assert secret not in clean
    assert clean.startswith(before)
    assert clean.endswith("after")


def test_what_tells_something_is_left():
    text = "agent_0.err: KeyError: 'bridges'\n/home/user/x.py line 3\nhttps://example.org/a\n"
    assert scrub.text(text) == text


@given(st.lists(st.text(alphabet="ab=\n '\"", max_size=20)))
def test_of_an_environment_only_what_is_known_is_left(lines):
    dump = "\n".join(["MY_LICENSE=hidden1", "hidden2", *lines, "export PATH=/usr/bin"])
    clean = scrub.environment(dump)
    assert "hidden" not in clean
    assert "PATH=/usr/bin" in clean


def test_a_report_has_logs_versions_and_definitions_and_no_data(tmp_path, home):
    folder = home / ".local" / "state" / "scalems" / "runs" / "scalems.20260101-000000.1.abcd"
    shutil.copytree(LOGS / "wrong-rm", folder)
    (folder / "data").mkdir()
    (folder / "data" / "call.txt").write_text("an argument")
    (folder / "env").mkdir()
    (folder / "env" / "agent.env").write_text("LICENSE_CODE=77\nPATH=/usr/bin\n")
    configs = home / ".radical" / "pilot" / "configs"
    configs.mkdir(parents=True)
    (configs / "resource_local.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "scalems.radical", "--debug-bundle", "report.tar.gz"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "report.tar.gz\n"
    with tarfile.open(tmp_path / "report.tar.gz") as archive:
        names = {Path(name).relative_to(folder.name).as_posix() for name in archive.getnames()}
        dump = archive.extractfile(f"{folder.name}/run/env/agent.env").read().decode()
        client = json.load(archive.extractfile(f"{folder.name}/client.json"))
    assert {"README.txt", "run/sandbox/agent_0.err"} <= names
    assert "definitions/pilot/configs/resource_local.json" in names
    assert not [name for name in names if "data" in name]
    assert dump == "LICENSE_CODE=<scrubbed>\nPATH=/usr/bin\n"
    assert client["versions"]["radical.pilot"]
    assert (tmp_path / "report.tar.gz").stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="there already"):
        bundle.pack(folder, tmp_path / "report.tar.gz")


def test_without_a_run_there_is_nothing_to_pack(home):
    with pytest.raises(UsageError, match="has no run"):
        bundle.newest()


GONE = """
import subprocess, sys
from scalems.radical.surroundings import no_way

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

ip("link set lo up")
ip("link add here type veth peer name there")
ip("addr add 10.9.8.7/24 dev here")
for name in ("here", "there"):
    ip(f"link set {name} up")
told = [no_way(["10.9.8.7"])]
ip("link set here down")
told += [no_way(["10.9.8.7"]), no_way(["10.9.8.7", "127.0.0.1"])]
ip("link del here")
told += [no_way(["10.9.8.7"]), no_way([])]
print(*told, sep="\\n")
"""


def test_a_network_interface_that_is_gone_is_named():
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", GONE],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("nobody may make network namespaces here")
    gone = "The network that Workers reach this host by is gone: 10.9.8.7"
    assert done.stdout.splitlines() == [
        *("", f"{gone} (its interface here is down).", ""),
        *(f"{gone} (no interface has it).", ""),
    ], done.stderr
