from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalems.env import spec, state
from scalems.env.role import Role
from scalems.env.verification import Build
from scalems.errors import UsageError
from scalems.resource.config import Project
from scalems.resource.lines import Lines
from scalems.workflow import mpi


def written(folder: Path, text: str) -> Path:
    path = folder / "task.toml"
    path.write_text(text)
    return path


def test_lines_are_composed_in_the_order_of_their_authors() -> None:
    one = Lines(pre_exec=("a",), pre_rank=("r",))
    other = Lines(pre_exec=("b", "c"), pre_launch=("l",))
    assert one + other == Lines(pre_launch=("l",), pre_exec=("a", "b", "c"), pre_rank=("r",))
    assert Lines.of((one + other).to_dict()) == one + other
    assert not Lines()
    assert Lines().to_dict() == {}


def test_every_line_that_is_none_is_named_by_its_place(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'role = "task"\n'
        "pre_exec = [\n"
        "    'export A=1',\n"
        "    'echo \"open',\n"
        "    'if true; then',\n"
        '    "two\\nlines",\n'
        "    '  ',\n"
        "]\n"
        'pre_rank = ["ends\\n"]\n'
        'pre_launc = ["x"]\n',
    )
    with pytest.raises(UsageError) as caught:
        spec.load(path)
    told = caught.value.cause
    for line, what in (
        (4, "pre_exec[1]: is not one whole line of shell"),
        (5, "pre_exec[2]: is not one whole line of shell"),
        (6, "pre_exec[3]: must be one line of shell"),
        (7, "pre_exec[4]: must be one line of shell"),
        (9, "pre_rank[0]: must be one line of shell"),
        (10, "pre_launc: unknown key (did you mean"),
    ):
        assert f"{path}:{line}: {what}" in told
    assert "pre_exec[0]" not in told


def test_lines_of_a_resource_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    configs = tmp_path / "resource-configs"
    configs.mkdir()
    (configs / "lab.toml").write_text(
        '[a]\nextends = "local.localhost"\npilot = "pilot"\npre_exec = ["echo \'"]\n'
    )
    with pytest.raises(UsageError, match=r"lab.toml:4: a.pre_exec\[0\]: is not one whole line"):
        Project(tmp_path).resource("lab.a")


def test_an_environment_without_calls_has_no_lines(tmp_path: Path) -> None:
    path = written(tmp_path, 'role = "pilot"\npre_exec = ["true"]\n')
    with pytest.raises(UsageError, match="2: pre_exec: is for calls"):
        spec.load(path)


@settings(max_examples=30)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=20))
def test_any_text_is_a_line_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), 'role = "task"\n')
    path.write_text(f"role = 'task'\npre_exec = [{json.dumps(text, ensure_ascii=False)}]")
    one_line = text.strip() and not set("\n\r\0") & set(text)
    try:
        assert spec.load(path).lines.pre_exec == (text,)
        assert one_line
    except UsageError as error:
        told = error.cause
        if one_line:  # then bash cannot read it
            told = told.replace("is not one whole line of shell", "")
        if "pre_exec[0]" not in told:
            raise


def test_results_belong_to_the_lines_that_they_were_computed_with() -> None:
    def computes(**more: object) -> str:
        plain = {"name": "t", "role": Role.TASK, "folder": Path(), "input_digest": "i"}
        return Build(**plain, content_digest="c", scalems_digest="", versions={}, **more).computes  # type: ignore[arg-type]

    found = {
        computes(),
        computes(lines=Lines(pre_exec=("export A=1",))),
        computes(lines=Lines(pre_exec=("export A=2",))),
        computes(lines=Lines(pre_rank=("export A=1",))),
    }
    assert len(found) == 4
    assert computes() == "c"


def test_a_record_of_a_former_version_has_no_lines(tmp_path: Path) -> None:
    known = state.Synced(
        label="a.b",
        project=tmp_path,
        key="",
        envs=(
            state.SyncedEnv(
                name="all",
                role=Role.BOTH,
                folder=tmp_path,
                spec=tmp_path,
                spec_digest="",
                lines=Lines(pre_exec=("a",)),
            ),
        ),
        definition=tmp_path,
        fields={},
        lines=Lines(pre_rank=("b",)),
    )
    data = state.to_dict(known)
    assert state.from_dict(data, "a.b") == known
    assert known.pilot is known.tasks[0]
    del data["lines"], data["envs"][0]["lines"]
    old = state.from_dict(data, "a.b")
    assert old is not None
    assert not old.lines
    assert not old.envs[0].lines


def test_a_line_that_fails_is_told_and_nothing_runs_after_it() -> None:
    def run(*shell: str) -> subprocess.CompletedProcess[str]:
        words = [*mpi.shell(shell), "printenv", "A"]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert run("export A='it is'", "true").stdout == "it is\n"
    failed = run("export A=1", "cd /nowhere-at-all", "export A=2")
    assert (failed.stdout, failed.returncode) == ("", 1)
    assert "before the program failed: cd /nowhere-at-all" in failed.stderr
    assert mpi.shell(()) == []
