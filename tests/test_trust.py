"""What is not trusted does not run; what is secret is not told; what is others' is not written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from homes import LABEL, REPO, Scalems, changed, debian, make_scalems, tree
from indexes import FolderIndex, with_index

from scalems.env import manifest
from scalems.env.engine import InstallError, choose
from scalems.errors import ExitCode
from scalems.host import files
from scalems.radical import spawn

SECRET = "hunter2-of-somebody"
SYNC = ("env", "sync", "--resource", LABEL)


# --- hashes -----------------------------------------------------------------------------------


def make_wheel(folder: Path, code: str) -> Path:
    """A wheel that runs code whenever the Python that it is installed in starts."""
    info = "tiny-1.0.dist-info"
    files = {
        "tiny.py": code,
        "tiny.pth": f"import os; {code}\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def make_sdist(folder: Path, code: str) -> Path:
    """A source distribution that runs code when it is built."""
    path = folder / "tiny-1.0.tar.gz"
    project = (
        '[project]\nname = "tiny"\nversion = "1.0"\n[build-system]\nrequires = []\n'
        'build-backend = "backend"\nbackend-path = ["."]\n'
    )
    backend = f"import os\n{code}\ndef build_wheel(*_): raise SystemExit(3)\n"
    files = {
        "pyproject.toml": project,
        "backend.py": backend,
        "setup.py": f"import os\n{code}\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"tiny-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("engine", ["uv", "pip"])
@pytest.mark.parametrize("make", [make_wheel, make_sdist])
def test_code_of_a_file_with_another_hash_never_runs(tmp_path, monkeypatch, make, engine: str):
    mark = tmp_path / "it-ran"
    files = tmp_path / "files"
    files.mkdir()
    file = make(files, f"os.close(os.open({str(mark)!r}, os.O_CREAT))")
    good = hashlib.sha256(file.read_bytes()).hexdigest()
    venv, wanted = tmp_path / "venv", tmp_path / "requirements.txt"
    chosen = choose(engine)
    with FolderIndex(files).serve() as url:
        set_index(monkeypatch, url, tmp_path)
        chosen.create(venv, interpreter=Path(sys.executable), holding=0)

        def install(digest: str) -> None:
            wanted.write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
            more = {"offline": False, "holding": 0, "on_line": None, "editables": []}
            chosen.install(venv, wanted, wheels=[], **more)

        with pytest.raises(InstallError, match="does not have the hash that the lock demands"):
            install("0" * 64)
        subprocess.run([venv / "bin" / "python", "-c", ""], check=True)
        assert not mark.exists()
        # With the right hash it does run: the code would have been found.
        with contextlib.suppress(InstallError):  # that backend gives up; pip wants a wheel too
            install(good)
        subprocess.run([venv / "bin" / "python", "-c", ""], check=True)
        assert mark.exists()


def set_index(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    for name in [n for n in os.environ if n.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "UV_DEFAULT_INDEX": url,
        "UV_CACHE_DIR": str(folder / "uv"),
        "UV_NO_CONFIG": "1",
        "PIP_INDEX_URL": url,
        "PIP_CACHE_DIR": str(folder / "pip"),
        "PIP_CONFIG_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


# --- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_the_password_of_an_index_is_used_and_neither_told_nor_kept(
    scalems: Scalems, tmp_path: Path, engine: str
):
    files = tmp_path / "files"
    files.mkdir()
    make_wheel(files, "pass")
    index = FolderIndex(files, user="somebody", password=SECRET)
    with index.serve() as url:
        made = with_index(scalems, url, tmp_path / "caches")
        spec = made.project / "envs" / "pilot.toml"
        spec.write_text('role = "pilot"\ndependencies = ["tiny", "nowhere>1"]\n')
        told = []
        for words in (
            ("env", "lock", "pilot", "--engine", engine),
            ("env", "lock", "pilot", "--engine", engine, "--verbose"),
            (*SYNC, "--engine", engine, "--json"),
        ):
            told.append(all_of(made, *words))
        shutil.copy(REPO / "envs" / "pilot.lock.txt", made.project / "envs")
        shutil.copy(REPO / "envs" / "pilot.toml", made.project / "envs")
        told.append(all_of(made, *SYNC, "--engine", engine, "--verbose"))
    assert index.let_in
    for text in told:
        assert "tiny" in text or "cloudpickle" in text or "certifi" in text or "pip-tools" in text
        assert SECRET not in text, text
    kept = [
        path
        for folder in (made.root, made.project, made.definition.parent)
        for path in folder.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert kept == []


def test_radical_pilot_which_writes_down_its_environment_gets_no_password(monkeypatch, tmp_path):
    plain = {"UV_INDEX_URL": "https://packages.example/simple", "MY_URL": f"ssh://me:{SECRET}@x"}
    secret = {
        "PIP_EXTRA_INDEX_URL": f"https://a.example/simple https://me:{SECRET}@b.example/simple",
        "UV_DEFAULT_INDEX": f"https://{SECRET}@b.example/simple",
        "UV_INDEX_LAB_PASSWORD": SECRET,
        "UV_PUBLISH_TOKEN": SECRET,
    }
    for name, value in {**plain, **secret}.items():
        monkeypatch.setenv(name, value)
    process, connection = spawn.start(Path(sys.executable), "scalems.none", tmp_path)
    with connection, process:
        given = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        process.kill()
    assert {f"{name}={value}" for name, value in plain.items()} <= set(given)
    assert not {line.partition("=")[0] for line in given} & secret.keys()


def all_of(made: Scalems, *words: str) -> str:
    """All that a command which must fail tells, tracebacks for those who ask included."""
    argv, env = made.argv(*words), made.env
    done = subprocess.run(
        argv, cwd=made.project, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.FAILED
    return done.stdout + done.stderr


# --- what is others' --------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def group(small_home: Scalems, tmp_path_factory: pytest.TempPathFactory):
    """The state folder of somebody else, as another user sees it."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can be somebody else")
    home = tmp_path_factory.mktemp("nobody")
    os.chown(home, NOBODY, NOBODY)
    opened = [small_home.root, *small_home.root.parents][: len(small_home.root.parts) - 2]
    modes = {path: path.stat().st_mode for path in (*opened, home.parent)}
    env = {**small_home.env, "HOME": str(home), "SCALEMS_HOME": str(small_home.root)}
    for path in modes:
        path.chmod(modes[path] | 0o055)
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # This Python may be in a home that is closed: let somebody else read all, and write nothing.
    argv += [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    try:
        if subprocess.run([*argv, sys.executable, "-c", "import scalems"], check=False).returncode:
            pytest.skip("nobody may run this Python")

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [*argv, *small_home.argv(*words)]
            return subprocess.run(
                command, env=env, cwd="/", capture_output=True, text=True, check=False
            )

        yield run
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.network
def test_builds_of_somebody_else_are_used_and_nothing_is_written_there(small_home, group):
    before = tree(small_home.root)
    done = group("env", "check", "--deep")
    assert done.returncode == ExitCode.NOT_READY, done.stderr
    assert "RP resource definition changed" in done.stdout
    assert f"scalems resource write {LABEL}" in done.stdout
    done = group("resource", "write", LABEL)
    assert done.returncode == 0, done.stderr
    for depth in ([], ["--fast"], ["--deep"]):
        done = group("env", "check", *depth)
        assert done.returncode == 0, done.stdout + done.stderr
    done = group("env", "run", "pilot", "--", "python", "-c", "import cloudpickle, idna.core")
    assert done.returncode == 0, done.stderr
    done = group(*SYNC, "--project", str(small_home.project))
    assert "Traceback" not in done.stderr
    assert changed(before, tree(small_home.root)) == []


CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<rest>.*)\) = [^-]")
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<path>[^"]*)"')


def written(line: str) -> list[str]:
    """The paths at which a system call has changed something."""
    call = CALL.match(line)
    if not call or (call["name"] == "openat" and not re.search("O_WRONLY|O_RDWR|O_CREAT", line)):
        return []
    named = [str(Path(one["folder"] or "/", one["path"])) for one in PATH.finditer(call["rest"])]
    return named[-1:] if "link" in call["name"] else named  # the former is where a link points


@pytest.mark.network
def test_a_sync_writes_to_its_own_places_only(tmp_path: Path):
    strace = debian("strace")
    # What is source only is built before: its tools name paths by their own folder, not from /.
    # In a cache of its own: tests that run beside this one spoil the caller's.
    cache = {"UV_CACHE_DIR": str(tmp_path / "cache")}
    make_scalems(tmp_path / "before").run(*SYNC, **cache)
    made = make_scalems(tmp_path)
    made.env.update(cache)
    (tmp_path / "tmp").mkdir()
    made.env["TMPDIR"] = str(tmp_path / "tmp")
    log = tmp_path / "log"
    calls = "openat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,symlink,symlinkat"
    calls += ",link,linkat,chmod,fchmodat,truncate"
    trace = [strace, "-f", "--seccomp-bpf", "-y", "-qqq", "-e", f"trace={calls}", "-o", str(log)]
    argv = [*trace, *made.argv(*SYNC)]
    done = subprocess.run(
        argv, cwd=made.project, env=made.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    allowed = [
        *(str(place) for place in (made.root, made.definition.parent, made.project / "envs")),
        *(str(tmp_path / "tmp"), "/dev/", "/proc/"),
        *(made.env.get(name, "/dev/") for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR")),
    ]
    paths = {
        path for line in log.read_text(errors="replace").splitlines() for path in written(line)
    }
    above = {str(path) for path in (*made.root.parents, *made.definition.parents)}
    assert len(paths) > 1000
    assert sorted(path for path in paths - above if not path.startswith(tuple(allowed))) == []


def test_a_private_folder_is_so_by_any_umask(tmp_path: Path):
    (tmp_path / "there").mkdir(mode=0o755)
    former = os.umask(0)
    try:
        files.make_private(tmp_path / "there" / "one" / "two")
        files.make_private(tmp_path / "there" / "one" / "two")
        with pytest.raises(FileExistsError):
            files.make_private(tmp_path / "there" / "one", exist_ok=False)
    finally:
        os.umask(former)
    modes = [(tmp_path / "there" / name).stat().st_mode & 0o777 for name in ("", "one", "one/two")]
    assert modes == [0o755, 0o700, 0o700]


@pytest.mark.network
def test_what_is_made_does_not_depend_on_the_umask(tmp_path: Path, small_home: Scalems):
    made = make_scalems(tmp_path)
    words = ["sh", "-c", 'umask 0; exec "$@"', "sh", *made.argv(*SYNC)]
    subprocess.run(words, cwd=made.project, env=made.env, check=True, capture_output=True)
    for folder in (made.root, made.root.parent, made.root.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (made.root / "backups").stat().st_mode & 0o777 == 0o700
    loose = [
        path
        for path in made.root.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]
    assert loose == []
    ours, theirs = (
        {
            path: entry.mode
            for path, entry in (manifest.read_files(folder, manifest.read(folder)) or {}).items()
            if "__pycache__" not in path
        }
        for folder in (made.build("pilot"), small_home.build("pilot"))
    )
    assert ours
    assert ours == theirs
