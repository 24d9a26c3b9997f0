"""Completion, driven in a real bash on a terminal, as a user does with TAB."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import LABEL, Scalems, make_scalems

from scalems.env import layout, state
from scalems.env.layout import Layout
from scalems.env.role import Role
from scalems.env.state import Synced, SyncedEnv

MARK = "<ready>"


class Bash:
    """An interactive bash in which scalems is completed."""

    def __init__(self, made: Scalems) -> None:
        self._master, slave = pty.openpty()
        scripts = str(Path(sys.executable).parent)
        env = {
            **made.env,
            "TERM": "dumb",
            "PS1": MARK,
            "COLUMNS": "200",
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "INPUTRC": os.devnull,
        }
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=made.project,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._number = 0
        self._until(MARK)
        self.type('eval "$(scalems completion bash)"; bind "set enable-bracketed-paste off"\n')
        self._until(f"\r\n{MARK}")

    def type(self, text: str) -> None:
        """Type text."""
        os.write(self._master, text.encode())

    def complete(self, line: str) -> str:
        """Return the line after a TAB, which a word with one end only has completed."""
        self.type(f"{line}\t")
        # Add at its begin and at its end; only the output has the number right after the brackets.
        self._number += 1
        self.type(f"\x01echo '[[\x05]]'{self._number}\n")
        shown = self._until(f"]]{self._number}\r\n{MARK}")
        return re.findall(rf"\[\[(scalems[^\]]*)\]\]{self._number}", shown)[-1].strip()

    def _until(self, text: str) -> str:
        shown = ""
        end = time.monotonic() + 60
        while text not in shown:
            ready, _, _ = select.select([self._master], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {text!r} in {shown!r}"
            shown += os.read(self._master, 65536).decode(errors="replace")
        return shown

    def close(self) -> None:
        """End it."""
        os.close(self._master)
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home where a resource has two generations, of which no build is there."""
    made = make_scalems(tmp_path_factory.mktemp("completion"))
    place = Layout(made.root)
    (made.project / "my_script.py").touch()
    (made.project / "my_script.txt").touch()
    for number in (1, 2):
        envs = tuple(
            SyncedEnv(
                name=role.value,
                role=role,
                folder=place.build(role.value, f"{number}" * 64),
                spec=made.project / "envs" / f"{role.value}.toml",
                spec_digest="",
            )
            for role in (Role.PILOT, Role.TASK)
        )
        state.write(
            place,
            Synced(
                label=LABEL,
                project=made.project,
                key="",
                envs=envs,
                definition=made.definition,
                fields={},
            ),
        )
    assert len(state.generations(place, LABEL)) == 2
    assert layout.default() != place
    return made


@pytest.fixture(scope="module")
def bash(made: Scalems) -> Iterator[Bash]:
    if not shutil.which("bash"):
        pytest.skip("there is no bash here")
    shell = Bash(made)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("scalems en", "scalems env"),
        ("scalems env expl", "scalems env explain"),
        ("scalems env sync --reso", "scalems env sync --resource"),
        ("scalems env check --resource local.lo", f"scalems env check --resource {LABEL}"),
        ("scalems resource show local.lo", f"scalems resource show {LABEL}"),
        ("scalems env sync --engine u", "scalems env sync --engine uv"),
        ("scalems env lock pi", "scalems env lock pilot"),
        ("scalems env show pi", "scalems env show pilot"),
        ("scalems env diff lock:p", "scalems env diff lock:pilot"),
        ("scalems env diff pilot#2", "scalems env diff pilot#2"),
        ("scalems env explain psij", "scalems env explain psij-python"),
        (
            "scalems env bundle --target cp313-manylinux_2_28_a",
            "scalems env bundle --target cp313-manylinux_2_28_aarch64",
        ),
        ("scalems env show nothing", "scalems env show nothing"),
        ("scalems completion ba", "scalems completion bash"),
        ("scalems-local --inl", "scalems-local --inline"),
        ("scalems-radical --resource local.lo", f"scalems-radical --resource {LABEL}"),
        (
            f"scalems-radical --resource {LABEL} --venv ta",
            f"scalems-radical --resource {LABEL} --venv task",
        ),
        ("scalems-radical --pilot wa", "scalems-radical --pilot warm"),
        ("scalems-local my_sc", "scalems-local my_script.py"),
    ],
)
def test_tab_completes_what_can_only_be_one(bash: Bash, typed: str, completed: str):
    assert bash.complete(typed) == completed


def words(made: Scalems, line: str) -> set[str]:
    """Return all words that could come next, as the shell is told them."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(line.split()[0]))],
        env={
            **made.env,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(made.home / "words"),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        cwd=made.project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return {word.strip() for word in (made.home / "words").read_text().split("\n") if word.strip()}


def test_generations_are_offered(made: Scalems):
    assert words(made, f"scalems env rollback --resource {LABEL} --to ") == {"1", "2"}
    assert {"pilot#1", "pilot#2", "pilot", "client", "lock:pilot"} <= words(
        made, "scalems env explain-key "
    )


def test_what_a_run_can_use_is_offered(made: Scalems):
    assert words(made, f"scalems-radical --resource {LABEL}:nodes=2 --venv ") == {"task"}
    assert words(made, "scalems-radical --resource no.such --venv ") == set()
    assert words(made, "scalems-local --venv ") == {"task"}
    assert {"auto", "new", "warm"} <= words(made, "scalems-radical --pilot ")
    assert words(made, "scalems-local my_") == {"my_script.py"}


def test_they_run_what_python_runs(made: Scalems):
    (made.project / "beside.py").write_text("ANSWER = 42\n")
    (made.project / "my_script.py").write_text(
        "import sys, scalems, beside\n"
        "@scalems.task\ndef add(x): return x + beside.ANSWER\n"
        "@scalems.app\ndef main(): print(add(int(sys.argv[1])).result())\n"
    )
    for program in (["-m", "scalems.local"], [Path(sys.executable).with_name("scalems-local")]):
        argv = [sys.executable, *program, "--no-store", "-q", "my_script.py", "1"]
        done = subprocess.run(argv, cwd=made.project, env=made.env, capture_output=True, text=True)
        assert done.stdout == "43\n", done.stderr
    argv = [str(Path(sys.executable).with_name("scalems-radical")), "nothing.py"]
    done = subprocess.run(argv, cwd=made.project, env=made.env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--resource" in done.stderr


def test_all_commands_are_offered_and_no_option_before_a_dash(made: Scalems):
    assert {"env", "resource", "pilot", "runs", "doctor", "completion"} <= words(made, "scalems ")
    assert not [word for word in words(made, "scalems env ") if word.startswith("-")]
    assert {"--bundle", "--offline"} <= words(made, "scalems env sync --")


def test_where_there_is_no_project_nothing_breaks(made: Scalems, tmp_path: Path):
    alone = Scalems(home=tmp_path, project=tmp_path, env={**made.env, "HOME": str(tmp_path)})
    for line in ("scalems env lock ", "scalems env show ", "scalems pilot stop ", "scalems show "):
        assert words(alone, line) == set()
    (tmp_path / "envs").mkdir()
    (tmp_path / "resource-configs").mkdir()
    (tmp_path / "resource-configs" / "bad.toml").write_text("[")
    (tmp_path / "envs" / "bad.lock.txt").write_bytes(b"\xff==\n")
    assert words(alone, "scalems env sync --resource ") == set()
    assert words(alone, "scalems env explain ") == set()


def test_each_shell_gets_its_code(made: Scalems):
    for shell in ("bash", "zsh", "fish", "tcsh"):
        assert "scalems-radical" in made.run("completion", shell).stdout
    assert "invalid choice" in made.run("completion", "dos", code=2).stderr
