from __future__ import annotations

import os
import pickle
import stat

import pytest

import scalems
from scalems.errors import ScalemsError, UsageError
from scalems.workflow.executable import Completed, ExecutableError

LIMIT = 120


@scalems.task
def number():
    return 7


@scalems.task
def lines():
    return ["one", "two"]


@scalems.task
def text_of(completed):
    return completed.stdout


def shell(script, *args, **kwargs):
    return scalems.executable(["sh", "-c", script, *args], **kwargs)


def test_value(graph):
    future = scalems.executable(["echo", "hello"])
    assert future.name == "echo"
    assert future.result(LIMIT) == Completed(
        argv=("echo", "hello"), returncode=0, stdout="hello\n", stderr=""
    )


def test_arguments_are_not_seen_by_a_shell(graph):
    words = ["it's", "$HOME", "a  b", "*", "", "é\n"]
    done = scalems.executable(["printf", "%s|", *words]).result(LIMIT)
    assert done.stdout == "".join(f"{word}|" for word in words)


def test_futures_paths_and_numbers_are_arguments(graph, tmp_path):
    done = scalems.executable(["echo", number(), tmp_path, 1.5]).result(LIMIT)
    assert done.argv == ("echo", "7", str(tmp_path), "1.5")


def test_a_future_of_it_is_an_argument(graph):
    assert text_of(scalems.executable(["echo", "hello"])).result(LIMIT) == "hello\n"


def test_output_files(graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    future = shell("echo out; echo err >&2", stdout="new/out.txt", stderr=tmp_path / "err.txt")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")  # the names belong to the folder of the call
    done = future.result(LIMIT)
    assert done.stdout == tmp_path / "new" / "out.txt"
    assert done.stdout.read_text() == "out\n"
    assert (tmp_path / "err.txt").read_text() == "err\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["err.txt", "new", "other"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(done.stdout.stat().st_mode) == 0o666 & ~mask


def test_output_is_kept_as_it_is(graph, tmp_path):
    path = tmp_path / "bytes"
    done = shell(r"printf '\377\000x'", stdout=path).result(LIMIT)
    assert path.read_bytes() == b"\xff\0x"
    assert done.stdout == path
    assert shell(r"printf '\377'").result(LIMIT).stdout == "\N{REPLACEMENT CHARACTER}"


def test_failure(graph, tmp_path):
    future = shell("echo out; echo the reason >&2; exit 3", stdout=tmp_path / "out")
    with pytest.raises(ExecutableError, match="sh ended with exit code 3") as caught:
        future.result(LIMIT)
    assert "the reason" in str(caught.value)
    assert (caught.value.returncode, caught.value.argv[0]) == (3, "sh")
    assert (tmp_path / "out").read_text() == "out\n"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.returncode, again.stderr) == (3, "the reason")


def test_only_the_end_of_a_long_stderr_is_shown(graph):
    with pytest.raises(ExecutableError) as caught:
        shell("seq 100000 >&2; exit 1").result(LIMIT)
    assert str(caught.value).endswith("\n100000")
    assert len(str(caught.value)) < 5000


def test_signal(graph):
    with pytest.raises(ExecutableError, match="was ended by SIGTERM"):
        shell("kill -TERM $$").result(LIMIT)


def test_limits_of_cpu_time_and_memory(graph):
    with pytest.raises(ExecutableError, match=r"sh has used up its CPU time \(SIGXCPU\)"):
        shell("while :; do :; done", cpu_time=1).result(LIMIT)
    words = ["python3", "-c", "len(b'x' * 10**9)"]
    with pytest.raises(ExecutableError, match="MemoryError"):
        scalems.executable(words, memory="200MB").result(LIMIT)
    assert scalems.executable(["echo", "x"], memory="200MB", cpu_time=5).result(LIMIT).stdout


def test_program_that_does_not_exist(graph):
    with pytest.raises(ExecutableError, match=r"nosuch did not start: there is no such program"):
        scalems.executable(["nosuch"]).result(LIMIT)
    with pytest.raises(ExecutableError, match=r"there is no folder /nosuch"):
        scalems.executable(["echo"], cwd="/nosuch").result(LIMIT)


def test_program_that_is_none(graph, tmp_path):
    path = tmp_path / "data"
    path.write_text("")
    with pytest.raises(ExecutableError, match="Permission denied"):
        scalems.executable([path]).result(LIMIT)


def test_environment_and_folder(graph, tmp_path):
    done = shell("echo $NEW $0; pwd", env={"NEW": number()}, cwd=tmp_path).result(LIMIT)
    assert done.stdout == f"7 sh\n{tmp_path}\n"


def test_lines_before_it(graph, tmp_path):
    lines = {"pre_exec": ["export A='it is'", "echo > made"], "pre_rank": ['export B="$A so"']}
    done = shell("echo $B; ls", **lines).result(LIMIT)
    assert done.stdout == "it is so\nmade\n"
    with pytest.raises(ExecutableError, match="before the program failed: cd /nowhere-at-all"):
        shell(f"touch {tmp_path}/ran", pre_exec=["cd /nowhere-at-all"]).result(LIMIT)
    with pytest.raises(ExecutableError, match="unexpected EOF"):
        shell(f"touch {tmp_path}/ran", pre_exec=["echo 'open"]).result(LIMIT)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("export A=1", "pre_exec is a list of shell lines"),
        (["true", "a\nb"], r"pre_exec\[1\] must be one line"),
        ([" "], r"pre_exec\[0\] must be one line"),
        ([3], r"pre_exec\[0\] must be one line"),
    ],
)
def test_lines_that_are_none(graph, lines, what):
    with pytest.raises(UsageError, match=what):
        shell("true", pre_exec=lines)


class TestStdin:
    def test_is_empty_by_default(self, graph):
        assert scalems.executable(["cat"]).result(LIMIT).stdout == ""

    def test_file(self, graph, tmp_path):
        path = tmp_path / "in.txt"
        path.write_text("from a file")
        assert scalems.executable(["cat"], stdin=path).result(LIMIT).stdout == "from a file"
        assert scalems.executable(["cat"], stdin=str(path)).result(LIMIT).stdout == "from a file"

    @pytest.mark.parametrize(
        ("content", "text"), [(b"raw", "raw"), (["a", "b\n", "c"], "a\nb\nc\n"), ([], "")]
    )
    def test_content(self, graph, content, text):
        assert scalems.executable(["cat"], stdin=content).result(LIMIT).stdout == text

    def test_future(self, graph):
        assert scalems.executable(["cat"], stdin=lines()).result(LIMIT).stdout == "one\ntwo\n"
        first = scalems.executable(["echo", "x"])
        assert scalems.executable(["cat"], stdin=text_of(first)).result(LIMIT).stdout == "x\n"
        with pytest.raises(UsageError, match="not a int"):
            scalems.executable(["cat"], stdin=number()).result(LIMIT)

    def test_missing_file(self, graph):
        with pytest.raises(UsageError, match=r"stdin cannot be read: nofile"):
            scalems.executable(["cat"], stdin="nofile")


@pytest.mark.parametrize("argv", ["echo hello", [], b"echo"])
def test_refuses_what_is_no_list(graph, argv):
    with pytest.raises(UsageError, match="takes a list of the program"):
        scalems.executable(argv)


@pytest.mark.parametrize(
    ("word", "name"), [(None, "None"), ([1], "a list"), (True, "a bool"), (number, "a Task")]
)
def test_refuses_words_that_are_none(graph, word, name):
    with pytest.raises(UsageError, match=f"argument 1 is {name}"):
        scalems.executable(["echo", word])


def test_refuses_a_value_that_is_no_word(graph):
    with pytest.raises(UsageError, match="argument 1 is a Completed"):
        scalems.executable(["echo", scalems.executable(["echo"])]).result(LIMIT)


def test_output_that_cannot_be_written(graph, tmp_path):
    with pytest.raises(UsageError, match="it is a folder"):
        scalems.executable(["echo"], stdout=tmp_path)
    with pytest.raises(ScalemsError, match="could not be written to /proc/no/file"):
        scalems.executable(["echo"], stdout="/proc/no/file").result(LIMIT)


def test_without_a_workflow():
    with pytest.raises(UsageError, match="no workflow is running"):
        scalems.executable(["echo"])
