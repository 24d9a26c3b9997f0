"""Several hosts on one shared folder: sshfs, on which no host sees the locks of another.

Each host has a name, process numbers, and a mount of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import builds, left_over
from homes import LABEL, Scalems, debian, make_scalems
from sshd import FarHost, listening, make_host, require_sshd
from test_filelock import HOLDER, line

pytestmark = [pytest.mark.ssh, pytest.mark.network, pytest.mark.slow]


@dataclass(frozen=True)
class Shared:
    """A folder on a server, and where its hosts see it.

    :param made: home and project, as the server has them.
    """

    server: FarHost
    made: Scalems
    mount: Path

    def argv(self, name: str, script: str, *words: str) -> list[str]:
        """Return the words that run a script of sh on a host."""
        source = f"{self.server.name}:{self.made.home.parent}"
        config = self.server.folder / "config"
        begin = (
            f"hostname {name} && sshfs {_links()} -F {config} {source} {self.mount} && "
            f"cd {self.mount} || exit 99; {script}"
        )
        # What is first among a host's processes takes all others with it when it ends.
        apart = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*apart, "sh", "-c", begin, "sh", *words]

    @property
    def env(self) -> dict[str, str]:
        """Variables of a user of these hosts."""
        return {**self.made.env, "HOME": str(self.mount / "home")}


@functools.cache
def _links() -> str:
    """Return the option by which links may lead out of a mount, as those to an interpreter do."""
    told = subprocess.run(["sshfs", "-h"], capture_output=True, text=True, check=False)
    known = "no_contain_symlinks" in told.stdout + told.stderr
    return "-o no_contain_symlinks" if known else ""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    require_sshd()
    debian("sshfs")
    folder = tmp_path_factory.mktemp("shared")
    made = make_scalems(folder / "served")
    (folder / "mount").mkdir()
    host = make_host(folder / "host", settings="Subsystem sftp internal-sftp\n")
    with listening(host):
        found = Shared(server=host, made=made, mount=folder / "mount")
        tried = subprocess.run(found.argv("node0", "true"), capture_output=True, check=False)
        if tried.returncode:
            pytest.skip(f"nobody may mount sshfs here: {tried.stderr.decode()}")
        yield found


@contextlib.contextmanager
def holding(shared: Shared, name: str, path: str) -> Iterator[subprocess.Popen[str]]:
    """A process of a host that wants a lock."""
    words = [sys.executable, "-c", HOLDER, "flock", path]
    process = subprocess.Popen(
        shared.argv(name, 'exec "$@"', *words),
        env=shared.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lock_holds_for_other_hosts_until_its_owner_is_silent(shared: Shared):
    place = shared.made.home / "lock.claim"
    with holding(shared, "node1", "home/lock") as first:
        assert line(first) == "holds"
        with holding(shared, "node2", "home/lock") as second:
            assert line(second).startswith("waits for process ")
            first.communicate("")
            assert line(second) == "holds"
            second.kill()
            second.wait()
        assert json.loads(place.read_text())["host"] == "node2"
        with holding(shared, "node3", "home/lock") as third:
            assert " on node2 since " in line(third)
        # It was not renewed for long.
        os.utime(place, (0, 0))
        with holding(shared, "node4", "home/lock") as fourth:
            assert line(fourth) == "holds"
            fourth.communicate("")
    assert not place.exists()


def test_eight_syncs_of_four_hosts_make_one_build(shared: Shared):
    results = shared.made.home.parent / "results"
    results.mkdir()
    sync = shlex.join([*shared.made.argv("env", "sync", "--resource", LABEL, "--json")])
    script = (
        "cd project; for n in 1 2; do ("
        f'{sync} > "../results/$1-$n" 2> "../results/$1-$n.err"; '
        'echo $? > "../results/$1-$n.code") & done; wait'
    )
    hosts = [
        subprocess.Popen(shared.argv(f"node{n}", script, f"node{n}"), env=shared.env)
        for n in range(4)
    ]
    assert [one.wait() for one in hosts] == [0] * 4
    told = {one.name: one.read_text() for one in results.glob("*.err")}
    assert [one.read_text().strip() for one in results.glob("*.code")] == ["0"] * 8, told
    done = [json.loads(one.read_text()) for one in results.glob("node?-?")]
    actions = [env["action"] for one in done for env in one["envs"]]
    assert sorted(actions) == ["built", *["reused"] * 7], told
    assert len(builds(shared.made)) == 1
    check = shlex.join(shared.made.argv("env", "check", "--deep", "--json"))
    argv = shared.argv("node9", f"cd project; exec {check}")
    checked = subprocess.run(argv, env=shared.env, capture_output=True, text=True, check=False)
    assert json.loads(checked.stdout)[0]["ok"], checked.stdout + checked.stderr
    assert left_over(shared.made) == []
    assert [*shared.made.root.rglob("*.claim"), *shared.made.root.rglob("*.end")] == []
    shutil.rmtree(results)
