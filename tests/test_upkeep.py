"""Keeping environments well: repair, watch, all resources at once, upgrades of one package."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from homes import LABEL, Scalems, configure, make_scalems

from scalems.env import lock
from scalems.errors import ExitCode

pytestmark = pytest.mark.network


def add_module(made: Scalems):
    path = next((made.build("pilot") / "venv").rglob("site-packages")) / "extra.py"
    path.write_text("")
    return path


def test_repair_builds_anew_what_is_not_well(small_home):
    path = add_module(small_home)
    (report,) = small_home.json("env", "check", "--repair", "--dry-run", code=ExitCode.NOT_READY)
    assert [one["subject"] for one in report["findings"]] == ["extra.py"]
    assert path.exists()
    told = small_home.run("env", "check", "--repair", "--dry-run", code=ExitCode.NOT_READY).stdout
    assert "dry run: nothing was changed" in told
    (report,) = small_home.json("env", "check", "--repair")
    assert report["ok"]
    assert not path.exists()
    folder = small_home.build("pilot")
    inode = folder.stat().st_ino
    (report,) = small_home.json("env", "check", "--repair")
    assert folder.stat().st_ino == inode


def test_watch_tells_of_drift_and_of_its_end(small_home):
    process = subprocess.Popen(
        small_home.argv("env", "watch", "--every", "0.005", "--json"),
        cwd=small_home.project,
        env=small_home.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        assert (first["ok"], first["appeared"], first["gone"]) == (True, [], [])
        path = add_module(small_home)
        second = json.loads(process.stdout.readline())
        assert not second["ok"]
        assert [one["subject"] for one in second["appeared"]] == ["extra.py"]
        path.unlink()
        third = json.loads(process.stdout.readline())
        assert third["ok"]
        assert [one["subject"] for one in third["gone"]] == ["extra.py"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


def test_all_resources_are_synced_whatever_becomes_of_one(tmp_path):
    made = make_scalems(tmp_path)
    configure(made.project, "tasks = []\n")
    path = made.project / "resource-configs" / "local.toml"
    text = path.read_text()
    for name, extends in (("other", "local.localhost"), ("wrong", "local.nowhere")):
        text += f'\n[{name}]\nextends = "{extends}"\npilot = "pilot"\n'
    path.write_text(text)
    result = made.json("env", "sync", "--all", code=ExitCode.USAGE)
    assert result["local.wrong"]["ok"] is False
    assert "local.nowhere" in result["local.wrong"]["error"]
    assert [one["action"] for one in result["local.other"]["envs"]] == ["reused"]
    reports = made.json("env", "check")
    assert {one["resource"]: one["ok"] for one in reports} == {LABEL: True, "local.other": True}


@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_one_package_is_upgraded_and_no_other(scalems: Scalems, engine):
    spec = scalems.project / "envs" / "pilot.toml"
    text = spec.read_text()
    # Two old versions, then room for newer ones.
    spec.write_text(text.replace("= []", '= ["iniconfig==2.0.0", "attrs==23.1.0"]'))
    scalems.run("env", "lock", "pilot", "--engine", engine)
    spec.write_text(text.replace("= []", '= ["iniconfig", "attrs"]'))
    words = ["env", "lock", "pilot", "--engine", engine]
    scalems.run(*words)
    before = versions(scalems)
    assert (before["iniconfig"], before["attrs"]) == ("2.0.0", "23.1.0")
    (result,) = scalems.json(*words, "--upgrade-package", "iniconfig")
    after = versions(scalems)
    assert {name for name in after if after[name] != before.get(name)} == {"iniconfig"}
    assert len(result["changes"]) == 1
    done = scalems.run(*words, "--upgrade-package", "inconfig", code=ExitCode.USAGE)
    assert "did you mean 'iniconfig'" in done.stderr


def versions(made: Scalems) -> dict[str, str]:
    pins = lock.load(made.project / "envs" / "pilot.lock.txt").pins
    return {pin.name: pin.version for pin in pins}
