from __future__ import annotations

import re
from pathlib import Path

import pytest
from homes import REPO
from hypothesis import given
from hypothesis import strategies as st

from scalems.env import layout, spec
from scalems.env.layout import Layout
from scalems.env.role import Role
from scalems.errors import UsageError


def load(folder: Path, text: str, name: str = "task") -> spec.EnvSpec:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return spec.load(path)


def test_the_repository_has_valid_specs() -> None:
    for path in (REPO / "envs").glob("*.toml"):
        loaded = spec.load(path)
        assert loaded.role.value == path.stem
        assert loaded.lock_path.is_file()


def test_all_that_a_spec_may_say(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        'role = "task"\npython = "~=3.11"\ninterpreter = "python3.11"\n'
        'dependencies = ["numpy>=1.26"]\nconstraints = ["scipy<2"]\n',
    )
    assert loaded.name == "task"
    assert loaded.role is Role.TASK
    assert loaded.python == "~=3.11"
    assert loaded.interpreter == "python3.11"
    assert loaded.dependencies == ("numpy>=1.26",)
    assert loaded.constraints == ("scipy<2",)
    assert loaded.lock_path == tmp_path / "task.lock.txt"


def test_what_a_spec_may_leave_out(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'role = "pilot"\n')
    assert (loaded.python, loaded.interpreter) == (">=3.10", None)
    assert loaded.dependencies == loaded.constraints == ()


def test_contradictions_are_all_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(
            tmp_path,
            'role = "task"\n'
            'python = "three"\n'
            "dependencies = [\n"
            '    "numpy==1.26.4",\n'
            '    "NumPy<2",\n'
            '    "scalems",\n'
            '    "not a requirement",\n'
            '    "x @ https://example.org/x.whl",\n'
            '    "scipy==1.11",\n'
            "]\n"
            'constraints = ["scipy>=1.12"]\n'
            "unknown = 1\n",
        )
    lines = [
        line.removeprefix(f"{tmp_path / 'task.toml'}:")
        for line in str(caught.value.cause).splitlines()
    ]
    assert [int(line.partition(":")[0]) for line in lines] == [2, 5, 6, 7, 8, 11, 12]
    for line, what in zip(
        lines,
        [
            "'three' is not a version range",
            "NumPy is listed twice",
            "scalems is always installed",
            "is not a requirement",
            "comes from a URL",
            "no version of scipy is in both",
            "unknown key",
        ],
        strict=True,
    ):
        assert what in line


def test_two_names_of_one_distribution_are_the_same(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is listed twice"):
        load(tmp_path, 'role = "task"\ndependencies = ["radical.pilot", "radical-pilot>1"]\n')


def test_one_distribution_may_have_a_version_for_each_python(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        'role = "task"\n'
        "dependencies = [\"numpy==1.26.4; python_version < '3.12'\", "
        "\"numpy==2.1.0; python_version >= '3.12'\"]\n",
    )
    assert len(loaded.dependencies) == 2


hostile = st.one_of(
    st.text(max_size=50),
    st.sampled_from(
        ["../x", "a/b", "a;rm -rf", "$(x)", "a b", "-a", "A", ".", "", "a\n", "é", "a" * 41]
    ),
)


@given(hostile)
def test_names_of_environments_are_safe_in_paths_and_shells(tmp_path_factory, name: str):
    path = Path("/nowhere", f"{name}.toml") if "\0" not in name else Path("/nowhere/\0.toml")
    with pytest.raises(UsageError) as caught:
        spec.load(path)
    if "cannot name an environment" not in caught.value.cause:  # then only the file is missing
        assert re.fullmatch(r"[a-z][a-z0-9_-]*", path.stem, re.ASCII)
        place = Layout(Path("/root-of-scalems"))
        assert place.build(path.stem, "0" * 64).parent == place.builds
        assert place.current("local.localhost", path.stem).parent.parent.name == "current"


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({}, "HOME/.local/share/scalems"),
        ({"XDG_DATA_HOME": "/data"}, "/data/scalems"),
        ({"SCALEMS_HOME": "~/place", "XDG_DATA_HOME": "/data"}, "HOME/place"),
        ({"SCALEMS_HOME": ""}, "HOME/.local/share/scalems"),
    ],
)
def test_where_builds_go(home, monkeypatch, variables, root):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert str(layout.default().root) == root.replace("HOME", str(home))


def test_a_relative_place_is_made_absolute(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALEMS_HOME", "here")
    assert layout.default().root == tmp_path / "here"
