from __future__ import annotations

import re
from pathlib import Path

import pytest
from homes import REPO
from hypothesis import given
from hypothesis import strategies as st

from scalems.env.layout import Layout
from scalems.errors import UsageError
from scalems.resource.config import Project, find_project

GOOD = '[localhost]\nextends = "local.localhost"\npilot = "pilot"\ntasks = ["task"]\n'


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    (tmp_path / "envs").mkdir()
    (tmp_path / "resource-configs").mkdir()
    return Project(tmp_path)


def write(project: Project, text: str, domain: str = "local") -> Project:
    (project.configs / f"{domain}.toml").write_text(text)
    return project


def test_the_repository_has_a_valid_config() -> None:
    project = find_project(REPO / "envs")
    assert project.root == REPO
    config = project.resource("local.localhost")
    assert config.envs == ("pilot", "task")
    assert project.labels() == ["lab.slurm", "local.localhost"]
    assert project.env_names() == ["pilot", "task"]


def test_all_that_a_config_may_say(bare: Project) -> None:
    write(bare, GOOD + "[localhost.definition]\ncores_per_node = 4\nnested = {a = [1, 2]}\n")
    config = bare.resource("local.localhost")
    assert config.extends == "local.localhost"
    assert (config.pilot, config.tasks) == ("pilot", ("task",))
    assert config.definition == {"cores_per_node": 4, "nested": {"a": [1, 2]}}


def test_one_env_may_be_the_pilots_and_a_tasks(bare: Project) -> None:
    write(bare, GOOD.replace('["task"]', '["task", "pilot"]'))
    assert bare.resource("local.localhost").envs == ("pilot", "task")


def test_several_mistakes_are_one_error(bare: Project) -> None:
    write(
        bare,
        "[one]\n"
        'extends = "local.localhost"\n'
        'pilot = "pilot"\n'
        'tasks = ["task"]\n'
        "[one.definition]\n"
        'virtenv = "/x"\n'
        'rp_version = "release"\n'
        "[two]\n"
        'pilot = "pilot"\n',
    )
    with pytest.raises(UsageError) as caught:
        bare.resource("local.one")
    path = bare.configs / "local.toml"
    assert caught.value.cause.splitlines() == [
        f"{path}:6: one.definition.virtenv: set by scalems itself; leave it out",
        f"{path}:7: one.definition.rp_version: set by scalems itself; leave it out",
        f"{path}:8: two: missing key 'extends', or a whole [two.definition] with "
        "default_remote_workdir, default_schema, launch_methods, resource_manager, schemas",
    ]


def test_a_definition_that_extends_no_other_must_be_whole(bare: Project) -> None:
    text = (REPO / "resource-configs" / "lab.toml").read_text()
    write(bare, text, "lab")
    config = bare.resource("lab.slurm")
    assert config.extends is None
    assert config.definition["schemas"]["batch"]["job_manager_endpoint"] == "slurm://localhost/"
    for line, wrong in (
        ('default_schema = "batch"', "default_schema: 'ssh' is none of `schemas`"),
        ('resource_manager = "SLURM"', "missing key 'extends', or a whole"),
        ("filesystem_endpoint", "must have filesystem_endpoint, a URL"),
    ):
        assert line in text
        write(bare, text.replace(line, 'default_schema = "ssh"' if "=" in line else "x"), "lab")
        if line.startswith("resource"):
            write(bare, text.replace(line, ""), "lab")
        with pytest.raises(UsageError, match=re.escape(wrong)):
            bare.resource("lab.slurm")


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("local.localhos", "did you mean 'local.localhost'?"),
        ("locl.localhost", "did you mean 'local.localhost'?"),
        ("local", "did you mean 'local.localhost'?"),
        ("zzz.qqq", "use one of: local.localhost"),
    ],
)
def test_an_unknown_resource_gets_near_names(bare: Project, label: str, hint: str) -> None:
    write(bare, GOOD)
    with pytest.raises(UsageError, match="there is no resource") as caught:
        bare.resource(label)
    assert hint in str(caught.value)


def test_an_unknown_env_gets_near_names(project: Path) -> None:
    with pytest.raises(UsageError, match=r"no env spec 'taks'.*did you mean 'task'"):
        Project(project).env_path("taks")


@given(
    st.text(max_size=40)
    | st.sampled_from(
        [
            *("../../etc.passwd", "local.", ".localhost", "local..", "local.localhost\n"),
            *("local.local\udcff", "/.x", "local/../local.localhost"),
            *("a" * 300, "x." + "y" * 300),
        ]
    )
)
def test_labels_lead_nowhere(tmp_path_factory, label: str):
    project = write(_shared(tmp_path_factory), GOOD)
    with pytest.raises(UsageError, match="there is no resource"):
        project.resource(label)


def test_names_with_a_line_end_are_refused(bare: Project) -> None:
    write(bare, GOOD.replace("[localhost]", '["localhost\\n"]'))
    with pytest.raises(UsageError):
        bare.resource("local.localhost\n")


@given(st.text(max_size=40) | st.sampled_from(["../pilot", "a/b", "pilot\n", "-", "x" * 300]))
def test_names_of_envs_lead_nowhere(tmp_path_factory, name: str):
    project = _shared(tmp_path_factory)
    with pytest.raises(UsageError, match="there is no env spec"):
        project.env_path(name)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]*", fullmatch=True))
def test_files_of_a_label_stay_in_their_folder(name: str) -> None:
    place = Layout(Path("/scalems"))
    assert place.resource(f"local.{name}").parent == Path("/scalems/resources")
    assert place.current(f"local.{name}", "task").parent.parent == Path("/scalems/current")


def test_the_project_is_found_from_inside(project: Path) -> None:
    inside = project / "a" / "b"
    inside.mkdir(parents=True)
    assert find_project(inside).root == project


def test_no_project_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has envs/ and resource-configs/"):
        find_project(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        find_project(tmp_path / "none")


def test_a_broken_neighbour_does_not_hide_the_others(bare: Project) -> None:
    write(bare, GOOD)
    write(bare, "not toml", domain="other")
    assert bare.labels() == ["local.localhost"]
    assert bare.resource("local.localhost").pilot == "pilot"


def _shared(factory: pytest.TempPathFactory) -> Project:
    root = factory.getbasetemp() / "labels"
    for name in ("envs", "resource-configs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return Project(root)
