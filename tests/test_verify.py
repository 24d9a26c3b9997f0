"""`env.verify`, which stands before every run: what it lets pass, what it stops, what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from homes import LABEL, REPO, Scalems, add_task, make_scalems, small_project, tree

from scalems import probe
from scalems.env.check import Depth
from scalems.env.finding import About, Policy
from scalems.env.role import Role
from scalems.env.verification import verify
from scalems.errors import EnvironmentNotReady, ExitCode, UsageError

pytestmark = pytest.mark.network

SYNC = f"scalems env sync --resource {LABEL}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home with a Pilot and a Task venv."""
    made = make_scalems(tmp_path_factory.mktemp("verified"))
    add_task(made.project)
    made.sync()
    return made


@pytest.fixture
def ready(shared: Scalems, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scalems]:
    """That home and its project as those of this process; whatever a test changes is mended."""
    for name in os.environ.keys() - shared.env.keys():
        monkeypatch.delenv(name)
    for name, value in shared.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(shared.project)
    before = tree(shared.project)
    yield shared
    if tree(shared.project) != before:
        shutil.rmtree(shared.project)
        add_task(small_project(shared.project))
    shared.sync("--deep")


def refused(**options) -> EnvironmentNotReady:
    with pytest.raises(EnvironmentNotReady) as caught:
        verify(LABEL, tasks=["task"], **options)
    assert caught.value.remedy
    return caught.value


# --- what passes ----------------------------------------------------------------------------


def test_what_was_verified_is_what_runs(ready: Scalems):
    found = verify(LABEL, tasks=["task"])
    assert found.label == LABEL
    assert found.definition == ready.definition
    assert found.tasks.keys() == {"task"}
    for build, role in ((found.pilot, Role.PILOT), (found.tasks["task"], Role.TASK)):
        assert build.role is role
        assert build.folder == ready.build(build.name)
        code = "from scalems import probe; probe.main()"
        done = subprocess.run(
            [build.python, "-I", "-B", "-c", code],
            env={"HOME": str(ready.home)},
            capture_output=True,
            text=True,
            check=True,
        )
        described = probe.parse(done.stdout)
        assert described["versions"] == build.versions
        assert described["input_digest"] == build.input_digest
        assert described["content_digest"] == build.content_digest
        assert described["prefix"] == str(build.venv)


def test_rp_is_told_of_the_venv_that_was_verified(ready: Scalems):
    found = verify(LABEL)
    assert found.tasks == {}
    entry = json.loads(found.definition.read_text())["localhost"]
    assert entry == {
        "virtenv_mode": "use",
        "virtenv": str(found.pilot.venv),
        "rp_version": "installed",
    }


@pytest.mark.parametrize("depth", Depth)
def test_it_writes_nothing(ready: Scalems, depth):
    before = tree(ready.home, content=False), tree(ready.project)
    verify(LABEL, tasks=["task"], depth=depth)
    assert (tree(ready.home, content=False), tree(ready.project)) == before


def test_it_needs_no_project_once_it_was_synced(ready: Scalems, monkeypatch):
    monkeypatch.chdir("/")
    moved = ready.project.rename(ready.project.with_name("moved"))
    try:
        assert verify(LABEL, tasks=["task"]).pilot.folder == ready.build("pilot")
    finally:
        moved.rename(ready.project)


# --- wrong names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "hint"),
    [("local.locahost", "did you mean 'local.localhost'"), ("", "there is no resource ''")],
)
def test_an_unknown_resource_gets_near_names(ready: Scalems, label, hint):
    with pytest.raises(UsageError, match=hint) as caught:
        verify(label)
    assert LABEL in caught.value.remedy


def test_an_unknown_resource_where_nothing_is_known_says_how_to_begin(home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(UsageError, match=r"no resource 'local\.localhost'") as caught:
        verify(LABEL)
    assert "write a resource config" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "what"),
    [("tusk", "did you mean 'task'"), ("pilot", "'pilot' is the Pilot venv"), ("", "venv ''")],
)
def test_an_unknown_task_venv_gets_near_names(ready: Scalems, name, what):
    with pytest.raises(UsageError, match=what) as caught:
        verify(LABEL, tasks=[name])
    assert caught.value.remedy.startswith("use one of: task;")


# --- nothing synced ---------------------------------------------------------------------------


@pytest.mark.parametrize("label", [LABEL, "local.second"])
def test_a_resource_that_was_never_synced(ready: Scalems, monkeypatch, tmp_path, label):
    configs = ready.project / "resource-configs" / "local.toml"
    configs.write_text(configs.read_text() + configs.read_text().replace("[localhost]", "[second]"))
    if label == LABEL:
        monkeypatch.setenv("SCALEMS_HOME", str(tmp_path))
    with pytest.raises(EnvironmentNotReady, match="not built yet") as caught:
        verify(label)
    assert caught.value.remedy == f"scalems env sync --resource {label}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_record_of_the_sync_is_not_believed(ready: Scalems, text):
    (ready.root / "resources" / f"{LABEL}.json").write_text(text)
    error = refused()
    assert "not built yet" in error.cause
    assert error.remedy == SYNC


# --- each kind of drift -------------------------------------------------------------------------


def site(ready: Scalems, name: str) -> Path:
    return probe.site_packages(ready.build(name) / "venv")


def remove_build(ready: Scalems) -> None:
    shutil.rmtree(ready.build("task"))


def remove_manifest(ready: Scalems) -> None:
    (ready.build("pilot") / "manifest.json").unlink()


def edit_manifest(ready: Scalems) -> None:
    path = ready.build("task") / "manifest.json"
    path.write_text(path.read_text().replace('"bytes": ', '"bytes": 1'))


def exchange_builds(ready: Scalems) -> None:
    pilot, task = ready.build("pilot"), ready.build("task")
    shutil.copy(task / "manifest.json", pilot / "manifest.json")


def add_distribution(ready: Scalems) -> None:
    info = site(ready, "task") / "numpy-2.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.0.0\n")


def remove_distribution(ready: Scalems) -> None:
    (info,) = site(ready, "task").glob("dill-*.dist-info")
    shutil.rmtree(info)


def change_version(ready: Scalems) -> None:
    (info,) = site(ready, "pilot").glob("radical_pilot-*.dist-info")
    info.rename(info.with_name("radical_pilot-1.0.0.dist-info"))


def hook(ready: Scalems) -> None:
    (site(ready, "task") / "mine.pth").write_text("import mine\n")


def break_link(ready: Scalems) -> None:
    python = ready.build("pilot") / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")


def other_venv(ready: Scalems) -> None:
    ready.definition.write_text(ready.definition.read_text().replace("/venv", "/other"))


def no_definition(ready: Scalems) -> None:
    ready.definition.unlink()


def let_rp_install(ready: Scalems) -> None:
    ready.definition.write_text(ready.definition.read_text().replace("installed", "release"))


def add_dependency(ready: Scalems) -> None:
    spec = ready.project / "envs" / "task.toml"
    spec.write_text(spec.read_text().replace("dependencies = []", 'dependencies = ["idna"]'))


def narrow_python(ready: Scalems) -> None:
    spec = ready.project / "envs" / "pilot.toml"
    spec.write_text(spec.read_text().replace(">=3.10,<3.14", ">=3.10,<3.15"))


DRIFTS: dict[Callable[[Scalems], None], str] = {
    remove_build: "task: missing build: ",
    remove_manifest: "pilot: build was never verified: ",
    edit_manifest: "task: changed manifest: ",
    add_distribution: "task: extra distribution: numpy: expected nothing, found 2.0.0",
    remove_distribution: "task: missing distribution: dill: expected ",
    change_version: "pilot: changed version of distribution: radical-pilot: expected ",
    hook: "task: extra in site-packages: mine.pth",
    break_link: "pilot: broken link: venv/bin/python: expected ",
    other_venv: f"{LABEL}: RP resource definition changed: virtenv in ",
    no_definition: f"{LABEL}: RP resource definition changed: virtenv_mode in ",
    let_rp_install: f"{LABEL}: RP resource definition changed: rp_version in ",
    add_dependency: "task: spec changed since the sync: ",
    narrow_python: "pilot: spec changed since the sync: ",
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_it_stops_at_each_drift_and_names_what_mends_it(ready: Scalems, drift):
    drift(ready)
    error = refused()
    assert error.cause.startswith(f"the environments of {LABEL} are not ready:\n")
    assert f"\n  {DRIFTS[drift]}" in error.cause
    assert error.remedy == SYNC


def test_a_manifest_of_the_other_role_is_not_believed(ready: Scalems):
    """Both have the same pins, and so the same input digest: the name must decide."""
    pilot, task = ready.build("pilot"), ready.build("task")
    assert pilot.name.removeprefix("pilot") == task.name.removeprefix("task")
    exchange_builds(ready)
    error = refused()
    assert "pilot" in error.cause


def test_all_drifts_are_in_one_error(ready: Scalems):
    for drift in (break_link, hook, let_rp_install):
        drift(ready)
    error = refused()
    for drift in (break_link, hook, let_rp_install):
        assert f"\n  {DRIFTS[drift]}" in error.cause


def test_a_task_venv_that_is_not_used_stops_nothing(ready: Scalems):
    remove_build(ready)
    assert verify(LABEL).tasks == {}
    assert "missing build" in refused().cause


@pytest.mark.parametrize("gone", [False, True])
def test_what_does_not_change_the_lock_is_no_drift(ready: Scalems, gone):
    spec = ready.project / "envs" / "task.toml"
    if gone:
        spec.unlink()
    else:
        spec.write_text("# A comment.\n" + spec.read_text())
    assert verify(LABEL, tasks=["task"])


def test_what_others_wrote_for_rp_is_no_drift(ready: Scalems):
    text = ready.definition.read_text()
    changed = text.replace('"localhost": {', '"localhost": {"cores_per_node": 3,')
    ready.definition.write_text("# mine\n" + changed)
    assert verify(LABEL, tasks=["task"])


def test_a_resource_file_that_rp_could_not_read(ready: Scalems):
    text = ready.definition.read_text()
    try:
        ready.definition.write_text(text[:-4])
        with pytest.raises(UsageError, match="not valid JSON") as caught:
            verify(LABEL)
        assert str(ready.definition) in caught.value.cause
    finally:
        ready.definition.write_text(text)


def test_a_file_that_was_edited_is_found_where_it_is_looked_for(ready: Scalems):
    path = site(ready, "task") / "cloudpickle" / "cloudpickle.py"
    body = path.read_bytes()
    path.unlink()  # it may be a hard link into the installer's cache
    path.write_bytes(body + b"# mine\n")
    assert verify(LABEL, tasks=["task"], depth=Depth.FAST)
    for depth in (Depth.NORMAL, Depth.DEEP):
        assert "task: changed file: lib/" in refused(depth=depth).cause


# --- a client that changed ------------------------------------------------------------------------

VERIFY = f"""
from scalems import env
from scalems.errors import EnvironmentNotReady
try:
    env.verify({LABEL!r}, tasks=["task"])
except EnvironmentNotReady as error:
    print(error.cause)
else:
    print("ready")
"""


def verified_by(ready: Scalems, first_on_path: Path) -> list[str]:
    """What a client says that finds a folder before its own site-packages."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", VERIFY],
        env={**ready.env, "PYTHONPATH": str(first_on_path)},
        cwd=ready.project,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_client_with_another_byte_of_scalems(ready: Scalems, tmp_path):
    shutil.copytree(REPO / "scalems", tmp_path / "scalems")
    assert verified_by(ready, tmp_path) == ["ready"]
    with (tmp_path / "scalems" / "radical" / "worker.py").open("a") as stream:
        stream.write("#")
    _, *lines = verified_by(ready, tmp_path)
    assert [line.partition(":")[0].strip() for line in lines] == ["pilot", "task"]
    assert all("code differs from the client's: scalems: expected" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("radical_pilot", ["pilot", "task"]),
        ("radical_utils", ["pilot", "task"]),
        ("cloudpickle", ["task"]),
        ("msgpack", ["pilot", "task"]),
        ("dill", []),
        ("numpy", []),
    ],
)
def test_a_client_with_another_version(ready: Scalems, tmp_path, name, sides):
    (tmp_path / f"{name}-99.1.dist-info").mkdir()
    first, *lines = verified_by(ready, tmp_path)
    dist = name.replace("_", "-")
    what = f"version differs from the client's: {dist}: expected 99.1, found "
    assert [line.partition(": ")[0].strip() for line in lines] == sides
    assert all(what in line for line in lines)
    assert (first == "ready") == (not sides)


def test_an_upgraded_client_is_not_told_that_the_spec_changed(ready: Scalems, tmp_path):
    """The lock's inputs hold the client's versions, but nobody has touched the spec."""
    add_dependency(ready)
    (tmp_path / "radical_gtod-99.1.dist-info").mkdir()
    lines = verified_by(ready, tmp_path)
    assert any("version differs" in line for line in lines)
    assert not any("spec changed" in line for line in lines)


# --- resources beside each other ---------------------------------------------------------------


def test_resources_are_looked_at_one_by_one(ready: Scalems):
    configs = ready.project / "resource-configs" / "local.toml"
    text = configs.read_text()
    configs.write_text(f"{text}\n{text.replace('[localhost]', '[second]')}")
    ready.run("env", "sync", "--resource", "local.second")
    for label in (LABEL, "local.second"):
        assert verify(label).pilot.folder == ready.build("pilot")
    before, entry, after = ready.definition.read_text().rpartition('"installed"')
    assert '"second"' in before
    assert entry
    ready.definition.write_text(f'{before}"release"{after}')
    assert verify(LABEL)
    with pytest.raises(EnvironmentNotReady, match="rp_version in") as caught:
        verify("local.second")
    assert caught.value.remedy == "scalems env sync --resource local.second"


# --- policies -------------------------------------------------------------------------------


def run_it(made: Scalems, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script with one call in the Task venv, on this machine."""
    script = made.home / "script.py"
    script.write_text(
        "import scalems\n\n@scalems.task\ndef where():\n    import sys\n    return sys.prefix\n\n"
        "@scalems.app\ndef main():\n    print(where().result())\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "scalems.local", "--venv", "task", *words, str(script)],
        env=made.env,
        cwd=made.project,
        capture_output=True,
        text=True,
        check=False,
    )


def test_drift_is_refused_or_told_or_let_pass(ready: Scalems):
    hook(ready)
    with pytest.raises(EnvironmentNotReady):
        verify(LABEL, tasks=["task"], policies={About.PARITY: Policy.WARN})
    told = verify(LABEL, tasks=["task"], policies={About.DRIFT: Policy.WARN})
    assert [one.subject for one in told.tolerated] == ["mine.pth"]
    quiet = verify(LABEL, tasks=["task"], policies={About.DRIFT: Policy.OFF})
    assert quiet.tolerated == ()
    refused_run = run_it(ready)
    assert refused_run.returncode == ExitCode.NOT_READY
    assert "mine.pth" in refused_run.stderr
    allowed = run_it(ready, "--drift", "warn")
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stdout.strip() == str(ready.build("task") / "venv")
    assert "warning: task: extra in site-packages: mine.pth" in allowed.stderr
    assert "mine.pth" not in run_it(ready, "--drift", "off").stderr


def test_warnings_are_told_and_stop_nothing(ready: Scalems, tmp_path, monkeypatch):
    (tmp_path / "dill-99.1.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    told = verify(LABEL, tasks=["task"])
    assert {(one.env, one.subject) for one in told.remarks} == {("pilot", "dill"), ("task", "dill")}
    assert told.tolerated == ()  # results are kept
    assert verify(LABEL, tasks=["task"], policies={About.PARITY: Policy.OFF}).remarks == ()


def test_no_policy_lets_a_build_pass_that_cannot_be_used(ready: Scalems):
    remove_build(ready)
    allowed = dict.fromkeys(About, Policy.OFF)
    with pytest.raises(EnvironmentNotReady, match="missing build"):
        verify(LABEL, tasks=["task"], policies=allowed)
