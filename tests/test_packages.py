"""Local packages: from folders, linked ones, and from real git repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from homes import LABEL, REPO, Scalems, add_task, make_scalems
from hypothesis import given, settings
from hypothesis import strategies as st

from scalems.env import lock, prepare, repository, source, spec
from scalems.env.engine import choose
from scalems.env.layout import Layout
from scalems.env.locking import Options
from scalems.env.target import find_interpreter
from scalems.errors import EnvironmentNotReady, ExitCode, UsageError


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    argv = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def write_package(folder: Path, name: str, *needs: str, version: str = "1.0") -> Path:
    """Write a Python project with one module of the name of the folder."""
    module = folder / "src" / folder.name
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("VALUE = 1\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=61"]\n'
        'build-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {list(needs)!r}\n'
    )
    return folder


def write_repository(folder: Path, name: str, *needs: str) -> Path:
    write_package(folder, name, *needs)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def change(folder: Path, value: int) -> None:
    (folder / "src" / folder.name / "__init__.py").write_text(f"VALUE = {value}\n")


def load(folder: Path, text: str) -> spec.EnvSpec:
    path = folder / "envs" / "task.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'role = "task"\n{text}')
    return spec.load(path)


# --- which files --------------------------------------------------------------------------


def test_a_folder_has_all_its_files_but_those_that_tools_leave(tmp_path):
    write_package(tmp_path / "mine", "mine")
    for name in ("build/x", "mine.egg-info/PKG-INFO", "src/__pycache__/a.pyc", ".venv/x", "data"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    expected = {"pyproject.toml", "src/mine/__init__.py", "data"}
    assert source.read(tmp_path / "mine").keys() == expected


def test_a_checkout_has_what_git_tracks_and_does_not_ignore(tmp_path):
    folder = write_repository(tmp_path / "mine", "mine")
    (folder / ".gitignore").write_text("ignored\n")
    (folder / "build").mkdir()
    for name in ("ignored", "new", "build/tracked", "build/other"):
        (folder / name).write_text("")
    git(folder, "add", "build/tracked")
    found = source.read(folder).keys()
    here = {"pyproject.toml", "src/mine/__init__.py", ".gitignore", "new", "build/tracked"}
    assert found == here
    # A folder inside of a checkout counts by the same rule.
    assert source.read(folder / "src").keys() == {"mine/__init__.py"}
    assert not {"build/tracked"} & source.read(folder, without=folder / "build").keys()
    git(folder, "status")  # it is still one


def test_each_change_is_told_and_nothing_else(tmp_path):
    folder = write_package(tmp_path / "mine", "mine")
    (folder / "link").symlink_to("pyproject.toml")
    known = source.read(folder)
    os.utime(folder / "pyproject.toml", (1, 1))
    assert source.changes(folder, known) == []
    change(folder, 2)
    (folder / "new").write_text("")
    (folder / "link").unlink()
    told = source.changes(folder, known)
    assert told == ["link (removed)", "new (new)", "src/mine/__init__.py (changed)"]


@settings(max_examples=30)
@given(st.dictionaries(st.from_regex(r"([A-Z]{1,2}/)?[a-z]{1,3}", fullmatch=True), st.binary()))
def test_equal_files_have_equal_digests_wherever_they_are(tmp_path_factory, files):
    folders = [tmp_path_factory.mktemp("tree") for _ in range(2)]
    for folder in folders:
        for name, content in files.items():
            path = folder / f"x{name}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    one, other = (source.read(folder) for folder in folders)
    assert source.table_digest(one) == source.table_digest(other)
    assert source.changes(folders[0], other) == []
    source.copy(folders[0], one, folders[0].with_name(f"{folders[0].name}-copy"))
    copied = source.read(folders[0].with_name(f"{folders[0].name}-copy"))
    assert source.table_digest(copied) == source.table_digest(one)
    if one:
        (folders[0] / next(iter(one))).write_bytes(b"something else")
        assert len(source.changes(folders[0], other)) == 1


# --- specs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[packages.x]", "task.toml:2: packages.x: needs either `path` or `git`"),
        ('[packages.x]\npath = "../x"\ngit = "file:///x"', "needs either `path` or `git`"),
        ('[packages.x]\npath = "../nowhere"', "packages.x.path: there is no folder"),
        ('[packages.x]\npath = ".."', "packages.x.path: there is no Python project"),
        ('[packages.x]\npath = "../mine"\nrev = "a"', "packages.x.rev: is only for packages with"),
        ('[packages.x]\ngit = "file:///x"\neditable = true', "is only for packages with `path`"),
        ('[packages.x]\npth = "../mine"', "unknown key (did you mean 'path'"),
        ('[packages.x]\ngit = "ext::sh -c reboot"', "must be a URL of https, ssh or file"),
        ('[packages.x]\ngit = "--upload-pack=reboot"', "must be a URL of https, ssh or file"),
        ('[packages.x]\ngit = "file:///x"\nrev = "--help"', "is not the name of a branch"),
        ('[packages.x]\ngit = "file:///x"\nsubdirectory = "../y"', "is not a folder inside"),
        ('[packages.scalems]\npath = "../mine"', "scalems is always installed"),
        ('[packages."a b"]\npath = "../mine"', "a b"),
        ('[packages.a_b]\npath = "../mine"\n[packages.A-b]\npath = "../mine"', "the same package"),
        ('dependencies = ["x @ file:///x"]', "write it as [packages.x]"),
    ],
)
def test_mistakes_in_a_spec(tmp_path, text, told):
    write_package(tmp_path / "mine", "mine")
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert told in caught.value.cause


secrets = st.from_regex(r"[A-Za-z0-9]{12,20}", fullmatch=True)


@settings(max_examples=30)
@given(secrets, st.sampled_from(["https://{}@h/r", "https://u:{}@h/r", "ssh://u:{}@h/r"]))
def test_no_password_of_a_url_is_taken_or_shown(tmp_path_factory, secret, form):
    with pytest.raises(UsageError) as caught:
        load(tmp_path_factory.getbasetemp(), f'[packages.x]\ngit = "{form.format(secret)}"')
    assert "user name or password" in caught.value.cause
    assert secret not in str(caught.value)


@given(st.text())
def test_any_text_is_a_url_or_a_mistake(text):
    assert isinstance(repository.mistake(text), str)


# --- wheels -------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_a_wheel_is_built_once_for_the_same_files_and_leaves_no_trace(tmp_path, engine):
    folder = write_package(tmp_path / "mine", "mine", "numpy>=1")
    loaded = load(tmp_path, '[packages.mine]\npath = "../mine"')
    place = Layout(tmp_path / "state")
    told: list[str] = []

    def notify(step: str, *, detail: bool = False) -> None:
        if not detail:
            told.append(step)

    before = sorted(folder.rglob("*"))
    with prepare.workshop(place, choose(engine), Options(), notify=notify) as shop:
        (first,) = shop.prepare(loaded, find_interpreter(loaded))
        assert (first.name, first.version, "numpy>=1" in first.needs) == ("mine", "1.0", True)
        change(folder, 2)
        (second,) = shop.prepare(loaded, find_interpreter(loaded))
        change(folder, 1)
        (third,) = shop.prepare(loaded, find_interpreter(loaded))
    assert third == first.__class__(**{**vars(first), "table": third.table})
    assert second.digest != first.digest
    assert told == ["building mine from ../mine"] * 2
    assert sorted(folder.rglob("*")) == before
    assert [path.name for path in place.packages.glob(".mine-*") if path.is_dir()] == []


def test_a_commit_is_that_of_a_branch_a_tag_or_itself(tmp_path):
    folder = write_repository(tmp_path / "mine", "mine")
    first = git(folder, "rev-parse", "HEAD")
    git(folder, "tag", "-a", "v1", "-m", "one")
    change(folder, 2)
    git(folder, "commit", "--quiet", "-a", "-m", "second")
    second = git(folder, "rev-parse", "HEAD")
    url = folder.as_uri()
    found = [repository.commit_of(url, rev) for rev in ("HEAD", "main", "v1", first)]
    assert found == [second, second, first, first]
    with pytest.raises(UsageError, match="no branch or tag 'v2'"):
        repository.commit_of(url, "v2")
    with pytest.raises(EnvironmentNotReady, match="cannot be read"):
        repository.commit_of((tmp_path / "nowhere").as_uri(), "main")
    repository.checkout(url, first, tmp_path / "out")
    assert (tmp_path / "out" / "src" / "mine" / "__init__.py").read_text() == "VALUE = 1\n"
    with pytest.raises(EnvironmentNotReady, match="has no commit"):
        repository.checkout(url, "0" * 40, tmp_path / "other")


# --- the whole way ------------------------------------------------------------------------

PACKAGES = """
[packages.mine]
path = "../mine"

[packages.linked]
path = "../linked"
editable = true

[packages.remote]
git = "{url}"
rev = "main"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A synced home whose Task venv has three local packages, one of which needs another."""
    home = make_scalems(tmp_path_factory.mktemp("packages"))
    add_task(home.project)
    write_package(home.project / "mine", "mine", "remote>=1", "scalems")
    write_package(home.project / "linked", "linked")
    remote = write_repository(home.project.parent / "remote", "remote", "tomli-w")
    path = home.project / "envs" / "task.toml"
    path.write_text(path.read_text() + PACKAGES.format(url=remote.as_uri()))
    home.sync()
    return home


def values(made: Scalems) -> str:
    code = "import mine, linked, remote; print(mine.VALUE, linked.VALUE, remote.VALUE)"
    words = ("env", "run", "--no-check", "task", "--", "python", "-c", code)
    return made.run(*words).stdout.strip()


def findings(made: Scalems) -> list[str]:
    done = made.run("env", "check", "--fast", "--json", code=ExitCode.NOT_READY)
    import json

    return [f"{f['kind']}: {f['subject']}" for r in json.loads(done.stdout) for f in r["findings"]]


@pytest.mark.network
def test_they_are_there_and_locked(made: Scalems):
    remote = made.project.parent / "remote"
    commit = git(remote, "rev-parse", "HEAD")
    text = (made.project / "envs" / "task.lock.txt").read_text()
    assert f"# package: remote @ git+{remote.as_uri()}@{commit} from main\n" in text
    assert "# package: mine @ ../mine\n" in text
    assert str(made.home) not in text
    pins = {pin.name for pin in lock.parse(text, source="").pins}
    assert "tomli-w" in pins
    assert not pins & {"mine", "linked", "remote", "scalems"}
    assert values(made) == "1 1 1"
    assert made.check("--deep")["ok"]
    assert [one["action"] for one in made.sync("--frozen", "--offline")["envs"]] == [
        "unchanged",
        "unchanged",
    ]
    shown = made.json("env", "show", "task")["local packages"]
    assert commit in shown["remote"]
    assert shown["linked"].startswith("../linked (editable)")
    assert made.json("env", "diff", "task", "lock:task", code=0)["same"]
    why = made.json("env", "explain", "tomli-w")["reasons"]
    assert [reason["chain"] for reason in why] == [["remote", "tomli-w"]]
    why = made.json("env", "explain", "remote")["reasons"]
    assert (why[0]["locked"], "main" in why[0]["asked"][0]) == (commit, True)


@pytest.mark.network
def test_a_changed_file_is_named_and_the_next_sync_builds_it(made: Scalems):
    before = made.build("task"), made.build("pilot")
    change(made.project / "mine", 2)
    assert findings(made) == ["source changed since the sync: mine: src/mine/__init__.py (changed)"]
    made.sync("--frozen")
    assert made.build("pilot") == before[1]
    assert values(made).startswith("2 ")
    change(made.project / "mine", 1)
    assert [one["action"] for one in made.sync("--frozen")["envs"]] == ["reused", "reused"]
    assert made.build("task") == before[0]


@pytest.mark.network
def test_a_linked_package_runs_as_it_is_and_is_no_less_verified(made: Scalems):
    before = made.build("task")
    change(made.project / "linked", 3)
    assert values(made) == "1 3 1"
    script = made.project / "script.py"
    script.write_text(
        "import scalems\n\n@scalems.task\ndef value():\n    import linked\n"
        "    return linked.VALUE\n\n@scalems.app\ndef main():\n    print(value().result())\n"
    )
    run = [sys.executable, "-m", "scalems.local", "--venv", "task"]
    done = subprocess.run(
        [*run, str(script)], cwd=made.project, env=made.env, capture_output=True, text=True
    )
    assert done.returncode == ExitCode.NOT_READY
    assert "source changed since the sync: linked: src/linked/__init__.py" in done.stderr
    done = subprocess.run(
        [*run, "--drift", "warn", str(script)],
        cwd=made.project,
        env=made.env,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr
    made.sync("--frozen")
    assert made.build("task") != before
    assert made.check("--deep")["ok"]
    change(made.project / "linked", 1)
    made.sync("--frozen")
    assert made.build("task") == before


@pytest.mark.network
def test_a_branch_that_moves_is_followed_only_when_asked(made: Scalems):
    remote = made.project.parent / "remote"
    change(remote, 5)
    git(remote, "commit", "--quiet", "-a", "-m", "second")
    assert [one["action"] for one in made.sync()["envs"]] == ["unchanged", "unchanged"]
    result = made.json("env", "lock", "task", "--upgrade-package", "remote")
    (line,) = next(one["changes"] for one in result if one["name"] == "task")
    assert line.startswith("~ remote ")
    assert line.endswith(git(remote, "rev-parse", "HEAD"))
    made.sync("--frozen")
    assert values(made) == "1 1 5"


@pytest.mark.network
def test_new_needs_of_a_package_are_locked(made: Scalems):
    project = made.project / "mine" / "pyproject.toml"
    former = project.read_text()
    project.write_text(former.replace("'scalems'", "'scalems', 'iniconfig<2.1'"))
    done = made.run("env", "sync", "--resource", LABEL, "--frozen", code=ExitCode.NOT_READY)
    assert "what its local packages need" in done.stderr
    result = made.sync("--dry-run")
    assert any("+ iniconfig" in line for one in result["locks"] for line in one["changes"])
    project.write_text(former.replace("name = ", "name = 'other'#"))
    done = made.run("env", "sync", "--resource", LABEL, code=ExitCode.USAGE)
    assert "what is there is called 'other'" in done.stderr
    project.write_text(former.replace("setuptools.build_meta", "no_such_backend"))
    done = made.run("env", "sync", "--resource", LABEL, code=ExitCode.FAILED)
    assert "no_such_backend" in done.stderr
    project.write_text(former)
    made.sync("--frozen")


@pytest.mark.network
def test_only_wheels_that_no_build_has_are_removed(made: Scalems):
    made.json("env", "gc", "--keep", "0")
    folder = made.root / "packages"
    assert sorted(p.name.rpartition("-")[0] for p in folder.glob("[!.]*")) == [
        "linked",
        "mine",
        "remote",
    ]
    made.sync("--frozen", "--offline")
    assert made.check()["ok"]


def test_the_repository_is_not_touched_by_its_own_tests():
    assert shutil.which("git")
    assert source.read(REPO / "envs").keys()
