"""Compiled files, hooks and permissions: what runs is what was verified."""

from __future__ import annotations

import importlib.util
import marshal
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from homes import Scalems

from scalems import probe
from scalems.env import bytecode, check, fingerprint, manifest
from scalems.env.check import Depth

TAG = str(sys.implementation.cache_tag)
WRONG = "compiled file that is not of its source"


@pytest.fixture
def build(small_home: Scalems, tmp_path: Path) -> Path:
    """A copy of a build, file times and all, that a test may change."""
    source = small_home.build("pilot")
    return Path(shutil.copytree(source, tmp_path / source.name, symlinks=True))


def site(folder: Path) -> Path:
    return probe.site_packages(folder / "venv")


def found(folder: Path, depth: Depth) -> list[tuple[str, str]]:
    findings = check.inspect("pilot", folder, depth=depth)
    return [(one.kind, Path(one.subject.partition(" (")[0]).name) for one in findings]


def plant(source: Path, code: str, *, flags: int = 0) -> Path:
    """Make Python run something else than a source says."""
    status = source.stat()
    times = struct.pack("<II", int(status.st_mtime), status.st_size)
    if flags:
        times = importlib.util.source_hash(source.read_bytes() if flags == 3 else b"else")
    header = importlib.util.MAGIC_NUMBER + struct.pack("<I", flags) + times
    target = Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(header + marshal.dumps(compile(code, str(source), "exec")))
    return target


def runs(build: Path, module: str) -> str:
    argv = [build / "venv" / "bin" / "python", "-I", "-B", "-c", f"import {module}"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


@pytest.mark.network
@pytest.mark.parametrize(
    "name", ["cloudpickle/__init__.py", "typing_extensions.py", "idna/core.py"]
)
def test_code_under_a_good_header_is_found_by_a_deep_check(build: Path, name: str):
    source = site(build) / name
    target = plant(source, "print('stolen')")
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert runs(build, module) == "stolen\n"
    assert found(build, Depth.DEEP) == [(WRONG, target.name)]


@pytest.mark.network
def test_code_that_python_never_compares_with_its_source_is_found_by_each_check(build: Path):
    target = plant(site(build) / "idna" / "core.py", "print('stolen')", flags=1)
    assert runs(build, "idna.core") == "stolen\n"
    assert found(build, Depth.NORMAL) == [(WRONG, target.name)]
    target = plant(site(build) / "idna" / "core.py", "print('stolen')", flags=3)
    assert runs(build, "idna.core") == "stolen\n"
    assert found(build, Depth.DEEP) == [(WRONG, target.name)]


@pytest.mark.network
def test_code_without_a_source_is_found_at_every_launch(build: Path):
    plant(site(build) / "idna" / "core.py", "").replace(site(build) / "sitecustomize.pyc")
    assert found(build, Depth.FAST) == [("extra in site-packages", "sitecustomize.pyc")]


@pytest.mark.network
def test_code_without_a_source_in_a_package_is_found(build: Path):
    plant(site(build) / "idna" / "core.py", "").replace(site(build) / "idna" / "more.pyc")
    shutil.rmtree(site(build) / "idna" / "__pycache__", ignore_errors=True)
    assert found(build, Depth.NORMAL) == [("extra file", "more.pyc")]


@pytest.mark.network
def test_what_python_writes_itself_is_no_difference(build: Path):
    python = build / "venv" / "bin" / "python"
    here = site(build)
    shutil.rmtree(here / "cloudpickle" / "__pycache__")
    subprocess.run([python, "-I", "-c", "import cloudpickle, idna.core, rich.text"], check=False)
    for mode in ("checked-hash", "timestamp"):
        argv = ["-I", "-m", "compileall", "-qf", "-o", "1", "--invalidation-mode", mode]
        subprocess.run([python, *argv, here / "idna"], check=True)
    assert found(build, Depth.DEEP) == []


@pytest.mark.network
def test_a_file_that_brings_the_interpreter_down_is_named(build: Path):
    target = plant(site(build) / "idna" / "core.py", "")
    target.write_bytes(target.read_bytes()[:20])
    assert found(build, Depth.DEEP) == [(WRONG, target.name)]


@pytest.mark.network
def test_a_changed_hook_is_seen_at_every_launch(build: Path):
    hook = site(build) / "hook.pth"
    hook.write_text("")
    known = manifest.read(build)
    assert known
    top, records = fingerprint.top_level(build / "venv")
    manifest.write(build, replace(known, top_level=top, records=records))
    assert found(build, Depth.FAST) == []
    hook.write_text("import os\n")
    assert found(build, Depth.FAST) == [("changed hook in site-packages", hook.name)]


@pytest.mark.network
def test_permissions(build: Path):
    script = build / "venv" / "bin" / "radical-pilot-agent_0"
    for mode, kinds in (
        (0o755, []),
        (0o750, []),  # who shares a build decides who may read it
        (0o644, ["changed permissions"]),
        (0o775, ["changed permissions"]),
        (0o4755, ["changed permissions"]),
    ):
        script.chmod(mode)
        assert [kind for kind, _ in found(build, Depth.NORMAL)] == kinds, oct(mode)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("__pycache__/a.cpython-311.pyc", True),
        ("a/__pycache__/b.pyc", True),
        ("a/b.pyc", False),
        ("a/not__pycache__/b.pyc", False),
        ("a/__pycache__/b.py", False),
        ("__pycache__/a/b.pyc", False),
    ],
)
def test_where_python_keeps_what_it_compiled(path: str, expected: bool):
    assert bytecode.is_cached(path) is expected


def test_what_this_python_would_not_load_is_passed_over(tmp_path: Path):
    source = tmp_path / "a.py"
    source.write_text("x = 1\n")
    target = plant(source, "x = 2")
    path = f"__pycache__/{target.name}"

    def wrong() -> list[str]:
        return list(bytecode.wrong(tmp_path, [path], tag=TAG, python=sys.executable, deep=True))

    assert wrong() == [path]
    assert not list(bytecode.wrong(tmp_path, [path], tag="other-1", python="", deep=True))
    os.utime(source, (1, 1))
    assert wrong() == []
    source.unlink()
    assert wrong() == []
