"""A real Slurm cluster on this machine: the script that runs it, and pilots on it."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from homes import PREFIX_SCRIPT, REPO, Scalems, add_task, hand_made_venv, make_scalems
from sshd import listening, make_host, require_sshd

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
def cluster():
    """Run a cluster of its own for a test that harms it."""
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / "cluster"
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
    on(cluster, "sbatch", "-pmembers", "-Aphysics", f"--chdir={tmp_path}", *wrap)
    member = where.find(tmp_path)
    assert member is not None
    for _ in range(LIMIT):
        if member is not None and not member.reason:
            time.sleep(0.5)
            member = where.find(tmp_path)
    assert member is not None
    assert "give a --project that this partition takes" in member.never, member
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


# --- pilots ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(synced_home):
    """Run a cluster, with the environments of the repository synced for it."""
    short = tempfile.TemporaryDirectory()
    folder = Path(short.name) / "lab"
    slurm("start", folder)
    env = {**synced_home.env, "SLURM_CONF": str(folder / "slurm.conf")}
    made = Scalems(home=synced_home.home, project=synced_home.project, env=env)
    made.run("env", "sync", "--resource", "lab.slurm")
    yield made, folder
    slurm("stop", folder)
    end = time.monotonic() + LIMIT  # the session of a pilot that was cancelled ends by itself
    while processes_of(folder) and time.monotonic() < end:
        time.sleep(0.5)
    assert processes_of(folder) == []
    short.cleanup()


def jobs(folder):
    return on(folder, "squeue", "--noheader", "--format=%i").split()


def python(made, *words, code=0):
    place = ("--resource", "lab.slurm", "--venv", "task")
    done = subprocess.run(
        [sys.executable, "-m", "scalems.radical", *place, *words],
        cwd=made.project, env=made.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


SCRIPT_OF_ALL = """
import json, os, subprocess, sys, time
from pathlib import Path
import scalems

folder, run = Path(sys.argv[1]), Path(sys.argv[2])

@scalems.task
def where(n):
    time.sleep(1)
    return os.environ["SLURM_JOB_ID"]

@scalems.task
def hold(name):
    path = Path(run, name)
    if not path.exists():
        path.touch()
        time.sleep(1000)
    return os.environ["SLURM_JOB_ID"]

def begun(name):
    future = hold(name)
    while not Path(run, name).exists():
        time.sleep(0.1)
    return future

RANK = '''
import os
from mpi4py import MPI
total = MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.Get_rank())
line = f"{os.environ['SLURMD_NODENAME']} {MPI.COMM_WORLD.Get_size()} {total}"
os.write(1, line.encode() + bytes([10]))  # mpiexec mixes what comes in pieces
'''

def tell(**facts):
    print(json.dumps(facts), flush=True)

@scalems.app
def main():
    hosts, jobs, end = set(), set(), time.monotonic() + 100
    while len(hosts) < int(sys.argv[3]) and time.monotonic() < end:
        calls = [where(n) for n in range(8)]  # one Worker may be there before the other
        jobs |= {call.result() for call in calls}
        hosts |= {call.host for call in calls}
    (job,) = jobs
    tell(job=job, hosts=sorted(hosts))
    nodes = ["srun", "--overlap", "-N2", "-n2", "sh", "-c", "echo $SLURMD_NODENAME"]
    tell(srun=sorted(scalems.executable(nodes).result().stdout.split()))
    # Open MPI's shared memory of two nodes that are one machine would be in each other's way.
    apart = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo"}
    wide = scalems.executable([sys.executable, "-c", RANK], ranks=8, env=apart)
    tell(ranks=sorted(wide.result().stdout.splitlines()), after=where(99).result() == job)
    held = begun("held")
    subprocess.run(["scontrol", "update", f"JobId={job}", "EndTime=now+1"], check=True)
    tell(again=held.result())
    held = begun("lost")
    subprocess.run(["kill", "-KILL", (folder / "run" / "node2.pid").read_text().strip()])
    subprocess.run(["scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test"])
    tell(error=str(held.exception()))
"""


def test_a_run_on_two_nodes_outlives_its_walltime_and_tells_of_a_dead_node(lab, tmp_path):
    made, folder = lab
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_OF_ALL)
    words = ("--nodes", "2", "--max-pilots", "2", "--no-store", script, folder, tmp_path, 2)
    try:
        done = python(made, *map(str, words))
    finally:
        slurm("start", folder)  # the dead node
    print(done.stdout, done.stderr)  # shown if it fails
    told: dict[str, object] = {}
    for line in done.stdout.splitlines():
        told.update(json.loads(line))
    assert told["hosts"] == ["node1", "node2"]
    assert told["srun"] == ["node1", "node2"]
    assert told["ranks"] == ["node1 8 28"] * 4 + ["node2 8 28"] * 4
    assert told["after"]
    assert told["again"] != told["job"]
    assert "its run time is over" in done.stderr
    assert "Going on in another pilot" in done.stderr
    assert "a node has failed" in str(told["error"])
    assert jobs(folder) == []


RANKS = """
import os, sys, urllib.request
import scalems

# Open MPI's shared memory of two nodes that are one machine would be in each other's way.
APART = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo"}

def where():
    from mpi4py import MPI
    return MPI.COMM_WORLD.allgather(os.environ["SLURMD_NODENAME"])

@scalems.task
def fetch(address):
    return len(urllib.request.urlopen(f"http://{address}/", timeout=60).read()) > 50

@scalems.task
def python():
    return sys.executable

@scalems.app
def main():
    routed = scalems.task(route="rp", ranks=6, env=APART, timeout=100)(where)()
    code = "from mpi4py import MPI; import os; os.write(1, b'%d ' % MPI.COMM_WORLD.Get_size())"
    program = scalems.executable([python(), "-c", code], ranks=2, route="rp", timeout=100)
    print(*sorted(routed.result()), program.result().stdout)
    web = ["-u", "-m", "http.server", "--bind", "{host}", "{port}"]
    print(fetch(scalems.service([python().result(), *web]).address).result())
"""


@pytest.mark.mpi
def test_ranks_that_radical_pilot_starts_on_two_nodes_and_a_service(lab, tmp_path):
    """No node has six cores; and in its Worker ranks can be started, as its canary has found."""
    made, folder = lab
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    words = (
        "--venv",
        hand_made_venv(made, tmp_path, "mpi4py>=4"),
        "--nodes",
        2,
        "--spare-cores",
        6,
        "--no-store",
    )
    done = python(made, *map(str, (*words, script)))
    *nodes, first, second, fetched = done.stdout.split()
    assert len(nodes) == 6
    assert set(nodes) == {"node1", "node2"}
    assert (first, second, fetched) == ("2", "2", "True")
    assert "tasks with ranks will fail" not in done.stderr
    assert jobs(folder) == []


TWO = (
    SCRIPT_OF_ALL.partition("@scalems.app")[0]
    + """
@scalems.task
def stay(n, warm):
    job = os.environ["SLURM_JOB_ID"]
    Path(run, f"{n}-{job}").touch()
    time.sleep(1000 if job == warm else 0.2)
    return job

@scalems.app
def main():
    jobs, end, warm = set(), time.monotonic() + 100, sys.argv[3]
    while len(jobs) < 2 and time.monotonic() < end:
        jobs |= set(scalems.gather([where(n) for n in range(4)]))
    held = [stay(n, warm) for n in range(4)]
    while not list(run.glob(f"*-{warm}")) and time.monotonic() < end:
        time.sleep(0.1)
    subprocess.run(["scancel", warm], check=True)
    tell(jobs=sorted(jobs), moved=[one.result() for one in held])
"""
)


def test_two_partitions_share_the_calls_until_one_job_is_cancelled(lab, tmp_path):
    """One pilot is a warm one, whose job is ended; the other one does what it had."""
    made, folder = lab
    script, begun = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(TWO)
    begun.mkdir()
    started = made.json(
        *("pilot", "start", "--resource", "lab.slurm", "--venv", "task", "--queue", "short"),
        *("--cores", "2", "--runtime", "10"),
    )
    assert started["slots"] == 2
    (job,) = jobs(folder)
    assert on(folder, "squeue", "--noheader", "--format=%P %l").split() == ["short", "10:00"]
    words = ["--resource", "lab.slurm:queue=main,cores=2,runtime=20", "--no-store"]
    done = python(made, *words, *map(str, (script, folder, begun, job)))
    print(done.stdout, done.stderr)  # shown if it fails
    told = json.loads(done.stdout)
    (other,) = set(told["jobs"]) - {job}
    assert job in told["jobs"]
    assert set(told["moved"]) == {other}
    states = on(folder, "squeue", "--noheader", "--states=all", f"--jobs={job},{other}", "-o%i %P")
    assert {f"{job} short", f"{other} main"} <= set(states.splitlines())
    assert f"pilot 1 (lab.slurm): Slurm has ended job {job}: it was cancelled" in done.stderr
    assert "calls go to other pilots" in done.stderr
    assert jobs(folder) == []
    limit = time.monotonic() + LIMIT
    while made.json("pilot", "list"):
        assert time.monotonic() < limit, "the warm pilot is still there"
        time.sleep(1)
    log = Path(str(started["folder"]), "server.log").read_text()
    assert f"Slurm has ended job {job}: it was cancelled" in log


def test_a_real_accounting_database_says_what_it_refuses(lab, cluster):
    """No account of that name, more time than a QOS or an account allows: each is told why."""
    slurm("accounts", cluster)
    made = replace(lab[0], env={**lab[0].env, "SLURM_CONF": str(cluster / "slurm.conf")})
    (made.project / "one.py").write_text(PREFIX_SCRIPT)
    asked = {
        "accept the account.*--project NAME": ["--project", "chemistry"],
        "accept the QOS.*--queue PARTITION:QOS": ["--queue", "main:nope", "--project", "physics"],
        "longer than your account or its QOS.*--runtime": [
            "--queue",
            "main:brief",
            "--project",
            "physics",
        ],
        "Job .* cannot begin .AssocMaxWall.*--runtime": [
            "--runtime",
            "100",
            "--project",
            "physics",
        ],
    }
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(
            lambda words: python(made, *words, "--nodes", "1", "--no-store", "one.py", code=1),
            asked.values(),
        )
        for pattern, done in zip(asked, runs, strict=True):
            assert re.search(f"^error: .*{pattern}", done.stderr, re.DOTALL | re.MULTILINE)
    assert jobs(cluster) == []


FAR = """
import os, subprocess, sys, urllib.request
import scalems

@scalems.task
def fetch(address):
    return len(urllib.request.urlopen(f"http://{address}/", timeout=60).read()) > 50

@scalems.task(route="rp")
def routed():
    return os.environ["RP_TASK_ID"], sys.prefix

@scalems.task
def where(given):
    return os.environ["SLURM_JOB_ID"], sys.prefix, open(given).read()

@scalems.task
def cancelled():
    subprocess.run(["scancel", os.environ["SLURM_JOB_ID"]], check=True)
    import time
    time.sleep(1000)

@scalems.app
def main():
    web = ["python", "-u", "-m", "http.server", "--bind", "{host}", "{port}"]
    fetched = fetch(scalems.service(web).address)
    print(*where(scalems.file("here.txt")).result())
    print(fetched.result(), *routed().result())
    cancelled().result()
"""


@pytest.mark.ssh
@pytest.mark.network
def test_a_cluster_behind_ssh_is_used_as_one_that_is_here(lab, tmp_path):
    """Sync, check, a run with calls, a service and a task of RADICAL-Pilot's own, and the batch
    system's reason why its job has ended."""
    require_sshd()
    folder = lab[1]
    settings = str(folder / "slurm.conf")
    with listening(make_host(tmp_path / "host", SLURM_CONF=settings)) as host:
        made = host.of(make_scalems(tmp_path / "client"))
        add_task(made.project)
        config = (made.project / "resource-configs" / "lab.toml").read_text()
        there = config.replace("[slurm]", f'[slurm]\nhost = "{host.name}"', 1)
        (made.project / "resource-configs" / "lab.toml").write_text(there)
        made.run("env", "sync", "--resource", "lab.slurm")
        (report,) = made.json("env", "check", "--resource", "lab.slurm")
        assert report["ok"]
        (made.project / "here.txt").write_text("content")
        (made.project / "script.py").write_text(FAR)
        words = ("--runtime", "10", "--spare-cores", "2", "--no-store")
        done = python(made, *words, "script.py", code=1)
        job, prefix, text, fetched, name, its = done.stdout.split()
        assert (fetched, name[:12], its) == ("True", "scalems.own.", prefix)
        assert (Path(prefix).is_relative_to(host.home), text) == (True, "content")
        assert f"Slurm has ended job {job}: it was cancelled" in done.stderr
        assert jobs(folder) == []
        end = time.monotonic() + LIMIT
        while host.processes() and time.monotonic() < end:
            time.sleep(0.5)
        assert host.processes() == []
