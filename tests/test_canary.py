"""What a node is like before the first call: found on this one, and judged."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems import probe
from scalems.env.finding import About, Policy
from scalems.env.role import Role
from scalems.env.verification import Build
from scalems.errors import EnvironmentNotReady
from scalems.radical import admission, canary

BUILD = Build(
    name="task",
    role=Role.TASK,
    folder=Path("/nonexistent"),
    input_digest="",
    content_digest="",
    scalems_digest="",
    versions={},
    software={"gromacs": "2022.5"},
)
GOOD = {
    "host": "node7",
    "time": 0.0,
    "libc": "glibc 2.36",
    "built_libc": "glibc 2.36",
    "built_cpu": "x86-64-v3",
    "built_here": [],
    "cpu": "x86-64-v3",
    "gpus": 0,
    "driver": "",
    "software": {"gromacs": "2022.5"},
    "folders": {"/scratch": 10**12},
    "mpi": {},
}


def flaws(asked=0, **facts):
    given = {**GOOD, "time": time.time(), **facts}
    return [flaw.text for flaw in admission.node_flaws(BUILD, given, gpus=asked)]


def test_this_node_is_described_in_json():
    facts = canary.Canary().result()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["host"] == platform.node()
    assert facts["libc"]
    assert facts["cpu"].startswith("x86-64-v") or platform.machine() != "x86_64"
    assert all(isinstance(room, int) for room in facts["folders"].values())
    assert abs(facts["time"] - time.time()) < 60


def test_a_program_tells_its_version_or_nothing():
    ask = {"command": f"{sys.executable} -V", "pattern": r"Python (\S+)"}
    assert canary._version(ask) == platform.python_version()
    assert canary._version({"command": "scalems-no-such-program", "pattern": "(.*)x"}) == ""


@pytest.mark.mpi
def test_ranks_see_each_other():
    assert shutil.which("mpiexec"), "scripts/test installs it"
    found = canary._mpi()
    assert found.get("size") == 2, found
    assert found["library"]


def test_ranks_that_cannot_be_started_are_told(monkeypatch):
    monkeypatch.setenv("SCALEMS_MPIEXEC", "false")
    assert canary._mpi() == {"error": "exit code 1"}
    monkeypatch.delenv("SCALEMS_MPIEXEC")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "no mpiexec" in canary._mpi()["error"]


def test_a_folder_that_cannot_be_written_is_seen(tmp_path):
    assert canary._room(tmp_path) > 0
    assert canary._room(tmp_path / "absent") == "No such file or directory"
    assert isinstance(canary._room(Path("/proc")), str)


V2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
V3 = "avx avx2 bmi1 bmi2 f16c fma movbe xsave"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("", "x86-64-v1"),
        (V2, "x86-64-v2"),
        (f"{V2} {V3}", "x86-64-v3"),
        (V3, "x86-64-v1"),
        (f"{V2} {V3} avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v4"),
    ],
)
def test_the_level_of_a_cpu_is_read_from_its_flags(flags, level):
    assert probe.cpu_level(f"processor : 0\nflags\t\t: fpu {flags}\n") == level


@given(st.text())
def test_no_cpuinfo_breaks_it(text):
    assert probe.cpu_level(text).startswith("x86-64-v")


def test_a_good_node_has_no_flaw():
    assert flaws() == []
    assert flaws(asked=2, gpus=2, driver="550.54") == []
    assert admission.check_node(BUILD, {**GOOD, "time": time.time()}) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"libc": "glibc 2.17"}, "its C library is glibc 2.17, and the environment was built on"),
        ({"cpu": "x86-64-v1"}, "no more than x86-64-v1"),
        (
            {"cpu": "x86-64-v2", "built_here": ["mpi4py", "numpy"]},
            "its CPU has x86-64-v2, and mpi4py, numpy: compiled on a host with x86-64-v3",
        ),
        ({"software": {"gromacs": "2021"}}, "gromacs is 2021, and 2022.5 was verified"),
        ({"software": {}}, "gromacs is not there, and 2022.5 was verified"),
        ({"folders": {"/tmp": "Read-only file system"}}, "written in /tmp: Read-only file system"),
        ({"folders": {"/tmp": 5000}}, "only 0.0 MB are left"),
        ({"time": time.time() + 7200}, "its clock is"),
        ({"mpi": {"error": "no mpiexec"}}, "tasks with ranks will fail: no mpiexec"),
        ({"mpi": {"ranks": 2, "size": 1, "library": "MPICH 4"}}, "of 2 ranks each sees 1"),
        ({"gpus": 0}, "it shows no GPU, and 1 were asked for; it has no NVIDIA driver"),
    ],
)
def test_what_is_wrong_with_a_node_is_told(facts, expected):
    (text,) = flaws(asked=1 if "gpus" in facts else 0, **facts)
    assert expected in text


def test_a_lower_level_is_a_flaw_only_of_what_was_compiled_on_a_higher_one():
    assert flaws(cpu="x86-64-v2") == []  # wheels choose at run time
    assert flaws(cpu="x86-64-v4", built_here=["numpy"]) == []
    assert flaws(cpu="aarch64", built_here=["numpy"]) == []
    assert flaws(built_cpu="", built_here=["numpy"]) == []  # an older manifest


def test_a_newer_or_another_c_library_is_no_flaw():
    assert flaws(libc="glibc 2.40") == []
    assert flaws(libc="musl 1.2") == []
    assert flaws(libc="glibc 2.4", built_libc="glibc 2.36") != []  # numbers, not text


def test_a_flaw_ends_the_run_with_the_name_of_the_node_unless_a_policy_lets_it_pass():
    facts = {**GOOD, "time": time.time(), "software": {}, "cpu": "x86-64-v1"}
    with pytest.raises(EnvironmentNotReady) as caught:
        admission.check_node(BUILD, facts)
    assert "the node node7 cannot run the calls" in caught.value.cause
    assert "envs/task.toml" in caught.value.remedy
    told = admission.check_node(BUILD, facts, policies={About.DRIFT: Policy.WARN})
    assert len(told) == 2
    assert all(line.startswith("warning: node7: ") for line in told)
    assert len(admission.check_node(BUILD, facts, policies={About.DRIFT: Policy.OFF})) == 1
