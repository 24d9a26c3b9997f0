"""Bundles: all of a resource in one file, verified before anything of it is used."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from homes import LABEL, Scalems, add_task, make_scalems
from hypothesis import example, given
from hypothesis import strategies as st
from test_packages import write_package, write_repository

from scalems.env import bundled, bundlefile
from scalems.env.bundle import without_host
from scalems.env.bundlefile import Damaged, Part
from scalems.errors import UsageError
from scalems.resource.config import Project

TARGETS = ["cp311-manylinux_2_28_x86_64"]


def a_bundle(files: dict[str, bytes], omitted: tuple[str, ...] = ()) -> bytes:
    parts = {
        Part(path, len(data), bundlefile.hashlib.sha256(data).hexdigest(), path in omitted): data
        for path, data in files.items()
    }
    stream = io.BytesIO()
    about = {"resource": LABEL, "targets": TARGETS, "scalems": "0"}
    bundlefile.write(stream, about, parts, lambda done, total: None)
    return stream.getvalue()


paths = st.from_regex(r"[a-z][a-z0-9_.]{0,6}(/[a-z][a-z0-9]{0,6}){0,2}", fullmatch=True)
contents = st.dictionaries(paths, st.binary(max_size=200), max_size=4)
SMALL = a_bundle({"project/envs/a.toml": b"role = 1\n", "wheels/index.json": b"{}" * 50})


# --- the format -------------------------------------------------------------------------------


@given(contents)
def test_a_bundle_is_read_back(tmp_path_factory, files):
    path = tmp_path_factory.mktemp("b") / "a.pyz"
    path.write_bytes(a_bundle(files))
    bundle = bundlefile.read(path)
    assert {part.path: len(files[part.path]) for part in bundle.parts} == {
        name: len(data) for name, data in files.items()
    }
    for part in bundle.parts:
        bundle.extract(part, path.parent / "out")
        assert (path.parent / "out").read_bytes() == files[part.path]


def test_the_same_content_gives_the_same_bytes():
    files = {"a/b": b"1", "c": b"2"}
    assert a_bundle(files) == a_bundle(dict(reversed(files.items())))


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_bit_that_was_flipped_is_found_or_means_nothing(tmp_path_factory, at, bits):
    changed = bytearray(SMALL)
    changed[at] ^= bits
    path = tmp_path_factory.mktemp("b") / "a.pyz"
    path.write_bytes(changed)
    try:
        bundle = bundlefile.read(path)
    except Damaged:
        return
    assert bundle.text("project/envs/a.toml") == "role = 1\n"
    assert bundle.text("wheels/index.json") == "{}" * 50
    assert bundle.about["resource"] == LABEL


@given(st.integers(0, len(SMALL) - 1))
def test_a_truncated_bundle_is_refused(tmp_path_factory, size):
    path = tmp_path_factory.mktemp("b") / "a.pyz"
    path.write_bytes(SMALL[:size])
    with pytest.raises(Damaged, match="truncated"):
        bundlefile.read(path)


@given(st.binary(max_size=300))
@example(b"PK")
def test_any_other_file_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("b") / "a.pyz"
    path.write_bytes(data)
    with pytest.raises(Damaged):
        bundlefile.read(path)


def test_the_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.pyz"
    path.write_bytes(SMALL.replace(b"role = 1\n", b"role = 2\n"))
    with pytest.raises(Damaged, match=r"project/envs/a\.toml: it was changed"):
        bundlefile.read(path)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "a//b", ".hidden", "a\nb", "ü"]
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    path = tmp_path / "a.pyz"
    path.write_bytes(a_bundle({name: b"evil"}))
    with pytest.raises(Damaged, match="could lead out"):
        bundlefile.read(path)
    # Nor one that only the archive has.
    path.write_bytes(SMALL)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(Damaged, match="could lead out"):
        bundlefile.read(path)


def test_what_does_not_belong_to_a_bundle_is_refused(tmp_path):
    path = tmp_path / "a.pyz"
    path.write_bytes(SMALL)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(Damaged, match="more: it does not belong"):
        bundlefile.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(bundlefile.HEAD, bundlefile.head({"resource": LABEL}, ()))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(bundlefile.HEAD, bundlefile.head({"resource": LABEL}, ()))
    with pytest.raises(Damaged, match="twice"):
        bundlefile.read(path)


# --- from here to there -----------------------------------------------------------------------


@dataclasses.dataclass
class Ends:
    """A machine that makes bundles, and one that has nothing but Python and no network."""

    here: Scalems
    bundle: Path
    there: Path

    def at(self, *argv: str | Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command there: no network, an empty home, no cache, no setting."""
        words = [
            "unshare",
            "--net",
            *(["--map-root-user"] if os.geteuid() else []),
            *map(str, argv),
        ]
        (self.there / "home").mkdir(exist_ok=True)
        done = subprocess.run(
            words,
            cwd=self.there,
            env={"HOME": str(self.there / "home"), "PATH": "/usr/bin:/bin", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, shown
        assert "Traceback" not in done.stderr, shown
        return done

    def scalems(
        self, *argv: str | Path, code: int = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the scalems that came with the bundle."""
        return self.at(".venv/bin/scalems", *argv, code=code, **env)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    if subprocess.run(["unshare", "--net", "true"], check=False).returncode and os.geteuid() == 0:
        pytest.skip("nobody may take the network away here")
    folder = tmp_path_factory.mktemp("bundle")
    here = make_scalems(folder / "here")
    write_package(here.project.parent / "linked", "linked")
    away = write_repository(folder / "away", "away")
    with (here.project / "envs" / "pilot.toml").open("a") as stream:
        stream.write('[packages.linked]\npath = "../../linked"\neditable = true\n')
        stream.write(f'[packages.away]\ngit = "{away.as_uri()}"\nrev = "main"\n')
    here.run("env", "lock", "pilot")
    path = folder / "there" / "lab.pyz"
    path.parent.mkdir()
    made = here.json("env", "bundle", "--resource", LABEL, "-o", path)
    assert made["bytes"] == path.stat().st_size
    assert any(name.startswith("radical_pilot") for name in made["built"])
    ends = Ends(here, path, path.parent)
    ends.at(Path(sys.executable).resolve(), path)
    return ends


@pytest.mark.network
@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_a_machine_without_network_gets_all_from_a_bundle(ends, engine):
    shutil.rmtree(ends.there / "home", ignore_errors=True)
    done = ends.scalems(
        *("env", "sync", "--bundle", ends.bundle, "--offline", "--engine", engine, "--json")
    )
    result = json.loads(done.stdout)
    assert [env["action"] for env in result["envs"]] == ["built"]
    (report,) = json.loads(ends.scalems("env", "check", "--deep", "--json").stdout)
    assert report["ok"]
    own = "import linked, away; print(linked.VALUE + away.VALUE)"
    assert ends.scalems("env", "run", "pilot", "--", "python", "-c", own).stdout == "2\n"
    again = json.loads(
        ends.scalems("env", "sync", "--bundle", ends.bundle, "--offline", "--json").stdout
    )
    assert [env["action"] for env in again["envs"]] == ["unchanged"]
    assert again["written"] == []


@pytest.mark.network
@pytest.mark.parametrize("point", ["build.installed", "sync.parity"])
def test_a_sync_from_a_bundle_that_is_killed_is_mended_by_the_next(ends, point):
    shutil.rmtree(ends.there / "home", ignore_errors=True)
    words = ("env", "sync", "--bundle", ends.bundle, "--offline")
    armed = {"SCALEMS_FAILPOINT": f"{point}:kill", "SCALEMS_TESTING": "1"}
    ends.scalems(*words, code=-signal.SIGKILL, **armed)
    ends.scalems("env", "check", code=3)
    ends.scalems(*words)
    ends.scalems("env", "check", "--deep")
    assert not list((ends.there / "home/.local/share/scalems/bundles").glob("*/"))


@pytest.mark.network
def test_it_is_the_same_bytes_again_and_needs_no_network(ends, tmp_path):
    again = tmp_path / "again.pyz"
    ends.here.run("env", "bundle", "--resource", LABEL, "--offline", "-o", again)
    assert again.read_bytes() == ends.bundle.read_bytes()


@pytest.mark.network
def test_a_delta_leaves_out_what_is_there(ends):
    (ends.there / "have.json").write_text(ends.scalems("env", "bundle", "--have").stdout)
    for since in (ends.bundle, ends.there / "have.json"):
        delta = ends.there / "delta.pyz"
        made = ends.here.json("env", "bundle", "--resource", LABEL, "--since", since, "-o", delta)
        assert made["omitted"] > 40
        assert delta.stat().st_size < 0.1 * ends.bundle.stat().st_size
        ends.scalems("env", "sync", "--bundle", delta, "--offline")
    ends.at(Path(sys.executable).resolve(), delta, "--venv", "other")
    shutil.rmtree(ends.there / "other")
    files = ends.there / "home/.local/share/scalems/wheelhouse/files"
    files.rename(files.with_name("away"))
    try:
        done = ends.scalems("env", "sync", "--bundle", delta, "--offline", code=1)
    finally:
        shutil.rmtree(files, ignore_errors=True)
        files.with_name("away").rename(files)
    assert "is a delta, and what it leaves out is not here" in done.stderr


@pytest.mark.network
def test_gc_removes_wheels_that_nobody_read_for_long(ends):
    files = ends.there / "home/.local/share/scalems/wheelhouse/files"
    assert not json.loads(ends.scalems("env", "gc", "--json").stdout)["wheels"]
    (idna,) = files.glob("*/idna-*.whl")
    (own,) = files.glob("*/linked-*.whl")
    for path in (idna, own):
        os.utime(path, (0, 0))
    ends.scalems("env", "gc")
    assert not idna.exists()
    assert own.exists()  # of a build that is in use
    ends.scalems("env", "sync", "--bundle", ends.bundle, "--offline")
    assert idna.exists()


@pytest.mark.network
def test_nothing_of_a_damaged_bundle_is_used(ends):
    damaged = ends.there / "damaged.pyz"
    data = bytearray(ends.bundle.read_bytes())
    with zipfile.ZipFile(ends.bundle) as archive:
        (idna,) = (one for one in archive.infolist() if one.filename.startswith("wheels/idna-"))
    data[idna.header_offset + 2000] ^= 1
    damaged.write_bytes(data)
    done = ends.scalems("env", "sync", "--bundle", damaged, "--offline", "-C", "new", code=1)
    assert "idna-" in done.stderr
    assert "it was changed" in done.stderr
    assert not (ends.there / "new").exists()
    done = ends.at(Path(sys.executable).resolve(), damaged, "--venv", "other", code=1)
    assert "it was changed" in done.stderr
    assert not (ends.there / "other").exists()


@pytest.mark.network
def test_specs_that_were_edited_there_are_not_overwritten(ends):
    ends.scalems("env", "sync", "--bundle", ends.bundle, "--offline")
    spec = ends.there / "envs" / "pilot.toml"
    former = spec.read_text()
    spec.write_text(former + "# mine\n")
    done = ends.scalems("env", "sync", "--bundle", ends.bundle, "--offline", code=2)
    assert "pilot.toml" in done.stderr
    assert spec.read_text().endswith("# mine\n")
    ends.scalems("env", "sync", "--bundle", ends.bundle, "--offline", "--replace")
    assert spec.read_text() == former


@pytest.mark.network
def test_another_python_is_told_what_the_bundle_is_for(ends):
    made = ends.bundle.read_bytes()
    path = ends.there / "other.pyz"
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        main = archive.read("__main__.py")
    stream = io.BytesIO()
    part = Part("__main__.py", len(main), bundlefile.hashlib.sha256(main).hexdigest())
    about = {"resource": LABEL, "targets": ["cp399-manylinux_2_28_x86_64"], "scalems": "0"}
    bundlefile.write(stream, about, {part: main}, lambda done, total: None)
    path.write_bytes(stream.getvalue())
    done = ends.at(Path(sys.executable).resolve(), path, "--venv", "other", code=1)
    assert "the bundle is for cp399-manylinux_2_28_x86_64" in done.stderr
    done = ends.scalems("env", "sync", "--bundle", path, "--offline", "-C", "other", code=1)
    assert "is for cp399-manylinux_2_28_x86_64, and this scalems runs on cp3" in done.stderr
    assert not (ends.there / "other").exists()


def test_a_bundle_needs_a_current_lock_and_a_name(scalems: Scalems):
    assert "-o local.pyz" in scalems.run("env", "bundle", "--resource", LABEL, code=2).stderr
    for name in ("/proc/lab.pyz", scalems.project):
        done = scalems.run("env", "bundle", "--resource", LABEL, "-o", name, code=2)
        assert f"{name} cannot be written" in done.stderr
    with (scalems.project / "envs" / "pilot.toml").open("a") as stream:
        stream.write('constraints = ["numpy<3"]\n')
    done = scalems.run("env", "bundle", "--resource", LABEL, "-o", "a.pyz", code=3)
    assert "scalems env lock pilot" in done.stderr
    done = scalems.run(
        *("env", "bundle", "--resource", LABEL, "-o", "a.pyz", "--since", "envs/pilot.toml"), code=3
    )
    assert not (scalems.project / "a.pyz").exists()


@pytest.mark.network
def test_layers_come_along_and_sources_are_built_there(ends):
    project = ends.here.project
    add_task(project, name="lib")
    lib, md = project / "envs" / "lib.toml", project / "envs" / "md.toml"
    text = lib.read_text().partition("[packages.linked]")[0]
    dependencies = 'no-binary = ["markupsafe"]\ndependencies = ["markupsafe<4"]'
    lib.write_text(text.replace("dependencies = []", dependencies))
    md.write_text('role = "task"\nbase = "lib"\ndependencies = ["iniconfig"]\n')
    (project / "resource-configs" / "more.toml").write_text(
        '[layers]\nextends = "local.localhost"\npilot = "lib"\ntasks = ["md"]\n'
    )
    lib.write_text(lib.read_text().replace('role = "task"', 'role = "both"'))
    ends.here.run("env", "lock", "md")
    path = ends.there / "more.pyz"
    ends.here.run("env", "bundle", "--resource", "more.layers", "-o", path)
    ends.scalems("env", "sync", "--bundle", path, "--offline", "--project", "more")
    (report,) = json.loads(
        ends.scalems("env", "check", "--resource", "more.layers", "--deep", "--json").stdout
    )
    assert report["ok"]
    code = "import iniconfig, markupsafe._speedups as s; print(iniconfig.__file__, s.__file__)"
    words = ("env", "run", "md", "--resource", "more.layers", "--", "python", "-c", code)
    own, theirs = ends.scalems(*words).stdout.split()
    assert own.partition("/builds/")[2].startswith("md-")
    assert theirs.partition("/builds/")[2].startswith("lib-")
    shown = json.loads(
        ends.scalems("env", "show", "lib", "--resource", "more.layers", "--json").stdout
    )
    assert shown["built here"] == ["markupsafe"]
    # Of a delta, the source and what its build needs are there already.
    delta = ends.there / "delta.pyz"
    since = ("--since", path, "--offline")
    ends.here.run("env", "bundle", "--resource", "more.layers", *since, "-o", delta)
    with zipfile.ZipFile(delta) as archive:
        assert [one for one in archive.namelist() if one.startswith("wheels/")] == [
            "wheels/index.json"
        ]
    ends.scalems("env", "sync", "--bundle", delta, "--offline", "--project", "more")


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists) | st.binary())
def test_what_no_bundle_has_written_is_told(tmp_path_factory, data):
    envs = tmp_path_factory.mktemp("envs")
    content = data if isinstance(data, bytes) else json.dumps({"format": 1, "packages": data})
    (envs / "bundled.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match="unpack the bundle again"):
        bundled.read(envs)


def test_a_resource_config_for_its_own_host_names_no_host(tmp_path):
    config = tmp_path / "resource-configs" / "lab.toml"
    config.parent.mkdir()
    (tmp_path / "envs").mkdir()
    table = '[cluster]\nextends = "local.localhost"\npilot = "pilot"\n'
    config.write_text(table + 'host = "me@lab.example"\nroot = "/scratch/me"\noffline = true\n')
    assert Project(tmp_path).resource("lab.cluster").host
    config.write_text(without_host(config.read_text()))
    there = Project(tmp_path).resource("lab.cluster")
    assert there.host is None
    assert there.pilot == "pilot"
    assert without_host(table) == table
