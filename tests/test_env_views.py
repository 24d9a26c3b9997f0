"""What `env init`, `show`, `diff`, `explain`, `export` and `run` tell of environments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from homes import LABEL, Scalems, changed, copy_project, tree
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from scalems.env import condafile, initialize, lock, spec
from scalems.errors import ExitCode, UsageError


@pytest.fixture
def fresh(scalems: Scalems, tmp_path: Path) -> Scalems:
    """An empty project, in a home where nothing was synced."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    return Scalems(home=scalems.home, project=folder, env=scalems.env)


# --- init ---------------------------------------------------------------------------------


def test_init_writes_specs_that_are_valid_as_they_are(fresh):
    result = fresh.json("env", "init")
    assert [Path(path).name for path in result["written"]] == [
        "pilot.toml",
        "task.toml",
        "local.toml",
    ]
    for name in ("pilot", "task"):
        spec.load(fresh.project / "envs" / f"{name}.toml")
    # What comes next works on them.
    done = fresh.run("env", "sync", "--resource", LABEL, "--frozen", code=ExitCode.NOT_READY)
    assert "there is no lock yet" in done.stderr


REQUIREMENTS = """\
# what we need
NumPy >= 1.26 # arrays
scipy[x]==1.* ; python_version > '3.9' \\
    --hash=sha256:00
-r more/other.txt
--constraint=more/limits.txt
-e ./mine[plot]
force @ git+https://example.org/force.git@v1#subdirectory=py
git+ssh://git@example.org/field.git#egg=field
ours @ https://me:secret@example.org/ours.whl
git+https://secret@example.org/x.git@main#egg=x
--index-url https://me:secret@example.org/simple
"""


def test_init_takes_requirements_over_and_names_what_it_cannot(fresh):
    for name, text in {
        "requirements.txt": REQUIREMENTS,
        "more/other.txt": "attrs>=23\n-r deeper.txt\n",
        "more/deeper.txt": "rich\n",
        "more/limits.txt": "pillow<13\n",
        "mine/pyproject.toml": '[project]\nname = "My.Sim"\nversion = "1"\n',
    }.items():
        (fresh.project / name).parent.mkdir(exist_ok=True)
        (fresh.project / name).write_text(text)
    done = fresh.run("env", "init", "--json")
    result = json.loads(done.stdout)
    scipy = 'scipy[x]==1.*; python_version > "3.9"'
    assert result["dependencies"] == ["NumPy>=1.26", scipy, "attrs>=23", "rich"]
    assert result["constraints"] == ["pillow<13"]
    assert result["packages"] == {
        "my-sim": {"path": "../mine", "editable": True, "extras": ["plot"]},
        "force": {"git": "https://example.org/force.git", "rev": "v1", "subdirectory": "py"},
        "field": {"git": "ssh://git@example.org/field.git"},
    }
    assert [line.partition("***")[0] for line in result["left"]] == [
        "ours @ https://",
        "git+https://",
        "--index-url https://",
    ]
    # The spec is valid as it is, and is committed: no password may come into it.
    task = fresh.project / "envs" / "task.toml"
    assert "secret" not in done.stdout + done.stderr + task.read_text()
    loaded = spec.load(task)
    assert loaded.dependencies == tuple(result["dependencies"])
    assert [one.name for one in loaded.packages] == ["field", "force", "my-sim"]
    assert loaded.packages[2].path == fresh.project / "mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [("-r requirements.txt", "includes itself"), ("-c nowhere.txt", "cannot be read")],
)
def test_init_names_included_files_that_cannot_be_read(fresh, text, told):
    (fresh.project / "requirements.txt").write_text(text)
    assert told in fresh.run("env", "init", code=ExitCode.USAGE).stderr


def test_init_takes_what_uv_takes_from_elsewhere(fresh):
    (fresh.project / "lib").mkdir()
    (fresh.project / "lib" / "pyproject.toml").write_text('[project]\nname = "lib"\n')
    (fresh.project / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["lib>=1", "field[y]", "attrs"]\n'
        '[tool.uv.sources]\nlib = {path = "lib", editable = true}\n'
        'field = {git = "https://example.org/field.git", tag = "v2"}\nattrs = {workspace = true}\n'
    )
    result = fresh.json("env", "init")
    assert result["packages"] == {
        "lib": {"path": "../lib", "editable": True},
        "field": {"git": "https://example.org/field.git", "rev": "v2", "extras": ["y"]},
    }
    assert result["dependencies"] == ["attrs"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[project]\nname = "x"\ndynamic = ["dependencies"]\n', "dependencies are dynamic"),
        ('[tool.poetry.dependencies]\nnumpy = "^1.26"\n', "poetry export"),
    ],
)
def test_init_says_what_of_a_pyproject_it_cannot_take(fresh, text, told):
    (fresh.project / "pyproject.toml").write_text(text)
    result = fresh.json("env", "init")
    assert result["dependencies"] == []
    assert told in result["left"][0]


def test_init_takes_a_pyproject_over(fresh):
    text = '[project]\nname = "x"\nversion = "1"\ndependencies = ["attrs>=23"]\n'
    (fresh.project / "pyproject.toml").write_text(text)
    assert fresh.json("env", "init")["dependencies"] == ["attrs>=23"]


PYPROJECT = """
[project]
name = "My-Sim"
version = "1"
dependencies = ["attrs"]
[project.optional-dependencies]
plot = ["matplotlib>=3"]
all = ["my_sim[plot]", "rich"]
[dependency-groups]
simulation = ["numpy>=1.26", {include-group = "Base"}]
base = ["colorama"]
loop = [{include-group = "loop"}]
"""


def test_init_takes_extras_and_dependency_groups_over(fresh):
    (fresh.project / "pyproject.toml").write_text(PYPROJECT)
    result = fresh.json("env", "init", "--extra", "all", "--group", "Simulation")
    wanted = ["attrs", "matplotlib>=3", "rich", "numpy>=1.26", "colorama"]
    assert result["dependencies"] == wanted


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--extra", "plto"), "no extra 'plto' (did you mean 'plot'?)"),
        (("--extra", "simulation"), "remedy: --group simulation"),
        (("--group", "plot"), "no dependency group 'plot'; it has"),
        (("--group", "simluation"), "(did you mean 'simulation'?)"),
        (("--group", "loop"), "includes itself: loop → loop"),
        (("--group", "base", "--from", "environment.yml"), "no dependency groups"),
    ],
)
def test_init_names_the_extras_and_groups_that_there_are(fresh, words, told):
    (fresh.project / "pyproject.toml").write_text(PYPROJECT)
    assert told in fresh.run("env", "init", *words, code=ExitCode.USAGE).stderr
    assert not (fresh.project / "envs").exists()


def test_init_takes_what_conda_has_over_and_names_the_programs(fresh):
    (fresh.project / "environment.yml").write_text(
        "name: md\nchannels: [conda-forge]\ndependencies:\n"
        "  - python=3.11\n  - numpy=1.26\n  - conda-forge::scipy>=1.10,<2\n  - pandas 2.1.*\n"
        "  - pytorch\n  - gromacs=2024.1\n  - libgcc-ng=13.2.0=h807b86f_5\n"
        "  - attrs==23.1.0=pyh0\n  - \"rich[version='>=13']\"\n  - pip\n"
        "  - pip:\n    - mdtraj>=1.9\n    - -r more.txt\n"
    )
    result = fresh.json("env", "init")
    wanted = "numpy==1.26.* scipy<2,>=1.10 pandas==2.1.* torch attrs==23.1.0 rich>=13 mdtraj>=1.9"
    assert result["dependencies"] == wanted.split()
    assert [line.partition(":")[0] for line in result["left"]] == [
        "gromacs=2024.1",
        "libgcc-ng=13.2.0=h807b86f_5",
        "-r more.txt",
    ]
    assert "[software.gromacs]" in result["left"][0]
    assert spec.load(fresh.project / "envs" / "task.toml").python == ">=3.11,<3.12"


_VERSION = st.lists(st.sampled_from(list("=<>!~,.*|0123456789 a[]'")), max_size=12).map("".join)


@given(st.lists(st.tuples(st.sampled_from(["numpy", "python", "gromacs", "c::x"]), _VERSION)))
def test_any_list_of_conda_gives_requirements_or_names_the_line(listed):
    lines = [f"{name}{version}" for name, version in listed]
    read = condafile.parse(json.dumps({"dependencies": lines}), name="environment.yml")
    for one in read.requirements:
        Requirement(one)
    assert len(read.requirements) + len(read.left) <= len(lines)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=100))
def test_any_text_as_a_file_of_conda_is_read_or_refused(text):
    try:
        condafile.parse(text, name="environment.yml")
    except UsageError as error:
        assert "environment.yml" in error.cause  # noqa: PT017


def test_init_takes_a_venv_over(fresh):
    result = fresh.json("env", "init", "--from", sys.prefix)
    names = [text.partition("==")[0] for text in result["dependencies"]]
    assert "hypothesis" in names  # asked for by nothing else
    assert "sortedcontainers" not in names  # hypothesis needs it
    assert "scalems" not in names


def test_init_takes_the_pins_of_a_pylock(fresh):
    (fresh.project / "pylock.toml").write_text(
        'lock-version = "1.0"\ncreated-by = "x"\n'
        '[[packages]]\nname = "numpy"\nversion = "2.3.0"\n'
        '[[packages]]\nname = "tomli"\nversion = "2.2.1"\nmarker = "python_version < \'3.11\'"\n'
        '[[packages]]\nname = "mine"\n[packages.directory]\npath = "."\n'
    )
    result = fresh.json("env", "init", "--from", "pylock.toml")
    assert result["dependencies"] == ["numpy==2.3.0", 'tomli==2.2.1; python_version < "3.11"']
    assert result["left"] == ["mine (not of an index)"]


def test_init_leaves_what_is_there(fresh):
    fresh.run("env", "init")
    before = tree(fresh.project)
    result = fresh.json("env", "init", "--resource", "local.localhost")
    assert result["written"] == []
    assert len(result["kept"]) == 3
    assert changed(before, tree(fresh.project)) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resource", "localhost"], "write DOMAIN.NAME"),
        (["--resource", "local/../../x.y"], "cannot name a resource"),
        (["--from", "nowhere.txt"], "there is no nowhere.txt"),
        (["--from", "."], "no site-packages folder"),
        (["-C", "nowhere"], "is not a folder"),
    ],
)
def test_wrong_use_of_init(fresh, words, told):
    assert told in fresh.run("env", "init", *words, code=ExitCode.USAGE).stderr
    assert list(fresh.project.iterdir()) == []


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_any_requirements_file_gives_a_valid_spec(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    (folder / "requirements.txt").write_bytes(text.encode())
    source = folder / "requirements.txt"
    result = initialize.initialize(folder, "lab.cluster", source=source)
    loaded = spec.load(folder / "envs" / "task.toml")
    assert loaded.dependencies == result.wanted.dependencies


_PARTS = ("git+", "https://", "file://", "ssh://", "me:secret@", "h/x.git", "@", "v1", "#", "egg=n")
_MORE = ("&subdirectory=", "../", "[a]", " ", "-e ", "-r", "-c ", "n @ ", '"', "\\", "\n", "\x7f")


@given(st.lists(st.sampled_from(_PARTS + _MORE), max_size=12).map("".join))
def test_any_reference_gives_a_valid_spec_or_is_left_without_its_password(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    (folder / "requirements.txt").write_text(text)
    try:
        initialize.initialize(folder, "lab.cluster", source=folder / "requirements.txt")
    except UsageError:
        return  # a file that it includes is not there
    written = folder / "envs" / "task.toml"
    spec.load(written)
    assert "://me:secret@" not in written.read_text()


# --- show, diff, explain ------------------------------------------------------------------


@pytest.mark.network
def test_show_has_what_is_installed_and_how_to_get_in(small_home):
    shown = small_home.json("env", "show", "pilot")
    assert shown["folder"] == str(small_home.build("pilot"))
    assert "radical-pilot" in shown["distributions"]
    assert shown["entered by"][-1] == f". {small_home.build('pilot')}/venv/bin/activate"
    text = small_home.run("env", "show", f"{LABEL}/pilot").stdout
    assert shown["content digest"] in text


@pytest.mark.network
def test_diff_with_the_lock_and_the_client(small_home):
    assert small_home.json("env", "diff", "pilot", "lock:pilot")["same"]
    with_client = small_home.json("env", "diff", "pilot", "client", code=ExitCode.FAILED)
    assert "radical-pilot" not in with_client["distributions"]
    assert with_client["distributions"]["hypothesis"][0] == ""
    a_venv = small_home.json("env", "diff", "client", sys.prefix)
    assert a_venv["same"]


@pytest.mark.network
@pytest.mark.parametrize(
    ("side", "told"),
    [
        ("pilo", "did you mean 'pilot'?"),
        ("lock:nothing", "there is no env spec 'nothing'"),
        ("nowhere.host/pilot", "there is no resource 'nowhere.host'"),
        ("/", "neither a build nor a venv"),
        ("a//b", "does not name an environment"),
    ],
)
def test_unknown_sides(small_home, side, told):
    assert told in small_home.run("env", "diff", "pilot", side, code=ExitCode.USAGE).stderr


@pytest.mark.network
def test_explain_leads_from_what_was_asked_for(small_home):
    explained = small_home.json("env", "explain", "Radical.Utils")
    (reason,) = explained["reasons"]
    assert reason["chain"] == ["radical-pilot", "radical-utils"]
    assert reason["limits"] == [f"parity with the client: =={reason['locked']}"]
    versions = explained["installed"]
    assert versions.keys() == {"client", f"{LABEL}/pilot"}
    assert set(versions.values()) == {reason["locked"]}
    assert (
        "radical-pilot > radical-utils" in small_home.run("env", "explain", "radical-utils").stdout
    )
    done = small_home.run("env", "explain", "radical.utls", code=ExitCode.USAGE)
    assert "did you mean 'radical-utils'" in done.stderr


# --- run ----------------------------------------------------------------------------------


@pytest.mark.network
def test_run_enters_what_a_task_sees(small_home):
    code = "import os, sys; print(sys.prefix, os.environ.get('PYTHONPATH'), sys.argv[1])"
    words = ["env", "run", "pilot", "--", "python", "-c", code, "two words; $HOME"]
    done = small_home.run(*words, PYTHONPATH="/nowhere")
    assert done.stdout == f"{small_home.build('pilot')}/venv None two words; $HOME\n"
    assert small_home.run("env", "run", "pilot", "--", "sh", "-c", "exit 7", code=7)


@pytest.mark.network
def test_run_refuses_what_was_changed(small_home):
    folder = small_home.build("pilot")
    extra = next((folder / "venv").rglob("site-packages")) / "extra.py"
    extra.write_text("")
    try:
        done = small_home.run("env", "run", "pilot", "--", "true", code=ExitCode.NOT_READY)
        assert "extra.py" in done.stderr
        small_home.run("env", "run", "--no-check", "pilot", "--", "true")
    finally:
        extra.unlink()


@pytest.mark.network
def test_wrong_use_of_run(small_home):
    done = small_home.run("env", "run", "pilot", code=ExitCode.USAGE)
    assert "there is no command to run" in done.stderr
    done = small_home.run("env", "run", "pilot", "--", "no-such-command", code=127)  # as a shell
    assert "no-such-command: not found" in done.stderr


@pytest.mark.network
def test_a_shell_is_in_the_environment(small_home):
    import pty

    argv = small_home.argv("env", "shell", "pilot")
    pid, terminal = pty.fork()
    if pid == 0:
        import os

        os.chdir(small_home.project)
        os.execve(argv[0], argv, small_home.env)
    import os

    os.write(terminal, b"python -c 'import sys; print(\"in\", sys.prefix)'; exit\n")
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:
        pass  # the terminal is gone with the shell
    os.waitpid(pid, 0)
    os.close(terminal)
    assert f"in {small_home.build('pilot')}/venv".encode() in shown


# --- export -------------------------------------------------------------------------------


@pytest.fixture
def project(scalems: Scalems, tmp_path: Path) -> Scalems:
    folder = copy_project(tmp_path / "whole")
    return Scalems(home=scalems.home, project=folder, env=scalems.env)


def test_export_of_requirements_is_the_lock(project):
    text = project.run("env", "export", "task").stdout
    assert lock.parse(text, source="export") == lock.load(project.project / "envs/task.lock.txt")


def test_export_of_an_sbom_is_valid_and_has_every_pin(project):
    from cyclonedx.model.bom import Bom

    data = json.loads(project.run("env", "export", "task", "--format", "cyclonedx").stdout)
    bom = Bom.from_json(data)
    bom.validate()
    for one in data["dependencies"]:
        assert len(one["dependsOn"]) == len(set(one["dependsOn"])), one["ref"]
    names = {one.name for one in bom.components}
    assert {str(one.purl) for one in bom.components} == {one["purl"] for one in data["components"]}
    assert {"openmm", "numpy", "radical-pilot"} <= names


def test_export_for_conda_is_yaml_with_every_pin(project):
    import yaml

    path = project.project / "environment.yml"
    project.run("env", "export", "task", "--format", "conda", "-o", path)
    loaded = yaml.safe_load(path.read_text())
    assert loaded["name"] == "task"
    (pip,) = (one["pip"] for one in loaded["dependencies"] if isinstance(one, dict))
    assert any(text.startswith("openmm==") for text in pip)


@pytest.mark.network
def test_export_of_a_pylock_has_every_pin(project):
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    text = project.run("env", "export", "pilot", "--format", "pylock").stdout
    loaded = tomllib.loads(text)
    pins = lock.load(project.project / "envs/pilot.lock.txt").pins
    assert {(one["name"], one["version"]) for one in loaded["packages"]} == {
        (pin.name, pin.version) for pin in pins
    }
    assert loaded["lock-version"] == "1.0"


def test_export_without_a_lock(project):
    (project.project / "envs/task.lock.txt").unlink()
    done = project.run("env", "export", "task", code=ExitCode.USAGE)
    assert "scalems env lock task" in done.stderr
