"""The example of docs/examples/peptide, run as a user runs it."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from homes import Scalems

pytestmark = pytest.mark.network

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "peptide"
TEMPERATURES = (300.0, 600.0)
REPLICAS = 2


@dataclass(frozen=True)
class Ran:
    """What one run of the example left behind."""

    stdout: str
    report: dict[str, Any]
    png: bytes


def run_example(place: Scalems, folder: Path) -> Ran:
    """Run a small ensemble in the Task venv of a home, with outputs in a folder."""
    command = [sys.executable, "-m", "scalems.local", "--venv", "task", "-j", "2", "--no-store"]
    command += [str(EXAMPLE / "ensemble.py"), "-n", str(REPLICAS), "--steps", "2000"]
    command += ["--temperatures", *map(str, TEMPERATURES), "--output", "out/figure.png"]
    (folder / "out").mkdir()
    done = subprocess.run(
        command,
        cwd=folder,
        env=place.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "out" / "figure.json").read_text())
    return Ran(done.stdout, report, (folder / "out" / "figure.png").read_bytes())


@pytest.fixture(scope="module")
def ran(synced_home: Scalems, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_example(synced_home, tmp_path_factory.mktemp("example"))


def test_every_member_ran_in_the_task_venv_and_not_in_the_client(
    ran: Ran, synced_home: Scalems
) -> None:
    assert ran.report["client"] == {"prefix": sys.prefix, "has_openmm": False}
    members = ran.report["members"]
    assert [m["temperature"] for m in members] == [t for t in TEMPERATURES for _ in range(REPLICAS)]
    assert [m["seed"] for m in members] == [1, 2, 3, 4]
    (prefix,) = {member["prefix"] for member in members}
    assert Path(prefix) == synced_home.build("task") / "venv"
    assert all("OpenMM" in member["platform"] for member in members)
    assert f"client: {sys.prefix} (cannot import OpenMM)" in ran.stdout
    assert f"tasks:  {prefix} on " in ran.stdout


def test_the_numbers_are_physical(ran: Ran) -> None:
    rows = ran.report["summary"]
    assert [row["temperature"] for row in rows] == list(TEMPERATURES)
    for row in rows:
        measured, error = row["kinetic_temperature"]
        assert measured == pytest.approx(row["temperature"], rel=0.15)
        assert 0 < error < 0.1 * row["temperature"]
        assert all(math.isfinite(value) for value in row["potential_energy"])
        assert sum(share for share, _ in row["population"].values()) == pytest.approx(1)
    # Equipartition: about half of 3 N k T sits in the potential energy.
    cold, hot = (row["potential_energy"][0] for row in rows)
    degrees = 3 * 22 - 12
    harmonic = 0.5 * degrees * 0.008314462618 * (TEMPERATURES[1] - TEMPERATURES[0])
    assert hot - cold == pytest.approx(harmonic, rel=0.4)


def test_seeds_decide_the_numbers(ran: Ran, synced_home: Scalems, tmp_path: Path) -> None:
    again = run_example(synced_home, tmp_path)
    assert again.report["summary"] == ran.report["summary"]


def test_the_figure_is_a_whole_png(ran: Ran) -> None:
    assert ran.png[:8] == b"\x89PNG\r\n\x1a\n"
    assert ran.png[-12:] == b"\0\0\0\0IEND\xaeB`\x82"
    width, height = struct.unpack(">II", ran.png[16:24])
    assert width >= 1400
    assert height >= 1000
    assert len(ran.png) > 50_000
