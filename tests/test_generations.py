"""Generations of builds: rollback, garbage collection, and what a run holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from homes import LABEL, Scalems, changed, make_scalems, tree

from scalems.env import lease
from scalems.errors import ExitCode

pytestmark = pytest.mark.network


@pytest.fixture
def made(two: Scalems, tmp_path: Path) -> Scalems:
    """Two generations, in the second of which the Pilot venv has another distribution."""
    return two


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    made = make_scalems(tmp_path_factory.mktemp("generations"))
    made.sync()
    spec = made.project / "envs" / "pilot.toml"
    spec.write_text(spec.read_text().replace("dependencies = []", 'dependencies = ["iniconfig"]'))
    made.sync()
    return made


def generations(made: Scalems) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for one in made.json("env", "list"):
        for name in one["generations"]:
            found[int(name.rpartition("#")[2])] = Path(one["folder"])
    return found


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a build until its standard input is closed."""
    code = (
        "import sys; from pathlib import Path; from scalems.env import lease;"
        f"lease.hold(Path({str(folder)!r})); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_list_says_which_build_is_in_use(made):
    listed = {one["folder"]: one for one in made.json("env", "list")}
    assert len(listed) == 2
    used = listed[str(made.build("pilot"))]
    assert (used["current"], used["generations"]) == ([LABEL], [f"{LABEL}#2"])
    (other,) = (one for folder, one in listed.items() if folder != str(made.build("pilot")))
    assert (other["current"], other["generations"]) == ([], [f"{LABEL}#1"])
    shown = made.run("env", "list").stdout
    assert used["folder"].rpartition("/")[2] in shown


def test_a_dry_run_of_a_rollback_changes_nothing(made):
    before = tree(made.home)
    result = made.json("env", "rollback", "--resource", LABEL, "--dry-run")
    assert (result["from"], result["to"]) == (2, 1)
    assert str(generations(made)[1] / "venv") in result["definition"]["diff"]
    assert changed(before, tree(made.home)) == []


def test_rollback_brings_back_build_and_definition_until_the_next_sync(made):
    old, new = generations(made)[1], generations(made)[2]
    result = made.json("env", "rollback", "--resource", LABEL)
    assert result["report"]["ok"]
    assert made.build("pilot") == old
    assert str(old / "venv") in made.definition.read_text()
    assert made.check()["ok"]
    # There is nothing before it, and the way forward is open.
    made.run("env", "rollback", "--resource", LABEL, code=ExitCode.USAGE)
    made.json("env", "rollback", "--resource", LABEL, "--to", "2")
    assert made.build("pilot") == new
    made.json("env", "rollback", "--resource", LABEL)
    made.sync()
    assert made.build("pilot") == new
    assert str(new / "venv") in made.definition.read_text()
    assert generations(made) == {1: old, 2: new}


def test_rollback_to_a_build_that_has_changed_is_refused(made, tmp_path):
    changed = next((generations(made)[1] / "venv").rglob("cloudpickle/__init__.py"))
    kept = shutil.copy2(changed, tmp_path)
    try:
        changed.write_text("")
        before = made.definition.read_bytes()
        done = made.run("env", "rollback", "--resource", LABEL, code=ExitCode.NOT_READY)
        assert "generation 1 cannot be used" in done.stderr
        assert "cloudpickle/__init__.py" in done.stderr
        assert made.definition.read_bytes() == before
    finally:
        shutil.copy2(kept, changed)


def test_unknown_generations(made):
    done = made.run("env", "rollback", "--resource", LABEL, "--to", "7", code=ExitCode.USAGE)
    assert "choose one of: 1" in done.stderr
    done = made.run("env", "diff", "pilot", "pilot#9", code=ExitCode.USAGE)
    assert "choose one of: 1, 2" in done.stderr
    done = made.run("env", "gc", "--keep", "-1", code=ExitCode.USAGE)
    assert "invalid whole number value" in done.stderr


def test_diff_of_two_generations_names_what_was_added(made):
    result = made.json("env", "diff", "pilot#1", "pilot", "--files", code=ExitCode.FAILED)
    assert list(result["distributions"]) == ["iniconfig"]
    assert result["distributions"]["iniconfig"][0] == ""
    assert any(path.endswith("iniconfig/__init__.py") for path in result["files"])
    same = made.json("env", "diff", "pilot#2", "pilot", "--files")
    assert same["same"]


def test_a_build_that_a_run_holds_is_neither_removed_nor_rebuilt(made):
    old, new = generations(made)[1], generations(made)[2]
    process = holder(old)
    try:
        assert lease.held(old)
        assert not lease.held(new)
        assert {one["folder"]: one["in_use"] for one in made.json("env", "list")}[str(old)]
        result = made.json("env", "gc", "--keep", "0")
        assert result["builds"] == []
        assert old.is_dir()
    finally:
        process.communicate("")
    assert not lease.held(old)


def test_a_build_in_use_that_has_changed_is_not_taken_from_under_the_run(made, tmp_path):
    folder = made.build("pilot")
    changed = next((folder / "venv").rglob("cloudpickle/__init__.py"))
    kept = shutil.copy2(changed, tmp_path)
    process = holder(folder)
    try:
        changed.write_text("")
        done = made.run("env", "sync", "--resource", LABEL, code=ExitCode.FAILED)
        assert "a run uses it" in done.stderr
        assert changed.exists()
    finally:
        process.communicate("")
        shutil.copy2(kept, changed)
    assert made.check()["ok"]


def test_gc_keeps_what_can_be_returned_to(made):
    assert made.json("env", "gc")["builds"] == []


def test_gc_removes_what_nothing_refers_to(tmp_path, made):
    # The last test of this module's home would be the wrong place: a copy of its own.
    home = Path(shutil.copytree(made.home, tmp_path / "home", symlinks=True))
    copy = Scalems(home=home, project=made.project, env={**made.env, "HOME": str(home)})
    for file in home.rglob("*.json"):
        file.write_text(file.read_text().replace(str(made.home), str(home)))
    before = tree(home, content=False)
    plan = copy.json("env", "gc", "--keep", "0", "--dry-run")
    assert changed(before, tree(home, content=False)) == []
    result = copy.json("env", "gc", "--keep", "0")
    assert [one["folder"] for one in plan["builds"]] == [one["folder"] for one in result["builds"]]
    assert len(result["builds"]) == 1
    assert result["bytes"] > 0
    assert not Path(result["builds"][0]["folder"]).exists()
    assert set(generations(copy)) == {2}
    assert list((copy.root / "builds").glob(".trash*")) == []
