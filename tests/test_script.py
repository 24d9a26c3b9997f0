from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.errors import UsageError
from scalems.script import Script, Words, split

OPTIONS = {
    "-h": False,
    "-v": False,
    "-q": False,
    "-j": True,
    "--verbose": False,
    "--max-workers": True,
    "--venv": True,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    (tmp_path / "data.txt").write_text("")
    return tmp_path


def parts(line):
    words = split(line.split(), OPTIONS)
    return " ".join(words.ours), words.script, " ".join(words.passed)


@pytest.mark.parametrize(
    ("line", "ours", "script", "passed"),
    [
        ("script.py", "", "script.py", ""),
        ("script.py -n 10 --verbose -h", "", "script.py", "-n 10 --verbose -h"),
        ("-v script.py -v", "-v", "script.py", "-v"),
        ("-j 4 --venv task script.py", "-j 4 --venv task", "script.py", ""),
        ("-j4 -qvj4 script.py", "-j4 -qvj4", "script.py", ""),
        ("-qj 4 script.py", "-qj 4", "script.py", ""),
        ("--max-workers=4 script.py 4", "--max-workers=4", "script.py", "4"),
        # options that are not ours
        ("--foo=1 script.py -n 10", "", "script.py", "--foo=1 -n 10"),
        ("--foo 1 script.py -n 10", "", "script.py", "--foo 1 -n 10"),
        ("--foo script.py -n 10", "", "script.py", "--foo -n 10"),
        ("--foo 1 -v -x script.py", "-v", "script.py", "--foo 1 -x"),
        ("-n10 -5 script.py", "", "script.py", "-n10 -5"),
        ("--foo data.txt script.py", "", "script.py", "--foo data.txt"),
        ("--foo=1 data.txt script.py", "", "data.txt", "--foo=1 script.py"),
        ("--foo a b script.py", "", "b", "--foo a script.py"),
        ("-vx script.py", "", "script.py", "-vx"),
        # a word that cannot be a value is the script, be it there or not
        ("scrip.py script.py", "", "scrip.py", "script.py"),
        ("-v scrip.py script.py", "-v", "scrip.py", "script.py"),
        # the end of ours
        ("-- script.py -v", "", "script.py", "-v"),
        ("-v --foo 1 -- -odd.py --", "-v", "-odd.py", "--foo 1 --"),
        ("script.py -- x", "", "script.py", "-- x"),
        ("--foo --", "", None, "--foo"),
        # no script
        ("", "", None, ""),
        ("-v -j", "-v -j", None, ""),
        ("--foo 1", "", None, "--foo 1"),
    ],
)
def test_split(folder, line, ours, script, passed):
    assert parts(line) == (ours, script, passed)


ours = st.sampled_from([["-v"], ["--verbose"], ["-j", "4"], ["-j4"], ["--venv", "a b"]])
foreign = st.sampled_from([["--foo=x y"], ["-5"], ["-n10"], ["--bar"], ["--foo", "1"], ["-x"]])
anything = st.lists(st.text(max_size=5), max_size=5)


@given(st.lists(st.tuples(st.booleans(), ours, foreign), max_size=6), anything)
def test_nothing_is_lost_and_the_order_is_kept(tmp_path_factory, mixed, after):
    script = tmp_path_factory.mktemp("split") / "script.py"
    script.write_text("")
    before = [mine if is_mine else other for is_mine, mine, other in mixed]
    words = split([*chain(*before), str(script), *after], OPTIONS)
    assert words.script == str(script)
    assert words.ours == [*chain(*(mine for is_mine, mine, _ in mixed if is_mine))]
    assert words.before == [*chain(*(other for is_mine, _, other in mixed if not is_mine))]
    assert words.passed == words.before + after


@given(st.lists(st.text(max_size=8) | st.sampled_from([*OPTIONS, "--", "-x", "--foo=1"])))
def test_any_line_is_divided_without_loss(line):
    words = split(line, OPTIONS)
    script = [] if words.script is None else [words.script]
    back = sorted([*words.ours, *script, *words.passed])
    assert sorted(line) in (back, sorted([*back, "--"]))


# --- reading --------------------------------------------------------------------------------


def read(name, **words):
    return Script.read(Words(script=name, **words))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "No script is given"),
        ("scrpt.py", r"no script scrpt.py\.\n.*did you mean script.py\?"),
        ("script", r"did you mean script.py\?"),
        ("nothing/like/it.py", "There is no script"),
        (".", r"\. is a folder.*\n.*did you mean script.py\?"),
        ("script.py/x", "cannot be read: Not a directory"),
    ],
)
def test_script_that_is_not_there(folder, name, message):
    with pytest.raises(UsageError, match=message):
        read(name)


def test_word_that_was_taken_as_a_value(folder):
    words = split(["--flag", "scrpt.py"], OPTIONS)
    with pytest.raises(UsageError, match=r"'scrpt.py' was taken as the value of --flag") as caught:
        Script.read(words)
    assert "did you mean script.py?" in str(caught.value)
    with pytest.raises(UsageError, match=r"script\.py --flag 10"):
        Script.read(split(["--flag", "10"], OPTIONS))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"x = 1\n\n  def f(:\n", r"bad.py:3: .*\n +def f\(:\n +\^"),
        (b"x = (\n", r"bad.py:1: '\(' was never closed"),
        (b'x = "\xff"\n', r"bad.py:1: .*utf-8"),
        (b"\x00\x01", "null bytes"),
        (b"# coding: nonsense\n", "bad.py.*nonsense"),
    ],
)
def test_script_that_is_not_python(folder, source, message):
    (folder / "bad.py").write_bytes(source)
    with pytest.raises(UsageError, match=message):
        read("bad.py")


def test_future_statements_of_ours_are_not_inherited(folder):
    (folder / "ok.py").write_text("def f(x: 1 + 1): ...\nassert f.__annotations__ == {'x': 2}\n")
    exec(read("ok.py").code, {})


# --- loading: in a process of its own, since it becomes __main__ ------------------------------


def load(folder, source, *arguments):
    (folder / "script.py").write_text(textwrap.dedent(source))
    program = (
        "import sys; from scalems.script import Script, Words;"
        "print(Script.read(Words(script='script.py')).load(sys.argv[1:]).function())"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_runs_as_main(folder):
    (folder / "beside.py").write_text("VALUE = 5\n")
    done = load(
        folder,
        """
        import sys, scalems, beside, inspect, __main__, os

        if __name__ == "__main__":
            print("block")

        @scalems.app
        def main():
            assert __main__.main is main
            assert os.path.isabs(__file__) and inspect.getsource(main.function)
            return sys.argv, beside.VALUE
        """,
        "-n",
        "10",
    )
    assert done.stdout == "block\n(['script.py', '-n', '10'], 5)\n", done.stderr


APP = "import scalems\n@scalems.app\ndef main(): return 'the one'\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "script.py defines no app"),
        (APP + APP, r"defines 2 apps: main \(line 2\), main \(line 5\)"),
        (APP + "@scalems.app\ndef other(): pass\n", r"main \(line 2\), other \(line 4\)"),
        ("import scalems\n@scalems.app\ndef main(n): pass\n", "needs arguments"),
        ("import scalems\n@scalems.app\nclass main: pass\n", "marks a function"),
        (APP + "main()\n", "was called as a function"),
    ],
)
def test_app_that_is_none(folder, source, message):
    done = load(folder, source)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


def test_imported_app(folder):
    (folder / "beside.py").write_text(APP)
    assert load(folder, "from beside import main\nagain = main\n").stdout == "the one\n"
    # The script's own comes first.
    own = APP.replace("the one", "mine").replace("main", "own")
    assert load(folder, f"from beside import main\n{own}").stdout == "mine\n"
