"""Forks in the place of RADICAL-Pilot's commands: they get all that the commands would get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scalems.radical import nursery

COMMAND = f"""#!{sys.executable}
import os, sys
print(os.getcwd(), os.environ["SAID"], *sys.argv[1:], __name__)
print(sys.stdin.read(), file=sys.stderr)
if "fork" in sys.argv:
    if os.fork() == 0:
        sys.exit(9)  # the outcome of a fork is not the command's
    os.wait()
print("imported" if "decimal" in sys.modules else "new")
if "fail" in sys.argv:
    raise ValueError("as told")
sys.exit("text" if "text" in sys.argv else 7 if "seven" in sys.argv else None)
"""

PARENT = """
import os, pathlib, subprocess, sys
import decimal  # what is shared
from scalems.radical import nursery
if not nursery.start(pathlib.Path("nursery")):
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands of RP's names, in a place with a long name."""
    place = tmp_path / ("long" * 40)
    place.mkdir()
    for name in nursery.COMMANDS:
        (place / name).write_text(COMMAND)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("SAID", "a 'quoted'\nvalue")
    return place


def run(folder: Path, *words: str, alone: bool = False) -> subprocess.CompletedProcess[str]:
    argv = [nursery.COMMANDS[0], *words]
    return subprocess.run(
        argv if alone else [sys.executable, "-c", PARENT, *argv],
        cwd=folder,
        input="from here",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", [["a b", "c"], ["seven"], ["text"], ["fail"], ["fork"]])
def test_a_fork_does_what_the_command_does(folder: Path, words: list[str]) -> None:
    ours, real = run(folder, *words), run(folder, *words, alone=True)
    assert ours.returncode == real.returncode
    assert ours.stdout == real.stdout.replace("new", "imported")
    assert ours.stderr.splitlines()[-1] == real.stderr.splitlines()[-1]
    assert "imported" in ours.stdout


def test_a_command_that_nobody_forks_for_becomes_itself(folder: Path) -> None:
    assert "imported" in run(folder).stdout
    # The one that forked is gone, or will not answer: its socket is.
    (folder / "nursery" / "nursery").unlink()
    stand_in = folder / "nursery" / nursery.COMMANDS[1]
    done = subprocess.run(
        [stand_in, "x"], input="", capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("new\n")


def test_nothing_changes_where_a_command_is_missing(folder: Path) -> None:
    (folder / nursery.COMMANDS[1]).unlink()
    done = run(folder, "seven")
    assert done.returncode == 7
    assert "new" in done.stdout
    assert not (folder / "nursery").exists()
