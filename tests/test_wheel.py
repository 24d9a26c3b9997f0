"""The wheel that scalems makes of itself: exactly the code that runs, and a wheel to everybody."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from homes import REPO, Scalems, changed, tree

from scalems import probe
from scalems.env import wheel


def copy_package(folder: Path, *, mtime: int = 10**18) -> Path:
    """Copy the package of this checkout, with other times."""
    shutil.copytree(
        REPO / "scalems", folder / "scalems", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path in (folder / "scalems").rglob("*"):
        os.utime(path, ns=(mtime, mtime))
    return folder


def run_in(folder: Path, code: str, *words: str | Path) -> str:
    """Run code with the package of a folder; installed is that of this checkout."""
    return subprocess.run(
        [sys.executable, "-B", "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


PACK = (
    "import sys\n"
    "from pathlib import Path\n"
    "from scalems.env import wheel\n"
    "print(wheel.pack(Path(sys.argv[1])))"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.pack(tmp_path_factory.mktemp("wheels"))


def test_the_same_files_give_the_same_bytes_wherever_they_are(tmp_path, packed):
    for place, mtime in (("a", 10**18), ("b/deeper", 5 * 10**17)):
        folder = copy_package(tmp_path / place, mtime=mtime)
        made = Path(run_in(folder, PACK, tmp_path / place / "wheels"))
        assert made.read_bytes() == packed.read_bytes()
        assert made.relative_to(tmp_path / place / "wheels") == packed.relative_to(
            packed.parent.parent
        )


def test_a_wheel_that_is_there_is_left_alone(packed):
    before = tree(packed.parent.parent)
    assert wheel.pack(packed.parent.parent) == packed
    assert changed(before, tree(packed.parent.parent)) == []


def test_it_holds_the_package_and_says_so(packed):
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        contents = {name: archive.read(name) for name in archive.namelist()}
    (record,) = (name for name in contents if name.endswith(".dist-info/RECORD"))
    rows = list(csv.reader(io.StringIO(contents[record].decode())))
    assert sorted(row[0] for row in rows) == sorted(contents)
    for name, hashed, size in rows:
        if name == record:
            assert (hashed, size) == ("", "")
            continue
        value = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest())
        assert hashed == "sha256=" + value.rstrip(b"=").decode()
        assert int(size) == len(contents[name])
    own = {name: body for name, body in contents.items() if name.startswith("scalems/")}
    on_disk = {
        path.relative_to(REPO).as_posix(): path.read_bytes()
        for path in (REPO / "scalems").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert own == on_disk
    assert {"scalems/py.typed", "scalems/env/spec.schema.json"} <= own.keys()


def test_it_asks_for_what_the_far_side_needs_only(packed):
    with zipfile.ZipFile(packed) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = BytesParser().parsebytes(archive.read(name))
    assert metadata["Name"] == "scalems"
    assert metadata["Version"] == wheel.version()
    assert packed.name == f"scalems-{wheel.version()}-py3-none-any.whl"
    assert metadata.get_all("Requires-Dist") == ["cloudpickle", "radical-pilot"]


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_it_installs_and_runs(tmp_path, packed, installer):
    venv = tmp_path / "venv"
    made = [sys.executable, "-m", "uv", "venv", "--quiet", "--no-config", "--offline"]
    subprocess.run([*made, "--python", sys.executable, venv], check=True)
    python = venv / "bin" / "python"
    words = {
        "uv": ["uv", "pip", "install", "--quiet", "--offline", "--python", python],
        "pip": ["pip", "--python", python, "install", "--quiet", "--no-index"],
    }
    install = [sys.executable, "-m", *words[installer], "--no-deps", packed]
    subprocess.run(install, cwd=tmp_path, check=True)
    site = probe.site_packages(venv)
    with zipfile.ZipFile(packed) as archive:
        for name in archive.namelist():
            if name.startswith("scalems/"):
                assert (site / name).read_bytes() == archive.read(name)
    isolated = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([venv / "bin" / "scalems", "--help"], **isolated)
    assert "scalems env sync" in done.stdout
    # What was installed is the same code, to the client and to the Worker that reports it.
    code = "from scalems.env import wheel; print(wheel.source_digest(), wheel.version())"
    done = subprocess.run([python, "-I", "-c", code], **isolated)
    assert done.stdout.split() == [wheel.source_digest(), wheel.version()]


CHANGES = """
import json
from pathlib import Path
from scalems.env import wheel

root = Path.cwd()
digests = {"": wheel.source_digest()}
for name in wheel.source_files():
    path = root / name
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]) if body else b"x")
    digests[name] = wheel.source_digest()
    path.write_bytes(body)
(root / "scalems" / "more.py").write_text("")
digests["another file"] = wheel.source_digest()
(root / "scalems" / "more.py").rename(root / "scalems" / "mare.py")
digests["another name"] = wheel.source_digest()
(root / "scalems" / "mare.py").unlink()
(root / "scalems" / "py.typed").unlink()
digests["no such file"] = wheel.source_digest()
print(json.dumps(digests))
"""


def test_one_byte_of_one_file_makes_it_another(tmp_path):
    folder = copy_package(tmp_path)
    digests = json.loads(run_in(folder, CHANGES))
    assert digests[""] == wheel.source_digest()
    assert digests.keys() > wheel.source_files().keys()
    assert len(set(digests.values())) == len(digests) == len(wheel.source_files()) + 4


DIGESTS = """
import json, os
from pathlib import Path
from scalems.env import own, wheel

root = Path.cwd() / "scalems"
counted = []
real = wheel.source_digest
wheel.source_digest = lambda *args: counted.append(1) or real(*args)
found = []

def ask():
    found.append([own.source_digest("1", keep=True), len(counted)])

ask(); ask()                       # files that are new may change again unseen: not kept
own._SETTLED = -60.0
ask(); ask()                       # from here on they are taken to be old enough
path = root / "probe.py"
before = path.stat()
path.write_bytes(path.read_bytes().replace(b"read from its", b"read from itz"))
os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
assert path.stat().st_size == before.st_size
ask()                              # same size and time, set back by hand
(root / "cli" / "more.py").write_text("")
ask()
next(Path(os.environ["SCALEMS_HOME"]).glob("own/*")).write_text("{")
ask(); ask()
print(json.dumps(found))
"""


def test_the_digest_is_computed_once_for_given_files(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("SCALEMS_HOME", str(tmp_path / "home"))
    digests, counted = zip(*json.loads(run_in(copy_package(tmp_path), DIGESTS)), strict=True)
    assert counted == (1, 2, 3, 3, 4, 5, 6, 6)
    assert digests[0] == digests[1] == digests[2] == digests[3]
    assert len({digests[0], digests[4], digests[5]}) == 3
    assert digests[5] == digests[6] == digests[7]


def test_a_folder_that_is_not_there_is_not_made_for_the_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEMS_HOME", str(tmp_path / "none"))
    run_in(copy_package(tmp_path), "from scalems.env import own\nprint(own.source_digest('1'))")
    assert not (tmp_path / "none").exists()


def test_another_byte_makes_another_wheel(tmp_path, packed):
    folder = copy_package(tmp_path / "changed")
    with (folder / "scalems" / "probe.py").open("a") as stream:
        stream.write("#")
    made = Path(run_in(folder, PACK, tmp_path / "wheels"))
    assert made.name == packed.name
    assert made.parent.name != packed.parent.name


def test_what_python_caches_is_no_change(tmp_path, packed):
    folder = copy_package(tmp_path / "used")
    compiled = [sys.executable, "-m", "compileall", "-qq", folder / "scalems" / "env"]
    subprocess.run(compiled, check=True)
    subprocess.run([*compiled, "-b"], check=True)
    assert list(folder.rglob("*.pyc"))
    made = Path(run_in(folder, PACK, tmp_path / "wheels"))
    assert made.read_bytes() == packed.read_bytes()


def test_a_package_that_is_not_installed_says_how_to(tmp_path):
    folder = copy_package(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from scalems.env import wheel\n"
        "try: wheel.version()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    # Without site-packages: nothing is installed there.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, folder],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("EnvironmentNotReady scalems is imported from a folder")
    assert "pip install -e" in done.stdout


@pytest.mark.network
def test_a_venv_with_it_has_all_that_it_asks_for(small_home: Scalems):
    python = small_home.build("pilot") / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "uv", "pip", "check", "--python", python], check=True)
    code = "import importlib.metadata as m; print(*m.requires('scalems'))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(wheel.FAR_SIDE)
