"""A real Slurm cluster on this machine: the script that runs it, and pilots on it."""

from __future__ import annotations

import os
import queue
import subprocess
from pathlib import Path

import pytest
from homes import REPO

from scalems.radical.batch import Job, Queue, Watch

pytestmark = pytest.mark.slurm

LIMIT = 120  # seconds: for things that must happen
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


def test_the_queue_tells_of_a_job_until_its_end(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
    told: queue.Queue[Job] = queue.Queue()
    sandbox = tmp_path / "sand|box"
    sandbox.mkdir()
    where = Queue("slurm://localhost/")
    assert where.find(sandbox) is None
    watch = Watch(where, sandbox, told.put)
    watch.start()
    wrap = ("-o/dev/null", "--wrap", "sleep 600")
    on(cluster, "sbatch", "-N2", "--exclusive", *wrap)
    on(cluster, "sbatch", "-N1", f"--chdir={sandbox}", *wrap)
    waiting = told.get(timeout=LIMIT)
    assert waiting.state == "PENDING"
    first = str(int(waiting.ident) - 1)
    assert where.cancel(Job(ident=first, state="RUNNING"))
    while (job := told.get(timeout=LIMIT)).state == "PENDING":
        watch.look()
    assert (job.ident, job.state, job.nodes) == (waiting.ident, "RUNNING", "node1")
    on(cluster, "scancel", job.ident)
    watch.look()
    while not (job := told.get(timeout=LIMIT)).ended:
        pass
    assert job.state == "CANCELLED"
    watch.join(LIMIT)
    assert not watch.is_alive()
