"""Disks that are full, read-only or bad, and clocks that jump: nothing finished is lost or trusted
wrongly, what is wrong is told with a remedy, and the next run goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from homes import Scalems, debian, in_namespace
from hypothesis import given
from hypothesis import strategies as st

from scalems.errors import ScalemsError, UsageError
from scalems.store import database
from scalems.store.mend import mend
from scalems.store.store import Store
from scalems.workflow.call import Outcome

COUNT = 300
SCRIPT = """
import os, sys
import scalems

@scalems.task
def made(x, size):
    with open(os.environ["LOG"], "a") as log:
        log.write("x")
    return bytes([x]) * size

@scalems.app
def main():
    sizes = [10] * 20 + [1_000_000] * 6
    print(sum(len(one) for one in scalems.gather(made(i, n) for i, n in enumerate(sizes))))
"""
ANSWER = "6000200"


def value(ident: int) -> bytes:
    return b"%d " % ident * 100


def wrong_or_told(folder: Path) -> tuple[int, list[str]]:
    """Look all results up; return how many there are, and what was told. None may be wrong."""
    told: list[str] = []
    found = 0
    try:
        store = Store(folder, warn=told.append)
        store.begin(script="s", argv=[], backend="b", label="l", env="e")
        for ident in range(COUNT):
            _, outcome = store.find(ident, store.identify(abs, (ident,), {}), ())
            if outcome is not None:
                assert outcome.payload == value(ident)
                found += 1
        store.end(0)
    except ScalemsError as error:
        told.append(f"{error} {error.remedy}")
    return found, told


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with results; half of them are in its log only, as after a kill."""
    folder = tmp_path_factory.mktemp("kept") / "store"

    def keep(idents: range) -> Store:
        store = Store(folder)
        store.begin(script="s", argv=[], backend="b", label="l", env="e")
        for ident in idents:
            key, _ = store.find(ident, store.identify(abs, (ident,), {}), ())
            store.submitted(ident, "abs", store.identify(abs, (ident,), {}), (ident,), {})
            outcome = Outcome(
                id=ident, ok=True, payload=value(ident), host="h", pid=1, started=0, ended=1
            )
            store.finished("abs", key, outcome, "", lambda: None)
        return store

    keep(range(COUNT // 2)).end(0)
    open_one = keep(range(COUNT // 2, COUNT))
    open_one._writer.close()
    snapshot = folder.with_name("snapshot")  # the other connection is open: the log is still there
    shutil.copytree(folder, snapshot)
    open_one._reader.close()
    assert Path(f"{snapshot / database.FILE}-wal").stat().st_size
    copy = folder.with_name("copy")
    shutil.copytree(snapshot, copy)
    assert wrong_or_told(copy) == (COUNT, [])
    return snapshot


@given(
    st.sampled_from(["", "-wal"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["flip", "cut", "zero"]),
)
def test_what_a_bad_disk_has_done_is_never_trusted(kept, where, place, how):
    folder = kept.with_name("damaged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    path = Path(f"{folder / database.FILE}{where}")
    data = bytearray(path.read_bytes())
    position = int(place * len(data))
    if how == "flip":
        data[position] ^= 0x10
    elif how == "cut":
        del data[position:]
    else:
        start = position // 4096 * 4096
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.write_bytes(data)
    _, told = wrong_or_told(folder)
    if told:
        assert "clean --mend" in told[0]
        done = mend(folder)
        assert (done.former / database.FILE).is_file()
        found, told = wrong_or_told(folder)
        assert (found, told) == (done.results, [])


@pytest.mark.parametrize("position", [0, 17, 30])
def test_a_damaged_header_loses_nothing(kept, tmp_path, position):
    folder = tmp_path / "store"
    shutil.copytree(kept, folder)
    whole = database.connect(folder, create=False)
    whole.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole.close()
    path = folder / database.FILE
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)
    found, told = wrong_or_told(folder)
    assert not found
    assert "clean --mend" in told[0]
    command = [sys.executable, "-m", "scalems", "clean", "--mend", "--store", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{COUNT} results and 2 runs could be read")
    assert wrong_or_told(folder) == (COUNT, [])


def test_results_are_found_without_the_page_that_leads_to_them(kept, tmp_path):
    folder = tmp_path / "store"
    shutil.copytree(kept, folder)
    whole = database.connect(folder, create=False)
    whole.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ((root,),) = whole.execute("SELECT rootpage FROM sqlite_master WHERE name='results'").fetchall()
    ((size,),) = whole.execute("PRAGMA page_size").fetchall()
    whole.close()
    path = folder / database.FILE
    data = bytearray(path.read_bytes())
    data[(root - 1) * size : root * size] = bytes(size)
    path.write_bytes(data)
    done = mend(folder)
    assert COUNT * 0.9 < done.results < COUNT  # that page had some rows itself
    assert wrong_or_told(folder) == (done.results, [])


def test_nothing_is_moved_away_from_a_run(kept, tmp_path):
    folder = tmp_path / "store"
    shutil.copytree(kept, folder)
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        opened = database.connect(folder, create=False)
        opened.execute("UPDATE runs SET ended=NULL, pid=? WHERE run=2", (sleeper.pid,))
        opened.close()
        with pytest.raises(UsageError, match=f"run 2 is at work .* as process {sleeper.pid}"):
            mend(folder)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert mend(folder).results == COUNT


@pytest.fixture
def place(tmp_path: Path) -> Scalems:
    (tmp_path / "home").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "HOME": str(tmp_path / "home"), "LOG": str(tmp_path / "log")}
    return Scalems(home=tmp_path / "home", project=tmp_path, env=env)


def test_a_disk_that_is_full_and_one_that_is_read_only(place: Scalems):
    run = f'{sys.executable} -m scalems.local -q -j 1 --store "$HOME/store" script.py'
    show = f'{sys.executable} -m scalems show --json --store "$HOME/store"'
    runs = f'{sys.executable} -m scalems runs --json --store "$HOME/store"'
    count = 'wc -c < "$LOG"; rm "$LOG"'
    script = f"""
        set -e
        {run}; {count}
        mount -o remount,size=50m "$HOME"
        {run}; {count}
        {run}; test ! -e "$LOG"
        ! cat /dev/zero > "$HOME/fill"
        {run}; test ! -e "$LOG"
        mount -o remount,ro "$HOME"
        {run}; test ! -e "$LOG"
        ! {run.replace("--store", "--rerun --store")}
        {show} | grep -c '"state": "done"'
        {runs}
    """
    done = in_namespace('mount -t tmpfs -o size=4m none "$HOME"', ["sh", "-c", script], place)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0:5:2] == [ANSWER] * 3
    assert words[5:7] == [ANSWER] * 2  # on a full disk, and where nothing may be written
    first, again = int(words[1]), int(words[3])
    assert first == 26
    assert 0 < again < 6  # small ones and some of the large ones were kept
    assert "No space left on device" in done.stderr
    assert "free some space" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "--no-store" in done.stderr
    assert "Traceback" not in done.stderr
    assert int(words[7]) >= 26
    assert "results are taken from it, but new ones are not kept there" in done.stderr
    first, second, *_ = json.loads(" ".join(words[8:]))
    assert "No space left on device" in first["lost"]
    assert first["state"] == "done"
    assert second["lost"] is None


def test_that_the_database_could_not_be_written_is_recorded_where_that_can_be(place: Scalems):
    place.project.joinpath("script.py").write_text("""
import scalems

@scalems.task
def made(x):
    return x

@scalems.task(cache=False)
def fill(path):
    try:
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass

@scalems.app
def main():
    fill("home/fill").result()
    print(sum(scalems.gather([made(x) for x in range(2000)])))
""")
    store = '--store "$HOME/store"'
    script = f"""
        set -e
        {sys.executable} -m scalems.local -j 1 --json {store} script.py > run.json
        {sys.executable} -m scalems show --json {store} > show.json
        {sys.executable} -m scalems show {store} | tail -n 1
        {sys.executable} -m scalems runs {store} | grep -o kept
    """
    done = in_namespace('mount -t tmpfs -o size=4m none "$HOME"', ["sh", "-c", script], place)
    assert done.returncode == 0, done.stderr
    run = place.project.joinpath("run.json").read_text()
    told = json.loads(run[run.index("{") :])
    shown = json.loads(place.project.joinpath("show.json").read_text())
    assert run.startswith("1999000")
    assert (shown["state"], shown["exit_code"]) == ("done", 0)
    assert shown["lost"] == told["lost"]
    assert "disk is full" in shown["lost"]
    assert f"warning: not all results were kept: {shown['lost']}" in done.stderr
    assert f"not all results of this run were kept: {shown['lost']}" in done.stdout
    assert done.stdout.endswith("kept\n")


def test_clocks_that_jump(place: Scalems):
    argv = [sys.executable, "-m", "scalems.local", "-q", "-j", "1", "script.py"]
    faketime = debian("faketime")
    log = Path(place.env["LOG"])
    for jump in ("-400d", "+400d", "+0d"):
        done = subprocess.run(
            [faketime, "-f", jump, *argv], cwd=place.project, env=place.env, text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stdout.strip()) == (0, ANSWER), done.stderr
        assert len(log.read_text()) == 26
