"""What Python compiles for builds is kept by content, and is what the source gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems import probe
from scalems.env import bytecode, codecache, fingerprint, modulecode
from scalems.env.engine import InstallError
from scalems.env.fingerprint import Entry

FACTS = probe.interpreter()
TAG = FACTS["cache_tag"]
MODULES = {
    "space/one/__init__.py": "import space.one.sub as sub\nVALUE = sub.f(1)\n",
    "space/one/sub.py": "def f(x):\n    return x + 1\n",
    "space/two/__init__.py": "",
    "space/two/template.py": "def {{ name }}(:\n",
    "plain/__init__.py": "# -*- coding: latin-1 -*-\nTEXT = '\xe4'\n",
    "other/__init__.py": "nobody asks for it\n",
}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return make_venv(tmp_path / "one" / "venv")


def make_venv(venv: Path) -> Path:
    site = venv / "lib" / "python3.11" / "site-packages"
    for path, text in MODULES.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(text.encode("latin-1"))
    return venv


def compiled(venv: Path, store: Path, python: str = sys.executable) -> dict[str, Entry]:
    entries = fingerprint.scan(venv)
    return codecache.compile_into(
        venv,
        codecache.units(venv, entries, ["space", "plain", "missing"]),
        entries,
        store=store,
        interpreter=Path(python),
        facts=FACTS,
        holding=os.open(os.devnull, os.O_RDONLY),
    )


def test_python_loads_what_was_compiled_and_it_is_of_its_source(venv: Path, tmp_path: Path):
    found = compiled(venv, tmp_path / "kept")
    assert sorted(path.partition("site-packages/")[2] for path in found) == [
        f"plain/__pycache__/__init__.{TAG}.pyc",
        f"space/one/__pycache__/__init__.{TAG}.pyc",
        f"space/one/__pycache__/sub.{TAG}.pyc",
        f"space/two/__pycache__/__init__.{TAG}.pyc",
    ]
    assert found == fingerprint.scan_compiled(venv)
    argv = {"tag": TAG, "python": sys.executable, "deep": True}
    assert list(bytecode.wrong(venv, sorted(found), **argv)) == []
    site = probe.site_packages(venv)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import space.one, plain; "
    code += "print(space.one.sub.f.__code__.co_filename, space.one.VALUE, plain.TEXT == chr(228))"
    done = subprocess.run(
        [sys.executable, "-v", "-B", "-c", code, site], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(site / "space/one/sub.py"), "2", "True"]
    assert f"code object from '{site}/space/one/__pycache__/sub.{TAG}.pyc'" in done.stderr


def test_the_same_package_is_compiled_once(venv: Path, tmp_path: Path):
    first = compiled(venv, tmp_path / "kept")
    another = make_venv(tmp_path / "two" / "venv")
    for path in another.rglob("*.py"):
        os.utime(path, (1e9, 1e9))  # another time
    second = compiled(another, tmp_path / "kept", python="/nowhere/python")
    assert second.keys() == first.keys()
    argv = {"tag": TAG, "python": sys.executable, "deep": True}
    assert list(bytecode.wrong(another, sorted(second), **argv)) == []
    (probe.site_packages(another) / "space/one/sub.py").write_text("def f(x):\n    return 0\n")
    with pytest.raises(InstallError, match="nowhere"):
        compiled(another, tmp_path / "kept", python="/nowhere/python")
    assert len(list((tmp_path / "kept").iterdir())) == 3
    compiled(another, tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 4  # the one package that has changed
    assert not (another.parent / "compiling").exists()


def test_what_is_damaged_is_compiled_again(venv: Path, tmp_path: Path):
    found = compiled(venv, tmp_path / "kept")
    for path in (tmp_path / "kept").iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    shutil.rmtree(venv)
    assert compiled(make_venv(venv), tmp_path / "kept").keys() == found.keys()
    assert all(codecache.read(path) for path in (tmp_path / "kept").iterdir())


def test_a_module_that_changes_meanwhile_is_not_kept(venv: Path, tmp_path: Path):
    entries = fingerprint.scan(venv)
    wanted = codecache.units(venv, entries, ["plain"])
    (probe.site_packages(venv) / "plain/__init__.py").write_text("changed = True\n")
    assert not codecache.compile_into(
        venv,
        wanted,
        entries,
        store=tmp_path / "kept",
        interpreter=Path(sys.executable),
        facts=FACTS,
        holding=os.open(os.devnull, os.O_RDONLY),
    )
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_was_not_used_for_long_is_found(venv: Path, tmp_path: Path):
    compiled(venv, tmp_path / "kept")
    old, *others = sorted((tmp_path / "kept").iterdir())
    os.utime(old, (1e9, 1e9))
    assert codecache.unused(tmp_path / "kept", since=2e9 - 1e9 + 1) == [old]
    assert codecache.unused(tmp_path / "none", since=2e9) == []
    compiled(venv, tmp_path / "kept")  # used
    assert codecache.unused(tmp_path / "kept", since=1e9 + 1) == []
    assert others


def test_a_folder_that_cannot_be_written_is_told_in_a_line(venv: Path, tmp_path: Path):
    job = tmp_path / "job"
    site = probe.site_packages(venv).relative_to(venv).as_posix()
    job.write_text(json.dumps({"key": [f"{site}/space/two", {}]}))
    argv = [sys.executable, "-I", "-S", modulecode.__file__, venv, job, tmp_path / "gone"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno 2] No such file or directory")
    assert "Traceback" not in done.stderr


PATHS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(PATHS, st.binary()), st.binary(min_size=4, max_size=4))
def test_what_is_packed_comes_back(code: dict[str, bytes], magic: bytes):
    found = codecache.unpack("a", modulecode.pack("a", code, magic))
    assert (found.code, found.magic) == (code, magic)


@given(st.dictionaries(PATHS, st.binary()), st.data())
def test_no_changed_byte_is_taken(code: dict[str, bytes], data: st.DataObject):
    packed = bytearray(modulecode.pack("a", code))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="not what was kept"):
        codecache.unpack("a", bytes(packed))


@given(st.binary())
def test_what_was_never_packed_is_refused(body: bytes):
    for data in (body, modulecode.checksum("a", body) + b"\n" + body):
        with pytest.raises(ValueError):  # noqa: PT011
            codecache.unpack("a", data)


def test_one_file_in_the_place_of_another_is_not_taken(venv: Path, tmp_path: Path):
    compiled(venv, tmp_path / "kept")
    one, two, *_ = (tmp_path / "kept").iterdir()
    one.write_bytes(two.read_bytes())
    assert codecache.read(one) is None
    assert codecache.read(two)
