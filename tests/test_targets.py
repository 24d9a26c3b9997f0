"""Locks for other machines than this, and conflicts in plain words."""

from __future__ import annotations

import pytest
from homes import Scalems, make_scalems
from hypothesis import given
from hypothesis import strategies as st

from scalems.env import tag
from scalems.env.tag import Tag
from scalems.errors import ExitCode, UsageError


@given(
    st.integers(6, 99),
    st.one_of(st.just("manylinux2014"), st.integers(5, 99).map("manylinux_2_{}".format)),
    st.sampled_from(["x86_64", "aarch64"]),
)
def test_a_tag_is_read_back(minor, libc, cpu):
    made = Tag(python=f"3.{minor}", libc=libc, cpu=cpu)
    assert tag.parse(str(made)) == made


@given(st.text(max_size=40))
def test_any_other_text_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="is not a target") as caught:
        tag.parse(text)
    assert "cp312-manylinux_2_28_aarch64" in str(caught.value.remedy)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    return make_scalems(tmp_path_factory.mktemp("targets"))


def write(made: Scalems, dependencies: str) -> None:
    (made.project / "envs" / "other.toml").write_text(
        f'role = "task"\npython = ">=3.10"\ndependencies = [{dependencies}]\n'
    )


@pytest.mark.network
def test_a_lock_is_proven_for_each_target(made):
    write(made, '"openmm==8.3.1"')
    made.run("env", "lock", "other", "--target", "cp310-manylinux_2_28_x86_64")
    done = made.run("env", "lock", "other", "--target", "cp310-manylinux_2_28_aarch64", code=1)
    assert "openmm==8.3.1 has no wheels" in done.stderr
    assert "cp310-manylinux_2_28_aarch64" in done.stderr
    assert "constraints" in done.stderr


@pytest.mark.network
def test_a_resource_config_names_targets(made):
    write(made, '"openmm==8.3.1"')
    config = made.project / "resource-configs" / "local.toml"
    former = config.read_text()
    entry = '\n[{}]\nextends = "local.localhost"\npilot = "pilot"\ntasks = ["other"]\n'
    config.write_text(former + entry.format("arm") + 'targets = ["cp310-manylinux_2_28_aarch64"]\n')
    try:
        assert "no wheels" in made.run("env", "lock", "other", code=1).stderr
        made.run("env", "lock", "pilot")
        config.write_text(former + entry.format("arm") + 'targets = ["cp310-win_amd64"]\n')
        assert "must be a wheel's tag" in made.run("env", "lock", code=ExitCode.USAGE).stderr
    finally:
        config.write_text(former)


def test_a_target_that_is_none_is_refused_before_any_work(made):
    done = made.run("env", "lock", "--target", "cp312-linux", code=ExitCode.USAGE)
    assert "is not a target" in done.stderr


@pytest.mark.network
def test_pip_says_that_it_cannot_tell(made):
    write(made, '"openmm==8.3.1"')
    made.run("env", "lock", "other")
    words = ("--engine", "pip", "--target", "cp312-manylinux_2_28_x86_64")
    assert "--engine uv" in made.run("env", "lock", "other", *words, code=1).stderr


@pytest.mark.network
def test_a_conflict_names_who_asked_for_what(made):
    write(made, '"openmm",\n  "packaging>=26"')
    done = made.run("env", "lock", "other", code=1)
    assert "packaging>=26: dependencies in other.toml:4" in done.stderr
    assert "the client's, which every environment must have" in done.stderr
    assert "openmm:" not in done.stderr
