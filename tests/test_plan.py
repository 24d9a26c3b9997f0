"""What an upgrade would touch, told before anything is."""

from __future__ import annotations

import os
import shutil

import pytest
from homes import LABEL, Scalems, add_task, changed, tree

from scalems.env import lease
from scalems.store import database


@pytest.fixture
def made(small_home: Scalems, tmp_path) -> Scalems:
    """The synced home, with a project where idna is older than it could be, in two resources."""
    project = tmp_path / "project"
    shutil.copytree(small_home.project, project)
    add_task(project)
    (project / "resource-configs" / "lab.toml").unlink(missing_ok=True)
    config = project / "resource-configs" / "local.toml"
    config.write_text(
        config.read_text() + '\n[other]\nextends = "local.localhost"\npilot = "pilot"\n'
    )
    for lock in (project / "envs").glob("*.lock.txt"):
        lock.write_text(lock.read_text().replace("idna==3.20 \\", "idna==3.11 \\"))
    return Scalems(home=small_home.home, project=project, env=small_home.env)


@pytest.mark.network
def test_an_upgrade_is_planned_and_nothing_is_changed(made: Scalems):
    before = tree(made.project)
    plan = made.json("env", "plan", "--upgrade", "idna")
    assert changed(before, tree(made.project)) == []
    by_label = {one["resource"]: one for one in plan["resources"]}
    assert set(by_label) >= {LABEL, "local.other"}
    assert by_label[LABEL]["generation"] >= 1
    assert by_label["local.other"]["generation"] == 0
    pilot, task = by_label[LABEL]["envs"]
    assert (pilot["name"], pilot["affected"], pilot["in_use"]) == ("pilot", True, False)
    assert pilot["build"] == str(made.build("pilot"))
    assert task["build"] is None
    assert [line.split()[:3] for line in pilot["changes"]] == [["~", "idna", "3.11"]]
    commands = [step["command"] for step in plan["steps"]]
    assert commands[0].startswith("scalems env lock pilot")
    assert commands[0].endswith("--upgrade-package idna")
    assert f"scalems env sync --resource {LABEL}" in commands
    assert commands[-1] == "scalems env check"
    assert plan["client"] == []
    shown = made.run("env", "plan", "--upgrade", "idna").stdout
    assert f"{LABEL}/pilot: built anew" in shown
    assert "2. nothing uses its builds now" in shown or "it was never synced" in shown


@pytest.mark.network
def test_runs_and_results_that_are_touched_are_named(made: Scalems):
    folder = made.build("pilot")
    (digest,) = [
        one["content_digest"] for one in made.json("env", "list") if one["folder"] == str(folder)
    ]
    store = made.project / "scripts" / ".scalems"  # a script's is beside it
    connection = database.connect(store, create=True)
    connection.execute(
        "INSERT INTO results (key, size, env) VALUES ('k', 5, ?), ('l', 7, ?), ('m', 1, 'x')",
        (digest, digest),
    )
    connection.commit()
    connection.close()
    lease.hold(folder)
    try:
        plan = made.json("env", "plan", "--upgrade", "idna==3.12")
    finally:
        os.close(lease._held.pop(folder))
    syncs = [one["command"] for one in plan["steps"] if "sync" in one["command"]]
    assert syncs[-1] == f"scalems env sync --resource {LABEL}", "what is in use comes last"
    envs = {one["resource"]: one["envs"] for one in plan["resources"]}
    assert envs[LABEL][0]["in_use"]
    assert plan["steps"][0]["command"].endswith("--upgrade-package idna==3.12")
    (kept,) = plan["results"]["envs"]
    assert kept["computes"] == digest == envs[LABEL][0]["computes"]
    assert (kept["results"], kept["bytes"], kept["store"]) == (2, 12, str(store))
    assert [line.split()[1:] for line in envs[LABEL][0]["changes"]] == [
        ["idna", "3.11", "->", "3.12"]
    ]


@pytest.mark.network
def test_what_a_lock_cannot_have_is_told(made: Scalems):
    plan = made.json("env", "plan", "--upgrade", "idna==99", code=1)
    assert all("idna==99" in env["problem"] for env in plan["resources"][0]["envs"])
    assert plan["steps"] == []
    done = made.run("env", "plan", "--upgrade", "radical.pilot==99", code=1)
    assert "this scalems cannot have radical.pilot==99" in done.stderr


def test_what_nobody_has_is_refused_with_near_names(scalems: Scalems):
    # It names an environment that this small project does not have.
    (scalems.project / "resource-configs" / "lab.toml").unlink(missing_ok=True)
    assert "'idna'" in scalems.run("env", "plan", "--upgrade", "idnaa", code=2).stderr
    for text in ("idna @ https://x.example/a.whl", "==", "idna[x]", "idna; python_version>'3'"):
        scalems.run("env", "plan", "--upgrade", text, code=2)
