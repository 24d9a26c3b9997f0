"""Files as values, and the inputs and outputs of programs."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
from scalems.errors import UsageError
from scalems.workflow import file
from scalems.workflow.program import relative

LIMIT = 120


@pytest.fixture
def run_script(tmp_path):
    """Run a script on the local backend; return how it ended."""

    def run(*options, source=SCRIPT):
        (tmp_path / "script.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "-m", "scalems.local", *options, "script.py"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return run


def shell(script, *args, **kwargs):
    return scalems.executable(["sh", "-c", script, *args], **kwargs)


@scalems.task
def write(text):
    Path("made.txt").write_text(text)
    made = scalems.file("made.txt")
    Path("made.txt").unlink()
    return made


@scalems.task
def read(given):
    with open(given) as opened:  # noqa: PTH123 - what a user writes
        return opened.read()


def test_a_file_goes_from_task_to_task(graph):
    made = write("hello")
    assert read(made).result(LIMIT) == "hello"
    value = made.result()
    assert (value.name, value.size, value.place) == ("made.txt", 5, "")
    assert value.read_text() == "hello"
    assert value == scalems.File("made.txt", value.digest, 5)


def test_a_file_of_the_client_is_read_where_it_lies(graph, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("content")
    assert read(scalems.file(path)).result(LIMIT) == "content"


def test_a_file_that_changes_is_an_error(graph, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("content")
    given = scalems.file(path)
    path.write_text("CONTENT")
    with pytest.raises(scalems.FileError, match="has changed"):
        read(given).result(LIMIT)


def test_there_must_be_a_file(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        scalems.file(tmp_path / "none")
    with pytest.raises(UsageError, match="is a folder"):
        scalems.file(tmp_path)


def test_copy_to(graph, tmp_path):
    made = write("hello").result(LIMIT)
    (tmp_path / "there").mkdir()
    assert made.copy_to(tmp_path / "there") == tmp_path / "there" / "made.txt"
    copy = made.copy_to(tmp_path / "new" / "name")
    assert copy.read_text() == "hello"
    assert os.access(copy, os.W_OK)


def test_inputs_and_outputs_of_programs(graph, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    first = shell("cat a.txt > b.txt", inputs=[tmp_path / "a.txt"], outputs=["b.txt"])
    second = shell(
        "cat in/x.txt in/y.txt > out; cat out",
        inputs={"in/x.txt": first.file["b.txt"], "in/y.txt": b"bytes"},
        outputs={"all": "out"},
    )
    done = second.result(LIMIT)
    assert done.stdout == "abytes"
    assert done.file["all"].read_text() == "abytes"
    assert done.file["all"].name == "out"
    assert read(second.file["all"]).result(LIMIT) == "abytes"


def test_a_file_is_a_word_of_a_program(graph):
    assert scalems.executable(["cat", write("hello")]).result(LIMIT).stdout == "hello"


def test_a_program_cannot_change_its_inputs(graph, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    done = shell("rm a.txt; echo new > a.txt", inputs=[path]).result(LIMIT)
    assert done.returncode == 0
    assert path.read_text() == "a"
    again = shell("cat a.txt", inputs=[path]).result(LIMIT)
    assert again.stdout == "a"


def test_a_program_has_a_folder_of_its_own(graph):
    first, second = shell("pwd; touch left"), shell("pwd; ls")
    folder, listed = first.result(LIMIT).stdout, second.result(LIMIT).stdout
    assert folder != listed
    assert "left" not in listed
    assert not Path(folder.strip()).exists()


def test_an_output_that_is_missing(graph):
    future = shell("echo why >&2; touch other", outputs=["wanted.dat"])
    with pytest.raises(scalems.ExecutableError) as raised:
        future.result(LIMIT)
    text = str(raised.value)
    assert "has not made 'wanted.dat'" in text
    assert "it has left other" in text
    assert text.endswith("why")


def test_exit_codes(graph):
    assert shell("exit 3", exit_codes=(0, 3)).result(LIMIT).returncode == 3
    with pytest.raises(scalems.ExecutableError):
        shell("exit 4", exit_codes=(0, 3)).result(LIMIT)


def test_wrong_inputs_and_outputs(graph, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        shell("true", inputs=[tmp_path / "none"])
    with pytest.raises(UsageError, match=r"without '\.\.'"):
        shell("true", outputs=["../../etc/passwd"])
    with pytest.raises(UsageError, match="its name in the working folder is not known"):
        shell("true", inputs=[write("x")])
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="same name"):
        shell("true", inputs=[tmp_path / "a", tmp_path / "a"])
    with pytest.raises(UsageError, match="The input 'x' is a int"):
        shell("true", inputs={"x": scalems.submit(int)}).result(LIMIT)


@given(st.text())
def test_no_name_leads_out_of_the_working_folder(name):
    base = Path("/base")
    try:
        path = relative(name)
    except UsageError:
        return
    resolved = Path(os.path.normpath(base / path))
    assert base in resolved.parents


@given(st.binary(max_size=200), st.text(max_size=20))
def test_a_file_survives_pickling(content, name):
    value = scalems.File(name, "0" * 64, len(content), "/place")
    again = pickle.loads(pickle.dumps(value))
    assert (again, again.place) == (value, "/place")


SCRIPT = """
import sys
import scalems

@scalems.task
def count(given):
    return len(open(given).read())

@scalems.app
def main():
    made = scalems.executable(["sh", "-c", "echo ran >&2; cat a.txt a.txt > b.txt"],
                              inputs=["a.txt"], outputs=["b.txt"])
    print(count(made.file["b.txt"]).result(), made.result().file["b.txt"].read_text())
"""


def test_files_are_kept_with_the_results(run_script, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    first = run_script()
    assert "0 failed" in first.stderr
    assert first.stdout == "2 aa\n"
    again = run_script()
    assert "(2 in a former run)" in again.stderr
    assert again.stdout == "2 aa\n"
    # A store may be moved with its script, and what was removed by hand is made again.
    for path in (tmp_path / ".scalems" / "objects").glob("*/*"):
        path.unlink()
    third = run_script()
    assert third.stdout == "2 aa\n"
    assert "former" not in third.stderr.splitlines()[-1] or "(1 in" in third.stderr
    assert not list((tmp_path / ".scalems" / "scratch").glob("*"))
    (tmp_path / "a.txt").write_text("bb")
    assert run_script().stdout == "4 bbbb\n"


def test_without_a_store_nothing_is_left(run_script, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert run_script("--no-store").stdout == "2 aa\n"
    assert not list(tmp_path.glob(".scalems*"))


def test_a_store_of_the_first_format_is_read(run_script, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    run_script()
    path = tmp_path / ".scalems" / "results.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE results DROP COLUMN files")
        database.execute("PRAGMA user_version=1")
    assert run_script().stdout == "2 aa\n"


def test_cleaning_keeps_the_files_of_results(run_script, tmp_path):
    from scalems.store.history import History

    (tmp_path / "a.txt").write_text("a")
    run_script()
    objects = list((tmp_path / ".scalems" / "objects").glob("*/*"))
    for path in objects:
        os.utime(path, (0, 0))
    history = History(tmp_path / ".scalems")
    kept = history.leavings(unused=None, runs=True)
    made = [path for path in objects if path.read_text() == "aa"]
    assert made
    assert not set(made) & set(kept.objects)
    gone = history.leavings(unused=0, runs=True)
    assert set(made) <= set(gone.objects)


def test_an_object_that_was_changed_is_an_error(graph):
    made = write("hello").result(LIMIT)
    path = made.path
    path.chmod(0o644)
    path.write_text("HELLO")
    with pytest.raises(scalems.FileError, match="has changed"):
        read(made).result(LIMIT)
    assert file.object_path(path.parents[1], made.digest) == path


def test_only_the_part_that_is_taken_counts(run_script, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    run_script()
    changed = SCRIPT.replace("echo ran >&2", "echo ran again >&2")
    assert "(1 in a former run)" in run_script(source=changed).stderr
