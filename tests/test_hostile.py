"""Hostile files, names and words: no traceback, no path out of the state folder, no shell line."""

from __future__ import annotations

import json
from pathlib import Path

import fuzz
import pytest
from homes import LABEL, Scalems, tree

from scalems.env.layout import Layout
from scalems.errors import ExitCode, UsageError


@pytest.mark.parametrize("what", sorted(fuzz.targets()))
def test_no_parser_raises_what_it_must_not(tmp_path: Path, what: str):
    target = fuzz.targets()[what]
    for seed in target.seeds:
        if what not in ("manifest", "lock file", "wheelhouse", "pilot option"):
            target.parse(
                seed if isinstance(seed, bytes) else seed.encode(), tmp_path
            )  # else all is refused, and nothing is tested
    for number in range(150):
        fuzz.run(target, number, tmp_path)


NAMES = ["../../../out", "a/../../out", "/out", "local.localhost/../../out", "..", "", "-x"]
NAMES += ["local.$(touch out)", "local.;touch out", "local.`touch out`", "local.\nx", "local.é"]


@pytest.mark.parametrize("label", NAMES)
def test_no_label_leads_out_of_the_state_folder(label: str, tmp_path: Path):
    place = Layout(tmp_path / "state")
    for path_of in (place.resource, place.generations, lambda one: place.current(one, "x")):
        try:
            path = path_of(label)
        except UsageError:
            continue
        assert path.resolve().is_relative_to(place.root), path


@pytest.mark.parametrize("name", ["../../../out", "/out", "local.$(touch out)"])
def test_hostile_names_on_the_command_line(scalems: Scalems, name: str):
    before = tree(scalems.home.parent)
    for words in (
        ("env", "rollback", f"--resource={name}"),
        ("env", "check", f"--resource={name}"),
        ("env", "sync", f"--resource={name}"),
        ("env", "show", "--", name),
    ):
        done = scalems.run(*words, code=None)
        assert done.returncode in (ExitCode.USAGE, ExitCode.NOT_READY), done.stderr
        assert "error: " in done.stderr
    assert {path for path in tree(scalems.home.parent) if path not in before} <= {
        *("home/.local", "home/.local/share", "home/.local/share/scalems"),
        *("home/.local/share/scalems/resources", "home/.local/share/scalems/sync.lock"),
    }


def test_hostile_files_of_a_project(scalems: Scalems):
    config = scalems.project / "resource-configs" / "local.toml"
    spec = scalems.project / "envs" / "pilot.toml"
    good = {path: path.read_text() for path in (config, spec)}
    names = ["../../../out", "$(touch out)", "a b", "x\\u0000", "\\u202e"]
    for text in (
        *(f'[localhost]\nextends = "{LABEL}"\npilot = "{name}"\n' for name in names),
        *(f'["{name}"]\nextends = "{LABEL}"\npilot = "pilot"\n' for name in names),
        *(f'[localhost]\nextends = "{name}"\npilot = "pilot"\n' for name in names),
        "[" * 3000,
        "a." * 3000 + "b = 1",
    ):
        config.write_text(text)
        done = scalems.run("env", "sync", "--resource", LABEL, "--dry-run", code=None)
        assert done.returncode in (ExitCode.USAGE, ExitCode.NOT_READY), text[:80]
        config.write_text(good[config])
    for line in (
        *(f'interpreter = "{name}"' for name in names),
        'interpreter = "/bin/sh -c id"',
        'dependencies = ["numpy @ file:///etc/passwd"]',
        'dependencies = ["--index-url=http://127.0.0.1/"]',
        'constraints = ["-r /etc/passwd"]',
        'python = "; import os"',
    ):
        spec.write_text(f'role = "pilot"\n{line}\n')
        done = scalems.run("env", "sync", "--resource", LABEL, "--dry-run", code=None)
        assert done.returncode in (ExitCode.USAGE, ExitCode.NOT_READY), line
    assert not list(scalems.home.parent.rglob("out"))


def test_a_state_that_names_other_folders_is_not_entered(scalems: Scalems):
    """What somebody wrote there is compared with manifests, and never run or removed."""
    outside = scalems.home.parent / "outside"
    (outside / "venv" / "bin").mkdir(parents=True)
    (outside / "venv" / "bin" / "python").write_text("#!/bin/sh\ntouch ran\n")
    (outside / "venv" / "bin" / "python").chmod(0o755)
    data = {**fuzz.STATE, "project": str(scalems.project)}
    data["envs"] = [{**fuzz.STATE["envs"][0], "folder": str(outside)}]
    for path in ("resources/local.localhost.json", "generations/local.localhost/1.json"):
        (scalems.root / path).parent.mkdir(parents=True, exist_ok=True)
        (scalems.root / path).write_text(json.dumps(data))
    (scalems.root / "builds").mkdir()
    scalems.run("env", "check", code=ExitCode.NOT_READY)
    scalems.run("env", "run", "pilot", "--", "true", code=ExitCode.NOT_READY)
    scalems.run("env", "gc", "--keep", "0")
    assert (outside / "venv" / "bin" / "python").exists()
    assert not list(scalems.home.parent.rglob("ran"))
