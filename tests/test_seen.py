"""What was seen to be in sync: taken while nothing has moved, and never when something has."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from homes import LABEL, Scalems
from hypothesis import given
from hypothesis import strategies as st

from scalems.env import seen
from scalems.env.seen import Look, Places

ANSWER = {"resource": LABEL, "envs": [{"name": "pilot"}]}
FILES = ("venv/a.py", "venv/lib/b.py", "venv/lib/c.so", "code/d.py", "code/in/e.py", "specs/f.toml")
MORE = ("venv/new.pth", "venv/lib/__pycache__/b.pyc", "code/new.py", "specs/new.toml")


def plant(root: Path) -> Places:
    """Write files of one size and time, and links; return them as places to look at."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name:20}")
        os.utime(root / name, ns=(10**18, 10**18))
    (root / "venv" / "python").symlink_to("a.py")
    (root / "specs" / "link.toml").symlink_to("f.toml")
    specs = root / "specs"
    return {
        "files": [str(specs), *map(str, sorted(specs.iterdir())), str(root / "not" / "there")],
        "venvs": [str(root / "venv")],
        "code": str(root / "code"),
    }


def wait(places: Places, scratch: Path) -> Look:
    """Look at places when the file system has come to another time than that of any of them."""
    while True:
        looked = seen.look(places)
        scratch.touch()
        if scratch.stat().st_ctime_ns > looked._newest:
            return looked


def edit(path: Path) -> None:
    """Change a byte, and nothing else that can be set back."""
    with path.open("r+b") as stream:
        stream.write(b"#")
    os.utime(path, ns=(10**18, 10**18))


def swap(path: Path) -> None:
    """Let two files of the same size and time change places."""
    other = path.with_name("f.toml" if path.name != "f.toml" else "link.toml")
    if not other.exists():
        shutil.copy2(path, other)
    path.rename(path.with_name("between"))
    other.rename(path)
    path.with_name("between").rename(other)


def renew(path: Path) -> None:
    """Put a file in its place that looks the same."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def into_link(path: Path) -> None:
    """Put a link in its place that leads to the same content."""
    path.rename(path.with_name("real"))
    path.symlink_to("real")


CHANGES: tuple[Callable[[Path], object], ...] = (
    *(edit, swap, renew, into_link),
    lambda path: path.write_text("longer than it was before"),
    lambda path: path.chmod(0o600),
    lambda path: path.unlink(),
    lambda path: path.rename(path.with_name("other")),
    lambda path: os.utime(path, ns=(10**18, 10**18 + 1)),
)


@given(st.sampled_from(FILES), st.sampled_from(CHANGES))
def test_any_change_of_a_file_is_seen(name, change):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        places = plant(root)
        before = wait(places, root / "scratch").hexdigest()
        (root / name).read_bytes()
        assert seen.look(places).hexdigest() == before
        change(root / name)
        with contextlib.suppress(OSError):  # no answer either
            assert seen.look(places).hexdigest() != before


@pytest.mark.parametrize("name", MORE)
def test_a_new_file_is_seen_wherever_it_matters(tmp_path: Path, name: str):
    places = plant(tmp_path)
    before = wait(places, tmp_path / "scratch").hexdigest()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert seen.look(places).hexdigest() != before


def test_links_are_seen_themselves_and_what_files_of_the_project_lead_to(tmp_path: Path):
    places = plant(tmp_path)
    before = wait(places, tmp_path / "scratch").hexdigest()
    (tmp_path / "venv" / "python").unlink()
    (tmp_path / "venv" / "python").symlink_to("b.py")
    now = seen.look(places).hexdigest()
    assert now != before
    Path(places["files"][-1]).parent.mkdir()
    Path(places["files"][-1]).write_text("")
    assert seen.look(places).hexdigest() != now


def test_where_python_has_compiled_scalems_and_the_lock_of_uv_do_not_count(tmp_path: Path):
    places = plant(tmp_path)
    before = seen.look(places).hexdigest()
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "d.pyc").write_text("x")
    (tmp_path / "venv" / ".lock").write_text("")
    assert seen.look(places).hexdigest() == before


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with an answer."""
    monkeypatch.setattr(seen, "_SETTLED", -3600.0)
    places = plant(tmp_path)
    seen.keep(tmp_path / "seen" / "x.json", tmp_path, ANSWER, seen.look(places), places)
    return tmp_path / "seen" / "x.json"


def test_an_answer_is_of_one_project_python_and_user(kept: Path, tmp_path: Path, monkeypatch):
    assert seen.recall(kept, tmp_path) == ANSWER
    assert seen.recall(kept, tmp_path / "venv") is None
    assert seen.recall(kept.with_name("other"), tmp_path) is None
    for name in seen.VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "/elsewhere")
            assert seen.recall(kept, tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, "/elsewhere"])
        assert seen.recall(kept, tmp_path) is None
    assert seen.recall(kept, tmp_path) == ANSWER
    edit(tmp_path / "code" / "d.py")
    assert seen.recall(kept, tmp_path) is None


@given(st.floats(0, 1, exclude_max=True), st.characters(codec="ascii"))
def test_a_file_that_was_changed_is_no_answer(part, char):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "_SETTLED", -3600.0)
        root = Path(folder)
        places = plant(root)
        seen.keep(root / "kept", root, ANSWER, seen.look(places), places)
        text = (root / "kept").read_text()
        place = int(part * len(text))
        (root / "kept").write_text(text[:place] + char + text[place + 1 :])
        assert seen.recall(root / "kept", root) == (ANSWER if char == text[place] else None)
        (root / "kept").write_text(text[:place])
        assert seen.recall(root / "kept", root) is None


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5), st.binary())
def test_what_is_no_answer_is_none(value, raw):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kept"
        fields = ("seal", "facts", "places", "digest", "answer")
        for content in (
            raw,
            json.dumps(value).encode(),
            json.dumps(dict.fromkeys(fields)).encode(),
        ):
            file.write_bytes(content)
            assert seen.recall(file, Path(folder)) is None


def test_a_time_that_is_none_is_no_answer(tmp_path: Path):
    places = plant(tmp_path)
    os.utime(tmp_path / "venv" / "a.py", ns=(0, 2**63))
    if (tmp_path / "venv" / "a.py").stat().st_mtime_ns >= 2**63:  # not all file systems keep it
        with pytest.raises(OSError, match="time"):
            seen.look(places)


def test_what_has_changed_just_now_is_not_kept(tmp_path: Path):
    places = plant(tmp_path)
    looked = seen.look(places)
    assert not looked.settled()
    seen.keep(tmp_path / "kept", tmp_path, ANSWER, looked, places)
    assert not (tmp_path / "kept").exists()


# --- with a real resource ---------------------------------------------------------------------


def synced(made: Scalems, *words: str) -> tuple[str, bool]:
    """Sync; return what it said, and whether it looked at everything for that."""
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            *made.argv("env", "sync", "--resource", LABEL, *words),
        ],
        cwd=made.project,
        env=made.env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, "scalems.env.check" in done.stderr


def until_seen(made: Scalems) -> None:
    """Sync until the answer is kept: once no file is new any more."""
    end = time.monotonic() + 60
    while synced(made)[1]:
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.network
def test_a_sync_looks_at_everything_again_when_anything_has_moved(small_home: Scalems):
    until_seen(small_home)
    said, looked = synced(small_home)
    assert said == f"{LABEL} is in sync (pilot); nothing to do\n"
    assert not looked
    assert synced(small_home, "--deep") == (said, True)
    (result,) = small_home.sync()["envs"]
    assert result["action"] == "unchanged"
    project, build = small_home.project, small_home.build("pilot")
    places = json.loads((small_home.root / "seen" / f"{LABEL}.json").read_text())["places"]
    assert set(places["files"]) >= {
        str(path)
        for path in (
            *(small_home.definition, project / "resource-configs" / "local.toml"),
            *(project / "envs").iterdir(),
            *(build / name for name in ("manifest.json", "files.json", "venv/bin/python")),
            *(small_home.root / "current" / LABEL / "pilot",),
            *(small_home.root / "resources" / f"{LABEL}.json",),
        )
    }
    assert places["venvs"] == [str(build / "venv")]
    site = next((build / "venv").glob("lib/python3*/site-packages"))
    for path in (project / "envs" / "pilot.toml", site / "radical" / "pilot" / "__init__.py"):
        until_seen(small_home)
        former, times = path.read_bytes(), path.stat()
        path.write_bytes(former + b"\n")
        said, looked = synced(small_home, "--dry-run")
        path.write_bytes(former)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert looked
        assert "nothing to do" not in said
