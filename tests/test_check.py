"""What `env check` finds in a build that somebody changed, and that `env sync` mends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from homes import LABEL, Scalems, changed, in_namespace, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from scalems import probe
from scalems.env import check, fingerprint, manifest
from scalems.env.check import Depth
from scalems.errors import ExitCode

pytestmark = pytest.mark.network


def other_python() -> Path | None:
    """Find a Python of another minor version, on the path or beside the one that runs this."""
    for minor in sorted({10, 11, 12, 13} - {sys.version_info.minor}, reverse=True):
        name = f"python3.{minor}"
        beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}"))
        for place in [shutil.which(name), *beside]:
            # A shim may be on the path with no Python behind it.
            if place and not subprocess.run([place, "-c", ""], capture_output=True).returncode:
                return Path(place)
    return None


@pytest.fixture
def build(small_home: Scalems, tmp_path: Path) -> Path:
    """A copy of a build, file times and all, that a test may change."""
    source = small_home.build("pilot")
    return Path(shutil.copytree(source, tmp_path / source.name, symlinks=True))


def found(folder: Path, depth: Depth = Depth.NORMAL) -> list[tuple[str, str]]:
    return [(one.kind, one.subject) for one in check.inspect("pilot", folder, depth=depth)]


def site(folder: Path) -> Path:
    return probe.site_packages(folder / "venv")


def module_of(folder: Path) -> Path:
    return site(folder) / "cloudpickle" / "cloudpickle.py"


def label_of(folder: Path, path: Path, owner: str = "") -> str:
    return str(path.relative_to(folder / "venv")) + (f" ({owner})" if owner else "")


def make_wheel(folder: Path, version: str = "1.0") -> Path:
    """Write a small wheel by hand."""
    info = f"handmade-{version}.dist-info"
    files = {
        "handmade.py": "x = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: handmade\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"handmade.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    path = folder / f"handmade-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def uv_pip(folder: Path, *words: str | Path) -> None:
    """Do with a build's venv what no user should."""
    python = str(folder / "venv" / "bin" / "python")
    words = (words[0], "--python", python, "--offline", *words[1:])
    subprocess.run([sys.executable, "-m", "uv", "pip", *words], check=True, capture_output=True)


# --- each difference has its name -----------------------------------------------------------


def test_a_copy_with_its_times_is_good(build):
    for depth in Depth:
        assert found(build, depth) == []


def test_no_build_at_all(build):
    shutil.rmtree(build)
    assert found(build) == [("missing build", str(build))]


def test_an_extra_distribution(build, tmp_path):
    uv_pip(build, "install", make_wheel(tmp_path))
    expected = [("extra distribution", "handmade"), ("extra in site-packages", "handmade.py")]
    assert found(build, Depth.FAST) == expected
    assert found(build) == expected


def test_a_missing_distribution(build):
    uv_pip(build, "uninstall", "msgpack")
    expected = [("missing distribution", "msgpack"), ("missing in site-packages", "msgpack")]
    assert found(build, Depth.FAST) == expected
    assert found(build, Depth.DEEP) == expected


def test_a_changed_version(build):
    (info,) = site(build).glob("cloudpickle-*.dist-info")
    info.rename(info.with_name("cloudpickle-0.1.dist-info"))
    (one,) = check.inspect("pilot", build, depth=Depth.FAST)
    assert (one.kind, one.subject) == ("changed version of distribution", "cloudpickle")
    assert (one.expected, one.found) == (info.name.split("-")[1].removesuffix(".dist"), "0.1")
    assert found(build) == [("changed version of distribution", "cloudpickle")]


def test_a_distribution_that_was_installed_again(build):
    (record,) = site(build).glob("cloudpickle-*.dist-info/RECORD")
    os.utime(record)
    assert found(build, Depth.FAST) == [("reinstalled distribution", "cloudpickle")]
    module_of(build).write_text("")
    assert ("changed file", label_of(build, module_of(build), "cloudpickle")) in found(build)


def test_a_changed_file_with_the_distribution_that_it_belongs_to(build):
    with module_of(build).open("a") as stream:
        stream.write("# mine\n")
    assert found(build, Depth.FAST) == []
    expected = [("changed file", label_of(build, module_of(build), "cloudpickle"))]
    assert found(build) == expected
    assert found(build, Depth.DEEP) == expected


def test_a_file_with_its_size_and_time_restored_is_found_by_a_deep_check_only(build):
    path = module_of(build)
    before = path.stat()
    body = path.read_bytes()
    path.write_bytes(body.swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(build) == []
    assert found(build, Depth.DEEP) == [("changed file", label_of(build, path, "cloudpickle"))]


def test_a_file_that_was_only_touched_is_the_same(build):
    os.utime(module_of(build))
    assert found(build) == []


def test_a_missing_and_an_extra_file(build):
    extra = site(build) / "cloudpickle" / "mine.py"
    extra.write_text("")
    index = site(build) / "cloudpickle" / "__pycache__" / "mine.f-1.py311.nbi"
    index.write_text("")
    module_of(build).unlink()
    assert found(build, Depth.FAST) == []
    assert found(build) == [
        ("missing file", label_of(build, module_of(build), "cloudpickle")),
        ("extra file", label_of(build, extra)),
        ("machine code that numba kept", label_of(build, index)),
    ]


def test_an_extra_module_and_a_hook_are_seen_at_every_launch(build):
    for name in ("numpy.py", "hook.pth", "sitecustomize.py"):
        (site(build) / name).write_text("")
    extra = [("extra in site-packages", n) for n in ("hook.pth", "numpy.py", "sitecustomize.py")]
    assert found(build, Depth.FAST) == extra


def test_a_file_in_place_of_a_link_and_a_link_in_place_of_a_file(build, tmp_path):
    path = module_of(build)
    kept = tmp_path / "elsewhere.py"
    shutil.copy2(path, kept)
    path.unlink()
    path.symlink_to(kept)
    assert found(build) == [("changed file", label_of(build, path, "cloudpickle"))]


def test_a_script_that_was_changed(build):
    path = build / "venv" / "bin" / "radical-pilot-agent_0"
    assert path.is_file()
    path.write_text("#!/bin/sh\n")
    assert found(build) == [("changed file", label_of(build, path, "radical-pilot"))]


@pytest.mark.parametrize("name", fingerprint.ENTRANCES)
def test_what_decides_what_is_seen_in_a_venv_is_looked_at_in_every_launch(build, name):
    path = build / "venv" / name
    text = path.read_text()
    path.write_text(text.replace("= false", "= true") + "# more\n")
    for depth in Depth:
        assert found(build, depth) == [("changed file", name)]
    path.unlink()
    for depth in Depth:
        assert found(build, depth) == [("missing file", name)]


def test_what_python_caches_is_no_difference(build):
    python = build / "venv" / "bin" / "python"
    for folder in (site(build), site(build) / "radical" / "pilot"):
        subprocess.run([python, "-I", "-m", "compileall", "-qf", folder], check=True)
    for depth in Depth:
        assert found(build, depth) == []


def test_a_broken_link(build):
    python = build / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3.11")
    assert found(build, Depth.FAST) == [("broken link", "venv/bin/python")]
    python.unlink()
    assert found(build, Depth.FAST) == [("missing interpreter", "venv/bin/python")]


def test_a_link_that_leads_to_itself(build):
    python = build / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("python")
    assert found(build, Depth.FAST) == [("broken link", "venv/bin/python")]


def relink(folder: Path, target: Path) -> None:
    python = folder / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(target)


def test_a_moved_interpreter(build, tmp_path):
    real = (build / "venv" / "bin" / "python").resolve()
    copy = Path(shutil.copy2(real, tmp_path / real.name))
    relink(build, copy)
    assert ("moved interpreter", "venv/bin/python") in found(build, Depth.FAST)


def test_an_interpreter_that_does_not_run(build, tmp_path):
    broken = tmp_path / "python3"
    broken.write_text("no program")
    broken.chmod(0o755)
    relink(build, broken)
    kinds = [kind for kind, _ in found(build, Depth.FAST)]
    assert kinds == ["moved interpreter", "broken interpreter"]


def test_a_changed_minor_version_of_python(build):
    other = other_python()
    if other is None:
        pytest.skip("there is no second Python on this machine")
    relink(build, other)
    kinds = [kind for kind, _ in found(build, Depth.FAST)]
    assert kinds == ["moved interpreter", "Python minor version changed"]


@pytest.mark.parametrize("name", ["manifest.json", "files.json", "venv/pyvenv.cfg"])
def test_a_removed_file_of_the_build(build, name):
    (build / name).unlink()
    expected = {
        "manifest.json": ("build was never verified", str(build)),
        "files.json": ("changed file", "files.json"),
        "venv/pyvenv.cfg": ("missing file", "pyvenv.cfg"),
    }
    assert found(build) == [expected[name]]


@pytest.mark.parametrize(
    "key", ["content_digest", "versions", "created", "files_sha256", "interpreter", "python_stat"]
)
def test_an_edited_manifest_is_not_believed(build, key):
    path = build / "manifest.json"
    data = json.loads(path.read_text())
    data[key] = {"a": "b"} if isinstance(data[key], dict) else "edited"
    path.write_text(json.dumps(data))
    assert manifest.read(build) is None
    assert found(build, Depth.FAST) == [("changed manifest", str(build))]


def test_an_edited_table_of_files_is_not_believed(build):
    path = build / "files.json"
    data = json.loads(path.read_text())
    module = label_of(build, module_of(build))
    module_of(build).write_text("")
    status = module_of(build).stat()
    data[module] = [status.st_size, status.st_mtime_ns, "e3b0c44298fc1c149afbf4c8996fb924"]
    path.write_text(json.dumps(data, separators=(",", ":")))
    assert found(build) == [("changed file", "files.json")]


def test_a_manifest_of_another_build_is_not_believed(build):
    moved = build.rename(build.with_name("pilot-0123456789abcdef"))
    assert manifest.read(moved) is None


json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=40)
def test_any_manifest_is_read_or_not_believed(tmp_path_factory, raw):
    folder = tmp_path_factory.getbasetemp() / "pilot-0000000000000000"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(raw)
    assert manifest.read(folder) is None
    assert found(folder) == [("changed manifest", str(folder))]


# --- the command, which names and mends ------------------------------------------------------


def break_link(folder: Path) -> None:
    relink(folder, Path("/nonexistent/python"))


def rewrite(path: Path, body: bytes) -> None:
    """Change a file, but not the installer's cache, which it may be a hard link into."""
    path.unlink()
    path.write_bytes(body)


def edit_file(folder: Path) -> None:
    rewrite(module_of(folder), module_of(folder).read_bytes() + b"# mine\n")


def edit_file_in_secret(folder: Path) -> None:
    before = module_of(folder).stat()
    rewrite(module_of(folder), module_of(folder).read_bytes().swapcase())
    os.utime(module_of(folder), ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_distribution(folder: Path) -> None:
    uv_pip(folder, "uninstall", "msgpack")


def add_module(folder: Path) -> None:
    (site(folder) / "cloudpickle" / "extra.py").write_text("")


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def edit_table(folder: Path) -> None:
    (folder / "files.json").write_text("{}")


def remove_build(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_site_packages(folder: Path) -> None:
    shutil.rmtree(site(folder))


@pytest.mark.parametrize(
    ("change", "kind", "depth"),
    [
        (break_link, "broken link", "--fast"),
        (remove_distribution, "missing distribution", "--fast"),
        (remove_manifest, "build was never verified", "--fast"),
        (remove_build, "missing build", "--fast"),
        (lose_site_packages, "missing folder", "--fast"),
        (edit_file, "changed file", None),
        (add_module, "extra file", None),
        (edit_table, "changed file", None),
        (edit_file_in_secret, "changed file", "--deep"),
    ],
)
def test_check_names_it_and_the_command_that_it_gives_mends_it(small_home, change, kind, depth):
    folder = small_home.build("pilot")
    change(folder)
    words = [depth] if depth else []
    report = small_home.check(*words, code=ExitCode.NOT_READY)
    assert not report["ok"]
    assert kind in [finding["kind"] for finding in report["findings"]]
    assert {finding["severity"] for finding in report["findings"]} == {"error"}
    (remedy,) = {finding["remedy"] for finding in report["findings"]}
    assert remedy.startswith("scalems env sync --resource local.localhost")
    result = json.loads(small_home.run(*remedy.split()[1:], "--json").stdout)
    assert [env["action"] for env in result["envs"]] == ["built"]
    assert small_home.check("--deep")["ok"]


def test_people_get_the_same_as_scripts(small_home):
    edit_file(small_home.build("pilot"))
    done = small_home.run("env", "check", code=ExitCode.NOT_READY)
    assert "error  pilot: changed file: lib/python3" in done.stdout
    assert "cloudpickle/cloudpickle.py (cloudpickle)" in done.stdout
    assert "remedy: scalems env sync --resource local.localhost" in done.stdout
    assert "is ready" not in done.stdout
    small_home.sync()
    done = small_home.run("env", "check")
    assert "local.localhost is ready" in done.stdout


@pytest.mark.parametrize("depth", [[], ["--fast"], ["--deep"]])
def test_a_check_changes_nothing(small_home, depth):
    before = tree(small_home.home, content=False)
    assert small_home.check(*depth)["ok"]
    assert changed(before, tree(small_home.home, content=False)) == []


def test_a_check_needs_no_right_to_write(small_home):
    before = tree(small_home.home, content=False)
    done = in_namespace(
        'mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME"'
        ' && ! touch "$HOME/x" 2>/dev/null',
        small_home.argv("env", "check", "--deep"),
        small_home,
    )
    assert done.returncode == 0, done.stderr
    assert f"{LABEL} is ready" in done.stdout
    assert changed(before, tree(small_home.home, content=False)) == []
