"""Venvs that scalems did not build."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from homes import PREFIX_SCRIPT, REPO, Scalems, hand_made_venv, make_scalems

from scalems import probe
from scalems.env import adopt, enter, unmanaged
from scalems.env.finding import Severity
from scalems.env.site import Site
from scalems.errors import ExitCode, UsageError
from scalems.resource import definition


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A private home with a venv that sees the packages of the client, and adds none."""
    home = make_scalems(tmp_path_factory.mktemp("adopt"))
    venv = home.home / "mine"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    client = Path(sys.prefix)
    (site,) = venv.glob("lib/python3.*/site-packages")
    (theirs,) = client.glob("lib/python3.*/site-packages")
    (site / "client.pth").write_text(f"import site; site.addsitedir({str(theirs)!r})\n")
    (home.project / "script.py").write_text(PREFIX_SCRIPT)
    return home


def run(made: Scalems, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "scalems.local", "--venv", str(made.home / "mine"), *more]
    return subprocess.run(
        [*argv, "script.py"], cwd=made.project, env=made.env, capture_output=True, text=True
    )


def add(made: Scalems, name: str, version: str) -> Path:
    (site,) = (made.home / "mine").glob("lib/python3.*/site-packages")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info


def test_it_is_used_told_of_and_remembered(made: Scalems):
    done = run(made)
    assert done.stdout.strip() == str(made.home / "mine"), done.stderr
    assert "not built by scalems" in done.stderr
    assert run(made).returncode == 0

    info = add(made, "extra_thing", "1.0")
    done = run(made)
    assert done.returncode == ExitCode.NOT_READY
    assert "changed since it was adopted: extra-thing (none) -> 1.0" in done.stderr
    assert "scalems env adopt" in done.stderr
    assert run(made, "--drift", "warn").returncode == 0
    shown = made.json("env", "adopt", made.home / "mine")
    assert (shown["ok"], shown["managed"], shown["versions"]["extra-thing"]) == (True, False, "1.0")
    assert run(made).returncode == 0
    for file in info.iterdir():
        file.unlink()
    info.rmdir()
    made.json("env", "adopt", made.home / "mine")


def test_what_differs_from_the_client_is_named_at_once(made: Scalems):
    info = add(made, "cloudpickle", "0.1")
    done = made.run("env", "adopt", made.home / "mine", code=ExitCode.NOT_READY)
    assert "version differs from the client's: cloudpickle: expected" in done.stdout
    (remedy,) = [line for line in done.stdout.splitlines() if line.startswith("remedy: ")]
    assert "/mine/bin/python -m pip install cloudpickle==" in remedy
    assert "radical-pilot" not in remedy  # it is the client's
    (info / "METADATA").unlink()
    info.rmdir()
    bare = made.home / "bare"
    words = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(bare)]
    subprocess.run(words, check=True)
    (bare / "conda-meta").mkdir()
    shown = made.json("env", "adopt", bare, code=ExitCode.NOT_READY)
    kinds = {one["kind"] for one in shown["findings"]}
    assert {"conda environment", "sees the packages of its Python"} <= kinds
    (made.home / "bare" / "pyvenv.cfg").write_text(
        (made.home / "bare" / "pyvenv.cfg").read_text().replace("= true", "= false")
    )
    shown = made.json("env", "adopt", bare, code=ExitCode.NOT_READY)
    assert "sees the packages of its Python" not in {one["kind"] for one in shown["findings"]}
    missing = {one["subject"] for one in shown["findings"] if one["found"] == ""}
    assert {"radical-pilot", "cloudpickle"} <= missing
    (own,) = [one["remedy"] for one in shown["findings"] if one["subject"] == "scalems"]
    assert f"&& {bare}/bin/python -m pip install --force-reinstall --no-deps {REPO}" in own


def test_what_is_no_venv(made: Scalems, tmp_path: Path):
    with pytest.raises(UsageError, match="neither a venv nor a conda environment"):
        adopt.inspect(str(tmp_path))
    done = made.run("env", "adopt", tmp_path, code=ExitCode.USAGE)
    assert "bin/python" in done.stderr


def test_a_conda_environment_is_entered_without_a_script_of_a_venv(tmp_path: Path):
    env = tmp_path / "con da"
    (env / "conda-meta").mkdir(parents=True)
    hooks = env / "etc" / "conda" / "activate.d"
    hooks.mkdir(parents=True)
    (hooks / "mpi.sh").write_text("export FROM_HOOK=yes\n")
    shown = 'echo "$CONDA_PREFIX $FROM_HOOK $VIRTUAL_ENV"; echo "${PATH%%:*}"'
    lines = [*enter.shell_lines(env, Site(), conda=True), shown]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{env} yes ", f"{env}/bin"], done.stderr


def venv_with(folder: Path, **versions: str) -> str:
    """Make a folder that has distributions, as far as anybody looks; return its path."""
    for name, version in versions.items():
        info = f"{name}-{version}.dist-info"
        (folder / "lib" / "python3.11" / "site-packages" / info).mkdir(parents=True)
    return str(folder)


def test_what_radical_pilot_makes_of_a_venv_is_told_before_it_is_tried(tmp_path: Path):
    client = probe.versions(sys.path)
    ours, utils = client["radical-pilot"], client["radical-utils"]
    old = venv_with(tmp_path / "old", radical_pilot="1.92.0", radical_utils=utils)
    good = venv_with(tmp_path / "good", radical_pilot=ours, radical_utils=utils)
    none = str(tmp_path / "none")
    nothing, other = "the agent has no RADICAL-Pilot", "version differs from the client's in"

    def found(mode: str, venv: str | None, version: str | None = "installed") -> list[str]:
        fields = {"virtenv_mode": mode, "virtenv": venv, "rp_version": version}
        first, *more = unmanaged._pilot("x.y", fields)
        assert first.severity is Severity.WARNING
        assert f"virtenv_mode = {mode}: RADICAL-Pilot makes" in first.subject
        assert all("scalems env init --resource x.y" in str(one.remedy) for one in more[:1]) or (
            "/bin/pip install" in str(more[0].remedy)
        )
        return [one.kind for one in more if one.severity is Severity.ERROR]

    for mode in ("create", "update"):
        assert found(mode, none) == [nothing]
        assert found(mode, none, f"@{ours}") == []
        assert found(mode, None, f"@{ours}") == []
        assert found(mode, none, "@1.92.0") == [f"{other} rp_version = @1.92.0"]
        assert found(mode, good) == []
        assert found(mode, old) == [f"{other} {old}"]
        assert found(mode, old, f"@{ours}") == []  # pip's comes before it
        assert found(mode, old, "release") == []
    for mode in ("recreate", "private"):
        assert found(mode, good) == [nothing]
        assert found(mode, none, f"@{ours}") == []


@pytest.mark.radical
@pytest.mark.slow
@pytest.mark.network
def test_pilots_in_a_venv_that_radical_pilot_makes_and_updates(
    synced_home: Scalems, tmp_path: Path
):
    made = dataclasses.replace(
        synced_home,
        project=tmp_path,
        env={
            **synced_home.env,
            "RADICAL_CONFIG_USER_DIR": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "runs"),
        },
    )
    configs = tmp_path / ".radical" / "pilot" / "configs"
    configs.mkdir(parents=True)
    shutil.copy(synced_home.definition, configs)  # the Task venv is of a resource of ours
    (tmp_path / "script.py").write_text(PREFIX_SCRIPT)
    client = probe.versions(sys.path)["radical-pilot"]
    local = definition.shipped("local")["localhost"]
    argv = [sys.executable, "-m", "scalems.radical", "--resource", "mine.here"]
    argv += ["--venv", "task", "--no-store", "script.py"]

    def start(mode: str, version: str) -> subprocess.CompletedProcess[str]:
        fields = {"virtenv_mode": mode, "virtenv": str(tmp_path / "ve"), "rp_version": version}
        (configs / "resource_mine.json").write_text(json.dumps({"here": {**local, **fields}}))
        return subprocess.run(argv, cwd=made.project, env=made.env, capture_output=True, text=True)

    for mode in ("create", "update"):
        done = start(mode, "installed")
        assert done.returncode == ExitCode.NOT_READY
        # Neither before it is made, nor after: what pip installs is in the sandbox.
        told = "the agent has no RADICAL-Pilot" if mode == "create" else "found nothing"
        assert told in done.stderr
        done = start(mode, f"@{client}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(made.build("task") / "venv")
        assert f"virtenv_mode = {mode}: RADICAL-Pilot makes" in done.stderr
        assert (tmp_path / "ve" / "bin" / "python").exists()


@pytest.mark.radical
@pytest.mark.network
def test_workers_of_radical_pilot_run_in_it(small_home: Scalems, tmp_path: Path):
    made = small_home
    venv = hand_made_venv(made, tmp_path)
    script = tmp_path / "script.py"
    script.write_text(PREFIX_SCRIPT)
    argv = [sys.executable, "-m", "scalems.radical", "--resource", "local.localhost"]
    argv += ["--venv", str(venv), "--no-store", str(script)]

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=made.project, env=made.env, capture_output=True, text=True)

    worker = venv / "bin" / "radical-pilot-raptor-worker"
    worker.rename(tmp_path / "aside")
    done = start()
    assert done.returncode == ExitCode.NOT_READY
    assert "no Worker can start in it" in done.stderr
    (tmp_path / "aside").rename(worker)
    done = start()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(venv)
    assert "not built by scalems" in done.stderr
    # Somebody who has neither a project nor a resource config has that venv, and RADICAL-Pilot.
    argv[argv.index("--no-store") :] = ["--no-store", "script.py"]
    configs = tmp_path / "home" / ".radical" / "pilot" / "configs"
    configs.mkdir(parents=True)
    made = dataclasses.replace(
        made, project=tmp_path, env={**made.env, "HOME": str(tmp_path / "home")}
    )
    done = start()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(venv)
    assert "virtenv_mode = local: the pilot runs in the client's own venv" in done.stderr
    old = tmp_path / "old"
    (old / "lib" / "python3.11" / "site-packages" / "radical_pilot-1.92.0.dist-info").mkdir(
        parents=True
    )
    mine = {"localhost": {"virtenv_mode": "create", "virtenv": str(old)}}
    (configs / "resource_local.json").write_text(json.dumps(mine))
    done = start()
    assert done.returncode == ExitCode.NOT_READY
    assert f"version differs from the client's in {old}: radical-pilot: expected" in done.stderr
    argv[argv.index("--venv") + 1] = "task"
    mine["localhost"] = {"virtenv_mode": "create"}
    (configs / "resource_local.json").write_text(json.dumps(mine))
    assert "no resource of this machine has a Task venv 'task'" in start().stderr
