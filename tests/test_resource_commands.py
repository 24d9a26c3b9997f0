"""`scalems resource list`, `show`, `check` and `write`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from homes import LABEL, Scalems, add_task, changed, configure, make_scalems, tree

from scalems.errors import ExitCode, UsageError
from scalems.resource.fields import Request


def by_key(shown):
    return {field["key"]: field for field in shown["fields"]}


def test_list_names_who_defines_what(scalems: Scalems):
    folder = scalems.definition.parent
    folder.mkdir(parents=True)
    (folder / "resource_local.json").write_text('{"localhost": {"cores_per_node": 2}}')
    (folder / "resource_lab.json").write_text('# ours\n{"cluster": {"cores_per_node": 4}}')
    found = {one["label"]: one["defined by"] for one in scalems.json("resource", "list")}
    assert found["lab.cluster"] == "the user's file"
    assert found[LABEL] == "RADICAL-Pilot and the user's file"
    assert found["access.bridges2"] == "RADICAL-Pilot"
    matching = scalems.json("resource", "list", "cluster")
    assert [one["label"] for one in matching] == ["lab.cluster"]
    assert "no resource has 'nothing'" in scalems.run("resource", "list", "nothing").stdout


def test_show_without_anything_of_ours(scalems: Scalems):
    shown = scalems.json("resource", "show", LABEL)
    assert "nothing of it is verified" in shown["environment"]
    assert {field["origin"] for field in shown["fields"]} == {"RADICAL-Pilot"}
    done = scalems.run("resource", "show", "local.localhos", code=ExitCode.USAGE)
    assert "did you mean 'local.localhost'" in done.stderr
    done = scalems.run("resource", "show", LABEL, "--nodes", "0", code=ExitCode.USAGE)
    assert "invalid positive number" in done.stderr


def test_what_the_project_has_and_never_synced_is_known(scalems: Scalems):
    found = {one["label"]: one["defined by"] for one in scalems.json("resource", "list")}
    assert found["lab.slurm"] == "the project, once it is synced"
    done = scalems.run("resource", "show", "lab.slurm", code=ExitCode.USAGE)
    assert "scalems env sync --resource lab.slurm" in done.stderr


@pytest.mark.network
def test_show_tells_ours_from_the_users(small_home: Scalems):
    before = small_home.definition.read_text()
    data = json.loads(before)
    data["localhost"]["cores_per_node"] = 3
    try:
        small_home.definition.write_text(json.dumps(data))
        shown = small_home.json("resource", "show", LABEL, "--nodes", "2")
        fields = by_key(shown)
        assert fields["virtenv"]["origin"] == "scalems"
        assert fields["virtenv_mode"]["shipped"] == "local"
        assert (fields["cores_per_node"]["origin"], fields["cores_per_node"]["shipped"]) == (
            "the user's file",
            8,
        )
        assert shown["request"] == {"nodes": 2, "cores": 6, "gpus": 2}
        asked = small_home.json("resource", "show", LABEL, "--cores", "4")["request"]
        assert asked["nodes"] == 2
        assert str(small_home.build("pilot")) in small_home.run("resource", "show", LABEL).stdout
    finally:
        small_home.definition.write_text(before)


def test_a_request_counts_what_rp_counts():
    fields = {
        "cores_per_node": 42,
        "gpus_per_node": 6,
        "system_architecture": {"smt": 4, "blocked_cores": [0, 21], "blocked_gpus": []},
    }
    asked = Request.of(fields, 3)
    assert (asked.nodes, asked.cores, asked.gpus) == (3, 3 * (42 * 4 - 2), 18)
    with pytest.raises(UsageError, match="how many cores"):
        Request.of({}, 1)


@pytest.mark.network
def test_check_and_write_bring_back_what_was_changed_by_hand(small_home: Scalems):
    assert [one["ok"] for one in small_home.json("resource", "check")] == [True]
    before = small_home.definition.read_text()
    data = json.loads(before)
    data["localhost"]["virtenv_mode"] = "create"
    small_home.definition.write_text(json.dumps(data, indent=4))
    (report,) = small_home.json("resource", "check", LABEL, code=ExitCode.NOT_READY)
    assert not report["ok"]
    assert [one["kind"] for one in report["findings"]] == [
        "stale: it is not what a sync would write now",
        "the Pilot venv is not static",
    ]
    remedy = report["findings"][0]["remedy"]
    shown = tree(small_home.home)
    dry = small_home.json(*remedy.split()[1:], "--dry-run")
    assert '"virtenv_mode": "use"' in dry["diff"]
    assert changed(shown, tree(small_home.home)) == []
    written = small_home.json(*remedy.split()[1:])
    assert json.loads(small_home.definition.read_text()) == json.loads(before)
    assert '"create"' in Path(written["backup"]).read_text()
    assert small_home.check()["ok"]
    small_home.definition.write_text(before)


@pytest.mark.network
def test_a_definition_made_from_another_is_stale_when_that_one_changes(tmp_path):
    made = make_scalems(tmp_path)
    configure(made.project, "tasks = []\n", name="cluster", extends="local.localhost")
    made.json("env", "sync", "--resource", "local.cluster")
    data = json.loads(made.definition.read_text())
    # As if it had been written by an RP whose own definition was another.
    data["cluster"]["raptor"]["hb_delay"] = 7
    del data["cluster"]["mem_per_node"]
    made.definition.write_text(json.dumps(data))
    (report,) = made.json("resource", "check", code=ExitCode.NOT_READY)
    assert '"mem_per_node": 4096' in report["findings"][0]["subject"]
    made.run("resource", "write", "local.cluster")
    assert made.json("resource", "check")[0]["ok"]
    # What the user has set is the user's.
    assert json.loads(made.definition.read_text())["cluster"]["raptor"]["hb_delay"] == 7


def test_what_rp_refuses_is_found(scalems: Scalems):
    scalems.definition.parent.mkdir(parents=True)
    scalems.definition.write_text('{"localhost": {"cores_per_node": "many"}}')
    (report,) = scalems.json("resource", "check", code=ExitCode.NOT_READY)
    assert report["findings"][0]["kind"] == "RADICAL-Pilot refuses it"
    scalems.definition.write_text('{"localhost": }')
    done = scalems.run("resource", "check", code=ExitCode.USAGE)
    assert f"{scalems.definition}:1:" in done.stderr


def test_what_was_never_synced_cannot_be_written(scalems: Scalems):
    add_task(scalems.project)
    done = scalems.run("resource", "write", LABEL, code=ExitCode.NOT_READY)
    assert f"scalems env sync --resource {LABEL}" in done.stderr
