"""The two engines: the same lock gives the same software, and nothing of the caller's gets in."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from homes import LABEL, Scalems, changed, debian, in_namespace, make_scalems, tree
from indexes import closed_index

from scalems import probe
from scalems.env import fingerprint, manifest
from scalems.env.engine import CHOICES, choose, explain
from scalems.errors import ExitCode, UsageError
from scalems.host.local import CommandFailed, Completed

SITE = Path(sysconfig.get_path("purelib"))
COMPILED_HERE = [f"netifaces{sysconfig.get_config_var('EXT_SUFFIX')}"]
"""Extension modules of packages that have no wheel."""


# --- the same from both -----------------------------------------------------------------------


def contents(made: Scalems) -> dict[str, str]:
    """What counts as content, but what a compiler makes, which may differ each time."""
    venv = made.build("pilot") / "venv"
    site = probe.site_packages(venv).relative_to(venv)
    compiled = {f"{site}/{path}" for path in COMPILED_HERE}
    entries = fingerprint.scan(venv)
    found = {
        path: entry.sha256
        for path, entry in entries.items()
        if path.startswith(f"{site}/")
        and path not in compiled
        and Path(path).name not in fingerprint.BOOKKEEPING
        and not Path(path).name.startswith("_virtualenv.")
    }
    assert compiled <= entries.keys()
    return found


@pytest.mark.network
@pytest.mark.slow
def test_both_engines_build_the_same_from_one_lock(scalems: Scalems, small_home: Scalems):
    scalems.sync("--engine", "pip")
    ours, theirs = (manifest.read(made.build("pilot")) for made in (scalems, small_home))
    assert ours.engine.startswith("virtualenv ")
    assert theirs.engine.startswith("uv ")
    assert ours.input_digest == theirs.input_digest
    assert ours.versions == theirs.versions
    assert contents(scalems) == contents(small_home)
    assert not {"pip", "setuptools", "wheel"} & (ours.versions.keys() - theirs.versions.keys())
    assert scalems.check("--deep")["ok"]
    # So it does not matter which engine the next sync has.
    before = tree(scalems.home, content=False)
    assert scalems.sync("--engine", "uv")["envs"][0]["action"] == "unchanged"
    after = changed(before, tree(scalems.home, content=False))
    assert [path for path in after if "scalems/seen" not in path] == []  # kept once all is settled


# --- nothing of the caller's ------------------------------------------------------------------


@pytest.mark.network
def test_a_venv_has_its_own_packages_and_no_others(small_home: Scalems):
    """The client has all that it needs and more; none of it can be imported in the venv."""
    venv = small_home.build("pilot") / "venv"
    theirs = probe.versions([SITE]).keys() - manifest.read(venv.parent).versions.keys()
    assert {"rich", "virtualenv", "uv", "pytest", "hypothesis"} <= theirs
    code = (
        "import importlib.util, sys\n"
        "print(*sys.path, sep='\\n')\n"
        "for name in ('rich', 'virtualenv', 'uv', 'pytest', 'hypothesis', 'pip', 'setuptools'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
    )
    done = subprocess.run(
        [venv / "bin" / "python", "-I", "-B", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    outside = [Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))]
    for line in filter(None, done.stdout.splitlines()):
        path = Path(line)
        assert path == probe.site_packages(venv) or any(path.is_relative_to(o) for o in outside)
        assert not path.is_relative_to(SITE)
    assert "include-system-site-packages = false" in (venv / "pyvenv.cfg").read_text()


HOOK = """
import os, sys
with open(os.environ["SEEN"], "a") as stream:
    stream.write(sys.prefix + "\\n")
"""


@pytest.mark.network
def test_settings_of_the_caller_do_not_get_in(
    scalems: Scalems, small_home: Scalems, tmp_path: Path
):
    """What people have in their environment, their home and their folder."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text(HOOK)
    (mine / "idna-99.dist-info").mkdir()
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    user = scalems.home / ".local" / "lib" / minor / "site-packages"
    shutil.copytree(mine, user)
    (user / "usercustomize.py").write_text(HOOK)
    (scalems.project / "uv.toml").write_text("not = [valid")
    (scalems.project / "pyproject.toml").write_text("not = [valid")
    (scalems.project / ".python-version").write_text("2.7\n")
    seen = tmp_path / "seen"
    seen.touch()
    scalems.run(
        *("env", "sync", "--resource", LABEL, "--frozen"),
        PYTHONPATH=str(mine),
        VIRTUAL_ENV="/nonexistent",
        PYTHONSTARTUP=str(mine / "sitecustomize.py"),
        SEEN=str(seen),
    )
    # The client is the user's own; what it starts is not.
    assert set(seen.read_text().split()) == {sys.prefix}
    ours, theirs = (manifest.read(made.build("pilot")) for made in (scalems, small_home))
    assert ours.versions == theirs.versions
    assert contents(scalems) == contents(small_home)


# --- the cache --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A synced home whose user has a cache that nobody else uses."""
    made = make_scalems(tmp_path_factory.mktemp("cached"))
    env = {**made.env, "UV_CACHE_DIR": str(made.home.parent / "cache")}
    made = dataclasses.replace(made, env=env)
    made.sync("--engine", "uv")
    return made


@pytest.mark.network
def test_offline_with_a_cache_needs_no_index(cached: Scalems):
    shutil.rmtree(cached.build("pilot"))
    nowhere = closed_index().removesuffix("/simple")
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere)
    proxies |= {name.lower(): url for name, url in proxies.items()}
    result = cached.sync("--offline", **proxies)
    assert [env["action"] for env in result["envs"]] == ["built"]
    assert cached.check("--deep")["ok"]


@pytest.mark.network
def test_a_file_that_somebody_changed_in_the_cache_does_not_get_in(cached: Scalems):
    """As one does who edits a file of a venv that uv has linked to its cache."""
    folder = cached.build("pilot")
    known = manifest.read(folder)
    cache = Path(cached.env["UV_CACHE_DIR"])
    (path,) = cache.glob("archive-*/*/cloudpickle/cloudpickle.py")
    body = path.read_bytes()
    path.write_bytes(b"#changed" + body[8:])
    shutil.rmtree(folder)
    done = cached.run("env", "sync", "--resource", LABEL)
    path.write_bytes(body)
    assert "uv's cache was changed (uv cache clean cloudpickle); again: cloudpickle" in done.stderr
    assert manifest.read(folder).content_digest == known.content_digest
    assert cached.check("--deep")["ok"]


ON_BTRFS = """
mount -o loop "$4" "$1" || exit 77
cp -a "$UV_CACHE_DIR" "$1/uv"
export UV_CACHE_DIR="$1/uv"
for build in one two; do
    SCALEMS_HOME="$1/$build" "$2" env sync --resource "$3" --offline -q || exit 1
done
file=$(cd "$1/one/builds" && find . -type f -path '*/zmq/backend/*' -name '*.so' | head -n 1)
sync
btrfs filesystem du --raw "$1/two/builds/$file" || exit 1
printf changed | dd of="$1/one/builds/$file" bs=1 seek=5000 conv=notrunc 2>/dev/null
for build in one two; do
    SCALEMS_HOME="$1/$build" "$2" env check --resource "$3" --deep --json
    echo "$build: $?"
done
"""


@pytest.mark.network
@pytest.mark.slow
def test_copies_share_blocks_where_the_file_system_can(cached: Scalems, tmp_path: Path):
    """On btrfs: equal files of builds take their space once, and a byte is changed in one only."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(512 << 20)
    subprocess.run([debian("mkfs.btrfs", "btrfs-progs"), "-q", image], check=True)
    scalems = cached.argv()[0]
    argv = ["bash", "-c", ON_BTRFS, "bash", str(place), scalems, LABEL, str(image)]
    done = in_namespace("true", argv, cached)
    if done.returncode == 77:
        pytest.skip(f"no loop device, or no btrfs: {done.stderr}")
    assert done.returncode == 0, done.stderr
    header, shared = done.stdout.splitlines()[:2]
    assert header.split() == ["Total", "Exclusive", "Set", "shared", "Filename"]
    assert shared.split()[1] == "0"
    assert f"one: {ExitCode.NOT_READY.value}" in done.stdout
    assert "two: 0" in done.stdout
    assert "changed file" in done.stdout


# --- which one --------------------------------------------------------------------------------

CHOSEN = """
import sys
from scalems.env.engine import choose
from scalems.errors import UsageError
try:
    print(choose(sys.argv[1]).name)
except UsageError as error:
    print(error)
"""


def chosen(name: str, *, path: str) -> str:
    """What is chosen by a Python that has scalems, but no uv beside itself."""
    python = Path(getattr(sys, "_base_executable", sys.executable))
    if python.with_name("uv").exists() or sys.prefix == sys.base_prefix:
        pytest.skip("the Python below has a uv of its own")
    paths = [str(Path(__file__).parent.parent), str(SITE)]
    return subprocess.run(
        [python, "-B", "-c", CHOSEN, name],
        env={"PATH": path, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_auto_is_uv_where_it_is_there(tmp_path):
    assert choose().name == choose("auto").name == choose("uv").name == "uv"
    assert choose("pip").name == "pip"
    uv = shutil.which("uv", path=sysconfig.get_path("scripts"))
    (tmp_path / "uv").symlink_to(uv)
    assert chosen("auto", path=str(tmp_path)) == "uv"
    assert chosen("auto", path="/nonexistent") == "pip"
    assert chosen("pip", path=str(tmp_path)) == "pip"
    assert "pip install uv, or use --engine pip" in chosen("uv", path="/nonexistent")


def test_an_unknown_engine_gets_near_names(scalems: Scalems):
    assert CHOICES == ("auto", "uv", "pip")
    with pytest.raises(UsageError, match="did you mean 'pip'") as caught:
        choose("pipp")
    assert caught.value.remedy == "choose one of: auto, uv, pip"
    done = scalems.run("env", "lock", "--engine", "conda", code=ExitCode.USAGE)
    assert "invalid choice: 'conda'" in done.stderr


@pytest.mark.parametrize("name", ["uv", "pip"])
def test_an_engine_says_what_it_is(name):
    words = choose(name).version().replace(",", "").split()
    assert (
        dict(zip(words[::2], words[1::2], strict=True)).keys()
        == {
            "uv": {"uv"},
            "pip": {"virtualenv", "pip-tools", "pip"},
        }[name]
    )


# --- what they say when they fail -------------------------------------------------------------


def explained(stderr: str, stdout: str = "") -> tuple[str, str | None]:
    done = Completed(argv=("tool",), returncode=1, stdout=stdout, stderr=stderr)
    return explain(CommandFailed("tool failed", completed=done), doing="working")


def test_of_much_that_a_tool_says_the_beginning_and_the_end_are_shown():
    cause, _ = explained("".join(f"line {number}\n" for number in range(100)))
    lines = [line.strip() for line in cause.splitlines()]
    assert lines[1] == "line 0"
    assert lines[-1] == "line 99"
    assert f"... {100 - (len(lines) - 2)} more lines" in lines


def test_a_traceback_of_a_tool_does_not_hide_what_it_said():
    traceback = "Traceback (most recent call last):\n" + '  File "x", line 1\n    y()\n' * 30
    cause, _ = explained(f"ERROR: the reason\n{traceback}ValueError: no\n", "Collecting things\n")
    assert cause == "failed while working:\n    ERROR: the reason"


def test_what_a_tool_said_on_the_wrong_stream_is_shown():
    assert explained("", "the reason\n")[0].endswith("\n    the reason")
    assert explained("", "")[0].endswith("tool failed")


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/simple", "http://secret@host:80/x", "git+ssh://u:secret@h/r"]
)
def test_no_password_is_shown(url):
    cause, _ = explained(f"looked at {url}, {url}\n")
    assert "secret" not in cause
    assert "***@h" in cause
