"""What computed a result is known with it, and a mixed ensemble is told in words."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
from scalems.errors import ExitCode, UsageError
from scalems.store import database
from scalems.store.history import History
from scalems.store.store import Store
from scalems.workflow import ensemble, stamp
from scalems.workflow.ensemble import MixedEnsemble
from scalems.workflow.stamp import Stamp

VERSIONS = {"a": {"openmm": "8.1", "numpy": "2.0"}, "b": {"openmm": "8.2", "numpy": "2.0"}}


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_a_stamp_says_what_it_was_made_of(worker, software):
    assert stamp.read(stamp.text(worker, software)) == (worker, software)


@given(st.text())
def test_what_is_no_stamp_says_nothing_and_does_no_harm(text):
    worker, software = stamp.read(text)
    assert isinstance(worker, str)
    assert isinstance(software, dict)


def test_a_mixed_ensemble_is_told_in_words():
    stamps = [Stamp(env="a")] * 400 + [Stamp(env="b")] * 112
    words = ensemble.describe(stamps, VERSIONS)
    assert words == "members 1-400 on openmm 8.1, 401-512 on openmm 8.2"


def test_software_of_the_site_counts_and_the_host_does_not():
    one = Stamp(env="a", software={"gromacs": "2022.5"}, host="n1", worker="w1")
    other = replace(one, software={"gromacs": "2023.1"})
    assert ensemble.describe([one, replace(one, host="n2", worker="w2")], {}) == ""
    words = ensemble.describe([one, None, other, one], VERSIONS)
    assert words == "members 1, 4 on gromacs 2022.5, 3 on gromacs 2023.1"
    assert "no gromacs" in ensemble.describe([one, Stamp(env="a")], {})
    assert "environment a" in ensemble.describe([Stamp(env="a"), Stamp(env="b")], {})


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_every_member_is_told_once(envs):
    groups = ensemble._groups(Stamp(env=env) for env in envs)
    seen = [
        number
        for numbers in groups.values()
        for a, b in ensemble._ranges(numbers)
        for number in range(a, b + 1)
    ]
    assert sorted(seen) == list(range(1, len(envs) + 1))
    assert bool(ensemble.describe([Stamp(env=env) for env in envs], {})) == (len(set(envs)) > 1)


def double(x):
    return 2 * x


def mixed(futures):
    """Make the last one come of another Worker's software."""
    scalems.wait(futures)
    last = futures[-1]
    last._ran = replace(last._came(), stamp=stamp.text("w", {"gromacs": "2023.1"}))
    futures.pieces[-1]._given[-1] = last._ran
    return futures


def test_gather_tells_refuses_or_allows(graph, caplog):
    futures = scalems.map(double, range(4))
    assert scalems.gather(futures, mixed="refuse") == [0, 2, 4, 6]
    assert not caplog.records
    mixed(futures)
    assert futures[-1].software == {"gromacs": "2023.1"}
    assert futures[-1].worker == "w"
    assert futures[0].host
    with pytest.raises(MixedEnsemble, match="members 1-3 on no gromacs, 4 on") as e:
        scalems.gather(futures, mixed="refuse")
    assert e.value.exit_code == ExitCode.NOT_READY
    assert scalems.gather(futures) == [0, 2, 4, 6]
    assert "the ensemble is mixed: members 1-3" in caplog.text
    caplog.clear()
    assert scalems.gather(futures, mixed="allow") == [0, 2, 4, 6]
    assert not caplog.records
    with pytest.raises(UsageError, match="no mixed='no'"):
        scalems.gather(futures, mixed="no")


SCRIPT = """
import os, sys
import scalems

@scalems.task
def member(x):
    return x

@scalems.app
def main():
    count = int(sys.argv[1])
    print(scalems.gather([member(x) for x in range(count)], mixed=sys.argv[2]))
"""


def test_a_resumed_ensemble_is_known_to_be_mixed(tmp_path):
    """Members of a former run, and new ones after the site has updated its software."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(count, policy, version):
        # A local run takes its variables along: they stand for those of a Worker.
        variables = {"SCALEMS_STAMP": stamp.text("w", {"gromacs": version})}
        import os

        return subprocess.run(
            [sys.executable, "-m", "scalems.local", script, str(count), policy],
            env={**os.environ, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run(2, "refuse", "2022.5").returncode == 0
    done = run(5, "refuse", "2023.1")
    assert done.returncode == ExitCode.NOT_READY
    assert "members 1-2 on gromacs 2022.5, 3-5 on gromacs 2023.1" in done.stderr
    assert "remedy: run its members again in one environment (--rerun)" in done.stderr
    done = run(5, "warn", "2023.1")
    assert done.returncode == 0, done.stderr
    assert "the ensemble is mixed" in done.stderr
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("scalems")), "show"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "member is mixed: members 1-2 on gromacs 2022.5, 3-5 on gromacs 2023.1" in shown
    with History(tmp_path / ".scalems").closing() as history:
        run_of = history.run(None)
        assert set(history.mixtures(run_of["run"])) == {"member"}
        assert database.environments(history._database)  # the versions of this Python


def test_a_store_of_a_former_version_is_taken_over(tmp_path):
    folder = tmp_path / "store"
    Store(folder).end(0)
    with sqlite3.connect(folder / database.FILE) as old:
        for table in ("tasks", "results"):
            old.execute(f"ALTER TABLE {table} DROP COLUMN stamp")
        old.execute("ALTER TABLE tasks DROP COLUMN tags")
        old.execute("ALTER TABLE results DROP COLUMN crc")
        old.execute("DROP TABLE environments")
        old.execute("PRAGMA user_version=2")
    old.close()
    store = Store(folder)
    store.begin(script="s", argv=[], backend="local", label="l", env="a", environments=VERSIONS)
    assert store.environments() == VERSIONS
    store.end(0)
