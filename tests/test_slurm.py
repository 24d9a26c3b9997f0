"""A real Slurm cluster on this machine: the script that runs it, and pilots on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from homes import REPO

pytestmark = pytest.mark.slurm

SCRIPT = REPO / "scripts" / "slurm"


def slurm(verb, folder, *, code=0):
    done = subprocess.run([SCRIPT, verb, folder], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def processes_of(folder):
    """Return all processes that name the cluster in their words or variables."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if bytes(folder / "slurm.conf") in text and int(entry.name) != os.getpid():
            found.append(text)
    return found


@pytest.fixture
def cluster(tmp_path):
    """Run a cluster of its own for a test that harms it."""
    folder = tmp_path / "cluster"
    slurm("start", folder)
    yield folder
    slurm("stop", folder)
    assert processes_of(folder) == []


def on(folder, *argv):
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout


def test_the_cluster_has_two_nodes_and_leaves_nothing(cluster):
    slurm("start", cluster)  # once more does nothing
    status = slurm("status", cluster)
    assert "node1 idle" in status
    assert "node2 idle" in status
    nodes = on(cluster, "srun", "-N2", "-n2", "sh", "-c", "echo $SLURMD_NODENAME")
    assert sorted(nodes.split()) == ["node1", "node2"]
    on(cluster, "sbatch", "-N2", "-o/dev/null", "--wrap", "trap '' TERM; srun sleep 600")
    slurm("stop", cluster)
    assert processes_of(cluster) == []
    slurm("stop", cluster)
    slurm("status", cluster, code=1)
