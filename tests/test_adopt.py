"""Venvs that scalems did not build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from homes import Scalems, make_scalems

from scalems.env import adopt
from scalems.errors import ExitCode, UsageError

SCRIPT = """
import sys, scalems

@scalems.task
def prefix():
    return sys.prefix

@scalems.app
def main():
    print(prefix().result())
"""


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
    (home.project / "script.py").write_text(SCRIPT)
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
    assert "bin/python -m pip install" in done.stdout
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


def test_what_is_no_venv(made: Scalems, tmp_path: Path):
    with pytest.raises(UsageError, match="neither a venv nor a conda environment"):
        adopt.inspect(tmp_path)
    done = made.run("env", "adopt", tmp_path, code=ExitCode.USAGE)
    assert "bin/python" in done.stderr


def test_radical_pilot_gets_what_scalems_built(made: Scalems):
    argv = [sys.executable, "-m", "scalems.radical", "--resource", "local.localhost"]
    argv += ["--venv", str(made.home / "mine"), "script.py"]
    done = subprocess.run(argv, cwd=made.project, env=made.env, capture_output=True, text=True)
    assert done.returncode == ExitCode.USAGE
    assert "scalems env init --from" in done.stderr
