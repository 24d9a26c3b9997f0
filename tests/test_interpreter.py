"""A Python that a bundle takes along, and what a machine without Python does with it."""

from __future__ import annotations

import io
import platform
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scalems import probe
from scalems.env import bundlefile, interpreter, tag
from scalems.env.bundlefile import Damaged, Part
from scalems.env.interpreter import Packed
from scalems.errors import UsageError

HERE = tag.of(probe.interpreter())


@pytest.fixture(scope="module")
def packed() -> Packed:
    try:
        return interpreter.pack("", [HERE])
    except UsageError as error:
        pytest.skip(f"the Python of these tests cannot be moved: {error.cause}")


def archive(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size, entry.mode = len(text), 0o755
            made.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


FAKE = archive(**{"python__bin__python3.99": '#!/bin/sh\nshift 2\necho "ran with $*"\n'})


def bundle(path: Path, data: bytes = FAKE) -> Path:
    files = {"python/cpython-3.99.1.tar.gz": data, "project/envs/a.toml": b"role = 1\n"}
    parts = {
        Part(name, len(data), bundlefile.hashlib.sha256(data).hexdigest()): data
        for name, data in files.items()
    }
    with path.open("wb") as stream:
        about = {"resource": "local.localhost", "targets": [str(HERE)], "scalems": "0"}
        bundlefile.write(stream, about, parts, lambda done, total: None)
    return path


def run(path: Path, *words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a bundle as one does without Python."""
    done = subprocess.run(
        ["sh", str(path), *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_it_is_unpacked_once_and_runs_the_bundle(tmp_path):
    path = bundle(tmp_path / "a b.pyz")
    assert bundlefile.read(path).text("project/envs/a.toml") == "role = 1\n"
    done = run(path, "--venv", "two words", folder=tmp_path)
    assert done.stdout == "ran with --venv two words\n"
    assert "unpacking Python 3.99.1" in done.stderr
    pythons = tmp_path / ".local/share/scalems/pythons"
    (python,) = pythons.iterdir()
    assert pythons.stat().st_mode & 0o077 == 0
    assert run(path, "--help", folder=tmp_path).stderr == ""
    assert list(pythons.iterdir()) == [python]


def test_nothing_runs_of_a_bundle_that_was_changed(tmp_path):
    path = bundle(tmp_path / "a.pyz")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as made:
        entry = made.getinfo("python/cpython-3.99.1.tar.gz")
    at = entry.header_offset + 30 + len(entry.filename) + 20
    data[at] ^= 1
    for content in (bytes(data), path.read_bytes()[:at]):
        path.write_bytes(content)
        done = run(path, folder=tmp_path, code=1)
        assert "is truncated or was changed; nothing of it was used" in done.stderr
        assert list((tmp_path / ".local/share/scalems/pythons").iterdir()) == []
        with pytest.raises(Damaged):
            bundlefile.read(path)


@given(st.integers(0, 200), st.binary(max_size=3))
@example(0, b"#")
def test_what_is_before_the_archive_is_verified_too(tmp_path_factory, at, more):
    path = bundle(tmp_path_factory.mktemp("b") / "a.pyz")
    text = path.read_bytes()
    changed = text[:at] + more + text[at + len(more) :]
    path.write_bytes(changed)
    if changed == text:
        bundlefile.read(path)
        return
    with pytest.raises(Damaged, match="its beginning: it was changed"):
        bundlefile.read(path)


def test_the_clients_python_runs_from_any_folder(packed: Packed, tmp_path):
    assert packed.version == platform.python_version()
    assert packed.libraries is not None
    assert not [name for name in packed.libraries if "libpython" in name]
    path = tmp_path / "python.tar.gz"
    path.write_bytes(packed.data)
    with tarfile.open(path) as made:
        assert all(name.startswith("python/") for name in made.getnames())
        made.extractall(tmp_path)
    python = tmp_path / "python" / "bin" / "python3"
    venv = tmp_path / "venv"
    clean = {"PATH": "/usr/bin:/bin"}
    subprocess.run([python, "-I", "-m", "venv", "--without-pip", venv], env=clean, check=True)
    code = "import sys, ssl; print(sys.base_prefix)"
    argv = [venv / "bin" / "python", "-I", "-c", code]
    done = subprocess.run(argv, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str((tmp_path / "python").resolve())
    # An archive is taken as it is.
    assert interpreter.pack(str(path), [HERE]) == packed


@pytest.mark.parametrize("given", ["/nowhere", "/etc/hosts", "/etc"])
def test_what_is_no_python_is_refused(given):
    with pytest.raises(UsageError, match="is no Python") as error:
        interpreter.pack(given, [HERE])
    assert error.value.remedy


def test_archives_of_anything_else_are_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    minor = f"python3.{sys.version_info[1]}"
    for files, told in (
        ({f"other__bin__{minor}": ""}, "is no archive of a Python"),
        ({f"python__bin__{minor}": "", "..__evil": ""}, "is no archive of a Python"),
        ({f"python__bin__{minor}": "#!/bin/sh\nexit 3\n"}, "does not run from another folder"),
        ({"python__bin__python3.9": ""}, "is Python 3.9, but the bundle is for"),
    ):
        path.write_bytes(archive(**files))
        with pytest.raises(UsageError, match=told):
            interpreter.pack(str(path), [HERE])
    path.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(UsageError, match="is no archive"):
        interpreter.pack(str(path), [HERE])


def test_a_python_for_another_machine_is_taken_as_an_archive_only(tmp_path):
    other = "aarch64" if HERE.cpu == "x86_64" else "x86_64"
    there = tag.parse(f"{HERE.abi}-manylinux_2_28_{other}")
    with pytest.raises(UsageError, match="does not run on"):
        interpreter.pack("", [there])
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive(**{f"python__bin__python{HERE.python}": ""}))
    assert interpreter.pack(str(path), [there]).libraries is None


def test_a_bundle_that_is_interrupted_leaves_no_half_of_a_python(tmp_path):
    path = bundle(tmp_path / "a.pyz")
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "tar").write_text("#!/bin/sh\nkill -TERM $PPID; sleep 0.2\n")
    (slow / "tar").chmod(0o755)
    done = subprocess.run(
        ["sh", str(path)],
        env={"PATH": f"{slow}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode in (130, -signal.SIGTERM)
    assert list((tmp_path / ".local/share/scalems/pythons").iterdir()) == []
