"""`env sync`: what it does, what it leaves alone, and that nothing half-done is ever trusted."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import builds, nothing_bad_is_trusted, processes_of
from homes import (
    LABEL,
    Scalems,
    add_task,
    changed,
    configure,
    in_namespace,
    make_scalems,
    small_project,
    tree,
)
from indexes import SlowIndex, closed_index, with_index

from scalems import probe
from scalems.errors import ExitCode

pytestmark = pytest.mark.network

SYNC = ("env", "sync", "--resource", LABEL)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home that was synced, and that tests change as they like: they begin with a sync."""
    made = make_scalems(tmp_path_factory.mktemp("used"))
    made.sync()
    return made


@pytest.fixture
def again(used: Scalems) -> Scalems:
    """The same with its project as it was at first, in sync."""
    shutil.rmtree(used.project)
    small_project(used.project)
    used.sync()
    return used


def spec_of(made: Scalems, name: str = "pilot") -> Path:
    return made.project / "envs" / f"{name}.toml"


def lock_of(made: Scalems, name: str = "pilot") -> Path:
    return made.project / "envs" / f"{name}.lock.txt"


def everything(made: Scalems) -> tuple[object, object]:
    """All but what a sync has written down to be faster the next time."""
    home = tree(made.home, content=False).items()
    seen = str(made.root.relative_to(made.home) / "seen")
    return {path: one for path, one in home if not path.startswith(seen)}, tree(made.project)


def start(made: Scalems, *words: str) -> subprocess.Popen[str]:
    """Start the command line as a shell does: in a process group of its own."""
    return subprocess.Popen(
        made.argv(*(words or SYNC)),
        cwd=made.project,
        env=made.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# --- a sync, and another one ------------------------------------------------------------------


def test_the_result_for_scripts(scalems: Scalems):
    result = scalems.sync()
    (folder,) = builds(scalems)
    (seconds,) = (env.pop("seconds") for env in result["envs"])
    assert seconds > 0
    assert result == {
        "resource": LABEL,
        "envs": [{"name": "pilot", "role": "pilot", "action": "built", "folder": str(folder)}],
        "locks": [
            {
                "name": "pilot",
                "path": str(lock_of(scalems)),
                "resolved_because": "",
                "changes": [],
            }
        ],
        "definition": {
            "path": str(scalems.definition),
            "diff": result["definition"]["diff"],
            "backup": None,
        },
    }
    assert scalems.build("pilot") == folder
    assert scalems.check("--deep")["ok"]
    same = scalems.sync()
    assert same == {
        **result,
        "envs": [{**result["envs"][0], "action": "unchanged", "seconds": 0.0}],
        "locks": [],
        "definition": {**result["definition"], "diff": ""},
    }


def test_what_people_see(scalems: Scalems):
    done = scalems.run(*SYNC)
    assert f"{LABEL} is ready" in done.stdout
    assert re.search(r"pilot +pilot +built +\d+\.\d +pilot-[0-9a-f]{16}", done.stdout)
    assert "installing" in done.stderr
    done = scalems.run(*SYNC)
    assert done.stdout == f"{LABEL} is in sync (pilot); nothing to do\n"
    assert done.stderr == ""
    assert scalems.run(*SYNC, "--quiet").stdout == ""


@pytest.mark.parametrize("words", [[], ["--frozen"], ["--offline"], ["--deep"], ["--dry-run"]])
def test_a_second_sync_changes_nothing_on_disk(small_home: Scalems, words):
    before = everything(small_home)
    result = small_home.sync(*words)
    assert [env["action"] for env in result["envs"]] == ["unchanged"]
    assert everything(small_home) == before


def test_from_a_folder_in_the_project_or_with_its_name(small_home: Scalems):
    words = small_home.argv(*SYNC, "--json")
    for cwd, more in ((small_home.project / "envs", []), ("/", ["-C", small_home.project])):
        done = subprocess.run([*words, *more], cwd=cwd, env=small_home.env, capture_output=True)
        assert json.loads(done.stdout)["envs"][0]["action"] == "unchanged"


# --- a dry run --------------------------------------------------------------------------------


def diff_of(path: Path, before: str, after: str) -> str:
    lines = (text.splitlines(keepends=True) for text in (before, after))
    name = str(path)
    return "".join(difflib.unified_diff(*lines, name if before else "/dev/null", name))


MINE = '# mine\n{\n  "other": {"a": [1,2]},\n  "localhost": {"virtenv": "/old"}\n}\n'


@pytest.mark.parametrize("text", ["", MINE])
def test_a_dry_run_tells_exactly_what_a_sync_does_and_does_nothing(scalems: Scalems, text):
    if text:
        scalems.definition.parent.mkdir(parents=True)
        scalems.definition.write_text(text)
    before = everything(scalems)
    dry = scalems.sync("--dry-run")
    shown = scalems.run(*SYNC, "--dry-run").stdout
    assert everything(scalems) == before
    assert "dry run: nothing was changed" in shown
    assert "would build" in shown
    assert dry["definition"]["diff"] in shown
    real = scalems.sync()
    assert dry["envs"] == [{**real["envs"][0], "action": "would build", "seconds": 0.0}]
    assert dry["locks"] == real["locks"]
    assert dry["definition"] == {**real["definition"], "backup": None}
    after = scalems.definition.read_text()
    assert real["definition"]["diff"] == diff_of(scalems.definition, text, after)
    assert f'"virtenv": "{scalems.build("pilot")}/venv"' in after
    backup = real["definition"]["backup"]
    assert (Path(backup).read_text() if backup else "") == text


def test_a_dry_run_of_an_upgrade_keeps_the_lock(again: Scalems):
    spec_of(again).write_text(spec_of(again).read_text() + 'constraints = ["idna<3.7"]\n')
    before = everything(again)
    dry = again.sync("--dry-run")
    assert everything(again) == before
    (one,) = dry["locks"]
    assert one["resolved_because"] == "pilot.toml changed"
    assert [line.partition(" -> ")[0].split()[:2] for line in one["changes"]] == [["~", "idna"]]
    assert [env["action"] for env in dry["envs"]] == ["would build"]
    removed = f'-        "virtenv": "{again.build("pilot")}/venv",'
    assert removed in dry["definition"]["diff"].splitlines()


# --- a changed spec ---------------------------------------------------------------------------


def test_a_changed_spec_is_resolved_and_built_beside_the_former_build(again: Scalems):
    former = again.build("pilot")
    before = tree(former, content=False)
    spec_of(again).write_text(spec_of(again).read_text() + 'constraints = ["idna<3.7"]\n')
    locked = lock_of(again).read_text()

    done = again.run(*SYNC, "--frozen", code=ExitCode.NOT_READY)
    assert "the lock of 'pilot' is not current: pilot.toml changed" in done.stderr
    assert "scalems env lock pilot" in done.stderr
    assert lock_of(again).read_text() == locked
    assert again.build("pilot") == former

    result = again.sync()
    (change,) = result["locks"][0]["changes"]
    assert re.fullmatch(r"~ idna \S+ -> 3\.[0-6]", change)
    assert [env["action"] for env in result["envs"]] == ["built"]
    assert again.build("pilot") != former
    assert changed(before, tree(former, content=False)) == []
    assert again.check("--deep")["ok"]
    assert again.sync("--frozen")["envs"][0]["action"] == "unchanged"

    # Back again: the former build is there, and as it was.
    shutil.rmtree(again.project)
    small_project(again.project)
    assert again.sync("--frozen")["envs"][0]["action"] == "reused"
    assert again.build("pilot") == former
    assert changed(before, tree(former, content=False)) == []


def test_a_comment_is_no_change(again: Scalems):
    before = tree(again.build("pilot"), content=False)
    spec_of(again).write_text("# A comment.\n" + spec_of(again).read_text())
    result = again.sync("--frozen")
    assert [env["action"] for env in result["envs"]] == ["reused"]
    assert result["locks"][0]["resolved_because"] == ""
    assert result["definition"]["diff"] == ""
    assert changed(before, tree(again.build("pilot"), content=False)) == []
    assert again.sync()["envs"][0]["action"] == "unchanged"


def test_without_a_lock_there_is_nothing_to_be_frozen(scalems: Scalems):
    lock_of(scalems).unlink()
    done = scalems.run(*SYNC, "--frozen", code=ExitCode.NOT_READY)
    assert "there is no lock yet" in done.stderr
    assert not lock_of(scalems).exists()
    assert builds(scalems) == []


def test_versions_that_cannot_be_together(again: Scalems):
    text = spec_of(again).read_text()
    wanted = text.replace("dependencies = []", 'dependencies = ["radical.pilot<1"]')
    assert wanted != text
    spec_of(again).write_text(wanted)
    before = everything(again)
    done = again.run(*SYNC, code=ExitCode.FAILED)
    assert str(spec_of(again)) in done.stderr
    assert "radical-pilot" in done.stderr
    assert "change the dependencies or constraints" in done.stderr
    assert everything(again) == before


# --- wrong use --------------------------------------------------------------------------------


def test_an_unknown_resource_gets_near_names(scalems: Scalems):
    words = ("env", "sync", "--resource", "local.locahost")
    done = scalems.run(*words, code=ExitCode.USAGE)
    assert "did you mean 'local.localhost'?" in done.stderr
    answer = scalems.json(*words, code=ExitCode.USAGE)
    assert answer.keys() == {"ok", "error", "remedy"}
    assert answer["ok"] is False
    assert tree(scalems.home) == {}


def test_an_unknown_environment_gets_near_names(scalems: Scalems):
    configure(scalems.project, 'tasks = ["pilto"]\n')
    done = scalems.run(*SYNC, code=ExitCode.USAGE)
    assert "there is no env spec 'pilto'" in done.stderr
    assert "did you mean 'pilot'?" in done.stderr


def test_a_spec_of_the_wrong_role_is_named_with_all_other_mistakes(scalems: Scalems):
    add_task(scalems.project, name="odd")
    add_task(scalems.project)
    spec_of(scalems).write_text('role = "task"\n')
    spec_of(scalems, "odd").write_text('role = "task"\npyhton = ">=3.10"\n')
    spec_of(scalems, "task").write_text('role = "pilot"\n')
    configure(scalems.project, 'tasks = ["odd", "task"]\n')
    done = scalems.run(*SYNC, code=ExitCode.USAGE)
    config = scalems.project / "resource-configs" / "local.toml"
    for name, role, wanted in (("pilot", "task", "pilot"), ("task", "pilot", "task")):
        assert (
            f"{spec_of(scalems, name)}: role is '{role}', but {config} uses it as the "
            f"{wanted} environment of {LABEL}" in done.stderr
        )
    assert "odd.toml:2: pyhton: unknown key (did you mean 'python'?)" in done.stderr
    assert builds(scalems) == []


@pytest.mark.parametrize(
    ("line", "code", "what"),
    [
        ('interpreter = "python3.99"', ExitCode.NOT_READY, "no interpreter 'python3.99' on this"),
        ('interpreter = "/nowhere/python3"', ExitCode.NOT_READY, "no interpreter '/nowhere/pyth"),
        ('interpreter = "true"', ExitCode.NOT_READY, "does not work"),
        ('interpreter = "false"', ExitCode.NOT_READY, "does not work"),
        ('python = ">=3.99"', ExitCode.USAGE, "python = '>=3.99' does not allow the client's"),
    ],
)
def test_a_python_that_is_not_there(scalems: Scalems, line, code, what):
    spec_of(scalems).write_text(f'role = "pilot"\n{line}\n')
    done = scalems.run(*SYNC, code=code)
    assert str(spec_of(scalems)) in done.stderr
    assert what in done.stderr
    assert "remedy: " in done.stderr
    assert builds(scalems) == []
    assert not scalems.definition.exists()


# --- no room, no right to write ---------------------------------------------------------------

TMPFS = 'mount -t tmpfs -o size=64k none "$HOME"'


def test_a_full_disk_at_any_point_is_told_and_leaves_nothing(scalems: Scalems):
    sync = " ".join(scalems.argv(*SYNC))
    script = (
        "for size in 64k 1m 6m 16m 24m; do\n"
        '  mount -o remount,size=$size "$HOME" || exit 98\n'
        f"  {sync} >&2; echo $size $?\n"
        '  find "$HOME" -name manifest.json -o -name .trash-* -o -name resource_local.json\n'
        "done\n"
        'mount -o remount,size=1g "$HOME" || exit 98\n'
        f"{sync} --quiet && {' '.join(scalems.argv('env', 'check', '--deep'))} >&2\n"
        "echo end $?\n"
    )
    done = in_namespace(TMPFS, ["sh", "-c", script], scalems)
    lines = done.stdout.splitlines()
    assert lines == ["64k 1", "1m 1", "6m 1", "16m 1", "24m 1", "end 0"], done.stderr
    assert len(re.findall(r"the disk is full|No space left on device", done.stderr)) >= 5
    assert done.stderr.count("remedy: ") == 5, done.stderr


READ_ONLY = 'mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME"'


def test_a_home_that_cannot_be_written(scalems: Scalems):
    done = in_namespace(READ_ONLY, scalems.argv(*SYNC), scalems)
    assert done.returncode == ExitCode.NOT_READY
    assert f"{scalems.root} cannot be written: Read-only file system" in done.stderr
    assert "export SCALEMS_HOME=" in done.stderr


def test_nothing_is_written_where_there_is_nothing_to_do(small_home: Scalems):
    done = in_namespace(READ_ONLY, small_home.argv(*SYNC), small_home)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    done = in_namespace(READ_ONLY, small_home.argv(*SYNC, "--dry-run"), small_home)
    assert done.returncode == 0, done.stderr


def test_a_lock_that_cannot_be_written(again: Scalems):
    spec_of(again).write_text(spec_of(again).read_text() + 'constraints = ["idna<3.7"]\n')
    before = everything(again)
    done = in_namespace(
        f'mount --bind "{again.project}" "{again.project}"'
        f' && mount -o remount,ro,bind "{again.project}"',
        again.argv(*SYNC),
        again,
    )
    assert done.returncode == ExitCode.USAGE
    assert f"{lock_of(again)} cannot be written" in done.stderr
    assert "--frozen" in done.stderr
    assert everything(again) == before


# --- the index --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_an_edited_hash_is_refused_with_the_package(scalems: Scalems, engine):
    text = lock_of(scalems).read_text()
    entry = re.search(r"(?m)^msgpack==\S+ \\\n(?:    --hash=\S+(?: \\)?\n)+", text)[0]
    forged = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", entry)
    lock_of(scalems).write_text(text.replace(entry, forged))
    done = scalems.run(*SYNC, "--frozen", "--engine", engine, code=ExitCode.FAILED)
    assert "does not have the hash that the lock demands" in done.stderr
    assert "msgpack==" in done.stderr
    assert "restore it from version control" in done.stderr
    assert builds(scalems) == []
    assert not scalems.definition.exists()
    lock_of(scalems).write_text(text)
    scalems.sync("--frozen")
    assert scalems.check("--deep")["ok"]


@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_an_index_that_cannot_be_reached_is_the_cause(scalems: Scalems, tmp_path, engine):
    alone = with_index(scalems, closed_index(), tmp_path / "caches")
    done = alone.run(*SYNC, "--engine", engine, code=ExitCode.FAILED)
    assert "the package index cannot be reached while installing into" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr
    assert builds(scalems) == []
    if engine == "uv":
        lock_of(scalems).unlink()
        done = alone.run(*SYNC, "--engine", engine, code=ExitCode.FAILED)
        assert "the package index cannot be reached while resolving" in done.stderr
        assert str(spec_of(scalems)) in done.stderr
        assert not lock_of(scalems).exists()


def test_the_password_of_an_index_is_not_shown(scalems: Scalems, tmp_path):
    url = closed_index().replace("http://", "http://somebody:secret@")
    alone = with_index(scalems, url, tmp_path / "caches")
    for words in ([], ["--json"]):
        done = alone.run(*SYNC, *words, code=ExitCode.FAILED)
        assert "cannot be reached" in done.stderr + done.stdout
        assert "secret" not in done.stderr + done.stdout


def test_offline_without_a_cache_says_so(scalems: Scalems, tmp_path):
    alone = with_index(scalems, closed_index(), tmp_path / "caches")
    done = alone.run(*SYNC, "--offline", code=ExitCode.FAILED)
    assert "a package is not in the local cache" in done.stderr
    assert "run once without --offline" in done.stderr
    assert builds(scalems) == []


# --- ended half-way ---------------------------------------------------------------------------

KILLER = """
import os, signal, sys

CHANGES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"),
    *("tempfile.mkstemp", "subprocess.Popen"),
}
event_wanted, number, home = sys.argv[1], int(sys.argv[2]), os.environ["HOME"]
seen = 0

def hook(event, args):
    global seen
    if event == "open":
        counts = isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
    else:
        counts = event in CHANGES
    if not counts or not (event_wanted == event or event_wanted == "any" and home in str(args)):
        return
    seen += 1
    if seen == number:
        os.killpg(0, signal.SIGKILL)

sys.addaudithook(hook)
from scalems.cli import run
code = run(sys.argv[3:])
print(seen)
sys.exit(code)
"""
"""Runs the command line, and kills its process group just before it changes something in the
home for the n-th time, or runs a command that does."""


def killed(made: Scalems, event: str, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", KILLER, event, str(number), *SYNC, "--quiet"],
        cwd=made.project,
        env=made.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )


def reset(made: Scalems) -> None:
    for folder in (made.home / ".local", made.home / ".radical"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home for syncs that are killed."""
    made = make_scalems(tmp_path_factory.mktemp("killed"))
    (made.home.parent / "tmp").mkdir()
    made.env["TMPDIR"] = str(made.home.parent / "tmp")
    return made


@pytest.fixture(scope="module")
def changes(breakable: Scalems) -> int:
    """How often a sync changes something."""
    done = killed(breakable, "any", 0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def the_next_sync_mends_it(made: Scalems) -> None:
    made.sync()
    assert made.check("--deep")["ok"]
    assert builds(made) == [made.build("pilot")]
    assert made.sync()["envs"][0]["action"] == "unchanged"


@pytest.mark.parametrize("part", range(1, 5))
def test_a_sync_killed_at_any_point_leaves_nothing_that_is_trusted(breakable, changes, part):
    reset(breakable)
    done = killed(breakable, "any", round(changes * part / 4))
    assert done.returncode == -signal.SIGKILL, done.stderr
    nothing_bad_is_trusted(breakable)
    the_next_sync_mends_it(breakable)


@pytest.mark.parametrize(
    ("event", "number"), [("os.rename", 1), ("shutil.rmtree", 1), ("os.remove", 300)]
)
def test_a_sync_killed_while_it_takes_a_bad_build_away(breakable, event, number):
    breakable.sync()
    folder = breakable.build("pilot")
    (probe.site_packages(folder / "venv") / "cloudpickle" / "extra.py").write_text("")
    done = killed(breakable, event, number)
    assert done.returncode == -signal.SIGKILL, done.stderr
    report = breakable.check(code=ExitCode.NOT_READY)
    assert {one["kind"] for one in report["findings"]} <= {"extra file", "missing build"}
    the_next_sync_mends_it(breakable)


def test_ctrl_c_leaves_no_process_and_no_half_build(scalems: Scalems, tmp_path):
    index = SlowIndex()
    with index.serve() as url:
        running = start(with_index(scalems, url, tmp_path / "caches"))
        index.asked.wait()
        assert len(processes_of(scalems)) == 1
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
        assert processes_of(scalems) == []
    assert running.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("interrupted; nothing unfinished is in use\n")
    assert builds(scalems) == []
    assert not scalems.definition.exists()
    the_next_sync_mends_it(scalems)


def test_an_installer_that_outlives_its_sync_is_waited_for(scalems: Scalems, tmp_path):
    index = SlowIndex()
    with index.serve() as url:
        running = start(with_index(scalems, url, tmp_path / "caches"))
        index.asked.wait()
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        (installer,) = processes_of(scalems)
        assert " pip sync " in installer
        nothing_bad_is_trusted(scalems)
        following = start(scalems)
        for line in following.stderr:
            if "another sync is making this build; waiting for what" in line:
                break
        else:
            pytest.fail("the next sync did not wait")
        assert processes_of(scalems) == [installer]
        index.answer.set()
        _, err = following.communicate()
    assert following.returncode == 0, err
    the_next_sync_mends_it(scalems)


# --- two at once ------------------------------------------------------------------------------


def test_two_at_once_make_one_build(scalems: Scalems):
    both = [start(scalems, *SYNC, "--json") for _ in range(2)]
    ended = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], ended
    results = [json.loads(out) for out, _ in ended]
    actions = sorted(result["envs"][0]["action"] for result in results)
    assert actions in (["built", "reused"], ["built", "unchanged"])
    assert results[0]["envs"][0]["folder"] == results[1]["envs"][0]["folder"]
    the_next_sync_mends_it(scalems)


def test_the_second_waits_and_does_what_the_first_could_not(scalems: Scalems, tmp_path):
    index = SlowIndex()
    with index.serve() as url:
        first = start(with_index(scalems, url, tmp_path / "caches"))
        index.asked.wait()
        second = start(scalems)
        assert (
            f"another sync of {LABEL} is running; waiting for process {first.pid} since"
            in second.stderr.readline()
        )
        index.answer.set()
        _, err = first.communicate()
        assert first.returncode == ExitCode.FAILED
        assert "failed while installing" in err
        _, err = second.communicate()
    assert second.returncode == 0, err
    the_next_sync_mends_it(scalems)


def test_two_resources_at_once_share_a_build_and_a_file_of_rp(scalems: Scalems):
    config = scalems.project / "resource-configs" / "local.toml"
    text = config.read_text()
    config.write_text(f"{text}\n{text.replace('[localhost]', '[second]')}")
    labels = [LABEL, "local.second"]
    both = [start(scalems, "env", "sync", "--resource", label, "--json") for label in labels]
    ended = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], ended
    results = [json.loads(out) for out, _ in ended]
    assert sorted(result["envs"][0]["action"] for result in results) == ["built", "reused"]
    (folder,) = builds(scalems)
    entries = json.loads(scalems.definition.read_text())
    assert {entries[name]["virtenv"] for name in ("localhost", "second")} == {f"{folder}/venv"}
    reports = scalems.json("env", "check", "--deep")
    assert [report["ok"] for report in reports] == [True, True]
