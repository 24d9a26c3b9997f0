"""A shorter start of RADICAL-Pilot, and what users have set, which stays in force."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from homes import changed, tree

ASK = """
import json, os, sys
from pathlib import Path
import radical.utils as ru
from scalems.radical import lean

if len(sys.argv) > 2:
    lean.KNOWN = (sys.argv[2],)
session = lean.prepare(Path(sys.argv[1]), "local.localhost")

def config(category, name, **more):
    return ru.Config("radical.pilot", category=category, name=name, expand=False, **more).as_dict()

resource = config("resource", "*")
print(json.dumps({
    "given": session,
    "session": config("session", "default", cfg=session),
    "resource": resource["local"]["localhost"],
    "domains": sorted(resource),
    "agent": config("agent", resource["local"]["localhost"]["agent_config"]),
    "utils": ru.Config("radical.utils", category="utils", name="default", expand=False).as_dict(),
    "variable": os.environ.get("RADICAL_CONFIG_USER_DIR"),
}))
"""


def ask(folder: Path, *more: str) -> dict[str, dict[str, object]]:
    """Return what RP reads in a process that has prepared a folder."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, str(folder), *more],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def configs(home: Path) -> Path:
    folder = home / ".radical" / "pilot" / "configs"
    folder.mkdir(parents=True)
    return folder


def test_bridges_that_nothing_uses_are_not_started(home, tmp_path):
    plain = ask(tmp_path / "plain", "0.0")
    lean = ask(tmp_path / "lean")
    assert plain["given"] is None
    assert plain["variable"] is None
    assert not (tmp_path / "plain").exists()
    for kind, gone in (("session", 3), ("agent", 4)):
        former, bridges = plain[kind].pop("bridges"), lean[kind].pop("bridges")
        assert len(former) - len(bridges) == gone
        assert bridges.items() <= former.items()
    assert lean["session"] == plain["session"]
    assert lean["agent"] == plain["agent"]
    for name in ("agent_config", "pre_bootstrap_0"):
        lean["resource"].pop(name, None)
        plain["resource"].pop(name, None)
    assert lean["resource"] == plain["resource"]


def test_what_a_user_has_set_stays_in_force_and_no_file_of_his_is_touched(configs, home, tmp_path):
    definition = {
        "localhost": {
            "agent_config": "mine",
            "cores_per_node": 3,
            "pre_bootstrap_0": ["module load x"],
        },
        "other": {"notes": "kept"},
    }
    (configs / "resource_local.json").write_text("# mine\n" + json.dumps(definition))
    (configs / "resource_lab.json").write_text(json.dumps({"slurm": {"notes": "kept"}}))
    agent = {"bridges": {"extra": {"kind": "queue"}, "client_queue": {"kind": "queue"}}}
    (configs / "agent_mine.json").write_text(json.dumps({**agent, "components": {}, "own": 1}))
    (configs / "session_default.json").write_text('{"heartbeat": {"interval": 5.0}}')
    utils = home / ".radical" / "utils" / "configs"
    utils.mkdir(parents=True)
    (utils / "utils_default.json").write_text('{"iface": "ib7"}')
    before = tree(home)
    seen = ask(tmp_path / "folder")
    assert changed(before, tree(home)) == []
    assert seen["session"]["heartbeat"] == {"interval": 5.0, "timeout": 600.0}
    assert seen["agent"]["own"] == 1
    assert seen["agent"]["bridges"] == {"extra": {"kind": "queue"}}
    assert seen["resource"]["cores_per_node"] == 3
    assert seen["resource"]["pre_bootstrap_0"][0] == "module load x"
    assert "lab" in seen["domains"]
    assert seen["utils"]["iface"] == "ib7"


def test_the_bootstrapper_uses_the_python_of_a_pilot_venv_that_scalems_built(configs, tmp_path):
    code = tmp_path / "venv/lib/python3.11/site-packages/scalems/radical/nursery.py"
    code.parent.mkdir(parents=True)
    code.touch()
    fields = {"virtenv_mode": "use", "rp_version": "installed", "virtenv": str(tmp_path / "venv")}
    for number, own in enumerate(({}, {"python_interpreter": "/opt/python3"})):
        definition = {"localhost": {**fields, **own}}
        (configs / "resource_local.json").write_text(json.dumps(definition))
        seen = ask(tmp_path / f"{number}")["resource"]
        expected = own.get("python_interpreter", f"{tmp_path}/venv/bin/python3")
        assert seen["python_interpreter"] == expected
        assert any("nursery" in line for line in seen["pre_bootstrap_0"])


def test_the_pilot_reads_the_files_of_its_own_host(home, tmp_path, monkeypatch):
    lines = ask(tmp_path / "a")["resource"]["pre_bootstrap_0"]
    other = tmp_path / "it's mine"
    other.mkdir()
    monkeypatch.setenv("RADICAL_CONFIG_USER_DIR", str(other))
    other_lines = ask(tmp_path / "b")["resource"]["pre_bootstrap_0"]
    for found, expected in ((lines, ""), (other_lines, str(other))):
        # As RP's bootstrapper does with each of them.
        script = "\n".join(f'cmd=$(eval echo "$L{n}"); eval "$cmd"' for n in range(len(found)))
        done = subprocess.run(
            ["bash", "-c", f"{script}\nping || dig || echo $RADICAL_CONFIG_USER_DIR"],
            env={f"L{n}": line for n, line in enumerate(found)} | {"RADICAL_CONFIG_USER_DIR": "x"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
        assert done.stderr == ""


def test_files_that_rp_cannot_read_are_left_to_it(configs, tmp_path):
    (configs / "resource_local.json").write_text('{"localhost": 1')
    with pytest.raises(subprocess.CalledProcessError) as caught:
        ask(tmp_path / "folder")
    assert "in lean" not in caught.value.stderr
