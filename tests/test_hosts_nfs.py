"""Several hosts on one NFS server, each with a kernel of its own: locks, crashes, syncs at once."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import LABEL, Scalems, make_scalems
from machines import Machines, machines
from test_filelock import HOLDER

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of uv's that has all of a small project, and that no other venv is linked to."""
    folder = tmp_path_factory.mktemp("cache")
    make_scalems(folder / "warm").sync(UV_CACHE_DIR=str(folder / "uv"))
    return folder / "uv"


@pytest.fixture(scope="module", params=["3", "4.2"])  # of NFS
def nfs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Machines, Scalems]]:
    folder = tmp_path_factory.mktemp("nfs")
    made = make_scalems(folder / "served")
    with machines(folder / "work", folder / "served", request.param) as found:
        yield found, made


def script(made: Scalems, *lines: str) -> str:
    """Return a script of a machine, which begins in the user's shared home."""
    kept = {key: value for key, value in made.env.items() if key != "HOME"}
    exports = [f"export {key}={shlex.quote(value)}" for key, value in kept.items()]
    return "\n".join([*exports, "export HOME=/shared/home", "cd /shared/project", *lines])


def holds(name: str, *, then: str) -> str:
    """Return the line that takes a lock, tells of it in a file, and goes on."""
    code = shlex.join([sys.executable, "-uc", HOLDER, "flock", "/shared/home/lock"])
    return f'{then} | {code} > "$work/out/{name}.lock"'


@pytest.mark.parametrize("nfs", ["4.2"], indirect=True)  # with 3 the same by claims, for minutes
def test_syncs_of_two_hosts_at_once_make_one_build(nfs: tuple[Machines, Scalems], cache: Path):
    found, made = nfs
    many = 2  # of each host; eight in all were tried, and take half a minute each where CI runs
    sync = shlex.join(made.argv("env", "sync", "--resource", LABEL, "--offline", "--json"))
    lines = [
        f"export UV_CACHE_DIR={cache}",
        'touch "/shared/home/$role"',
        'until [ "$(ls /shared/home | grep -c one)" = 2 ]; do sleep 0.2; done',
        f"for n in $(seq {many}); do (",
        f'{sync} > "$work/out/$role-$n.json" 2> "$work/out/$role-$n.err"',
        'echo $? > "$work/out/$role-$n.rc") & done; wait',
    ]
    started = {name: found.start(name, script(made, *lines)) for name in ("one1", "one2")}
    for name, process in started.items():
        found.ended(name, process)
    told = {one.name: one.read_text() for one in found.out.glob("one*-?.*")}
    assert [told[name].strip() for name in told if name.endswith(".rc")] == ["0"] * 2 * many, told
    done = [json.loads(text) for name, text in told.items() if name.endswith(".json")]
    actions = [env["action"] for one in done for env in one["envs"]]
    assert sorted(actions) == ["built", *["reused"] * (2 * many - 1)], told
    check = shlex.join(made.argv("env", "check", "--deep", "--json"))
    left = "find /shared/home -name '*.claim' -o -name '*.end' -o -name '.nfs*'"
    lines = [f"{check} || exit 1", left, "ls -d /shared/home/.local/share/scalems/builds/[!.]*"]
    shown = found.ended("look", found.start("look", script(made, *lines)))
    report, _, rest = shown.rpartition("]\n")
    assert json.loads(report + "]")[0]["ok"]
    assert len(rest.split()) == 1, rest


def test_a_lock_holds_for_other_hosts_and_its_holder_is_named(nfs: tuple[Machines, Scalems]):
    found, made = nfs
    first = found.start(
        "first",
        script(made, holds("first", then='until [ -e "$work/out/go" ]; do sleep 0.2; done')),
    )
    found.wait_for("first.lock")
    wait_for_text(found.out / "first.lock", "holds")
    second = found.start("second", script(made, holds("second", then="true")))
    wait_for_text(found.out / "second.lock", " on first since ")
    (found.out / "go").touch()
    found.ended("first", first)
    found.ended("second", second)
    assert (found.out / "second.lock").read_text().splitlines()[-1] == "holds"


def test_a_lock_of_a_host_that_has_crashed_does_not_last(nfs: tuple[Machines, Scalems]):
    found, made = nfs
    first = found.start("crash", script(made, holds("crash", then="sleep 600")))
    wait_for_text(found.out / "crash.lock", "holds")
    found.cut_off(first)
    # NFS 4 waits for the lease that the test's server gives; with NFS 3 the claim has to be old.
    old = "touch -d @0 /shared/home/lock.claim" if found.version == "3" else "true"
    second = found.start("after", script(made, old, holds("after", then="true")))
    found.ended("after", second)
    assert (found.out / "after.lock").read_text().splitlines()[-1] == "holds"


def wait_for_text(path: Path, text: str, limit: float = 120) -> None:
    end = time.monotonic() + limit
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, path.read_text() if path.exists() else f"no {path}"
        time.sleep(0.1)
