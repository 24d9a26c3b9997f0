"""Damaged input for every parser: real files, cut, mixed and turned, and what they may raise.

    scripts/fuzz 60        for so many seconds; what fails is printed with its seed

atheris was weighed: its coverage guidance needs a clang of its own, and these parsers stand on
json, tomllib and packaging, whose depths are not ours to explore.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parent.parent

STATE = {
    "format": 2,
    "label": "local.localhost",
    "generation": 1,
    "created": "2026-01-01T00:00:00+00:00",
    "project": "/p",
    "key": "0" * 64,
    "definition": "/h/.radical/pilot/configs/resource_local.json",
    "fields": {"virtenv": "/b/venv"},
    "envs": [
        {
            "name": "pilot",
            "role": "pilot",
            "folder": "/b",
            "spec": "/p/envs/pilot.toml",
            "spec_digest": "0",
        }
    ],
    "host": None,
}

PIECES = [
    *(
        "",
        "\0",
        "\n",
        "\\",
        '"',
        "'",
        "{",
        "[",
        "]",
        "}",
        "#",
        "=",
        ";",
        "$(id)",
        "`id`",
        "../" * 5,
    ),
    *("\ud7ff", "é", "-" * 50, "9" * 400, "1e999", "NaN", "null", "true", "-1", "[" * 2000),
    *("<<<scalems ", " scalems>>>", "==", "--hash=sha256:", "python_version < '3'", "%s", "\r"),
]

REQUIREMENTS = """\
# what it needs
--index-url https://user:secret@host.org/simple
numpy==1.26.4 \\
    --hash=sha256:aaaa
scipy>=1 ; python_version < '3.13'   # why
-e ./own[extra]
lib @ git+https://host.org/a/lib.git@0123456789abcdef#subdirectory=x
./wheels/a-1.0-py3-none-any.whl
"""
ENVIRONMENT = """\
name: md
channels: [conda-forge]
dependencies:
  - python=3.11
  - numpy>=1.20,<2
  - openmm=8.1=py311_0
  - pip:
      - mdtraj==1.9.9
"""
PYPROJECT = """\
[project]
name = "x"
dependencies = ["numpy", "own"]
requires-python = ">=3.10"
[project.optional-dependencies]
plot = ["matplotlib"]
[dependency-groups]
g = ["pytest", {include-group = "h"}]
h = ["six"]
[tool.uv.sources]
own = {path = "../own", editable = true}
"""
PYLOCK = """\
lock-version = "1.0"
[[packages]]
name = "six"
version = "1.16.0"
[[packages.wheels]]
name = "six-1.16.0-py2.py3-none-any.whl"
url = "https://host.org/six-1.16.0-py2.py3-none-any.whl"
[packages.wheels.hashes]
sha256 = "00"
"""
SPEC = """\
role = "task"
dependencies = ["numpy"]
no-binary = ["mpi4py"]
modules = ["gromacs/2023"]
shell = ["export A=1"]
pre_exec = ["ulimit -s unlimited"]

[software.gromacs]
command = "gmx --version"
pattern = "version: (.*)"
version = ">=2022"

[packages.own]
git = "https://host.org/a/own.git"
rev = "0123456789abcdef0123456789abcdef01234567"
"""
QUOTA = """\
Disk quotas for user me (uid 1000):
     Filesystem   space   quota   limit   grace   files   quota   limit   grace
/home  9999999* 9000000 10000000  1700000000   10  0  0  0
"""
MOUNTS = """\
36 35 98:0 / / rw,noatime master:1 - ext3 /dev/root rw,errors=continue
40 35 0:44 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2,local_lock=none
"""
REFUSAL = """\
error: Failed to fetch: `https://user:secret@host.org/simple/six/`
  Caused by: No space left on device (os error 28)
Traceback (most recent call last):
  File "x.py", line 1, in <module>
OSError: Hash mismatch for six
"""
LOG = """\
1700000000.1 : agent_0 : 1 : 2 : ERROR : could not start
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ModuleNotFoundError: No module named 'mpi4py'
slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***
sbatch: error: Batch job submission failed: Invalid account or account/partition combination
export PASSWORD=secret AWS_TOKEN='a b'
"""
OWN_GROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Target:
    """A parser.

    :param seeds: texts that it takes.
    :param parse: gives it a text, in a folder to write to.
    :param refuses: what it may raise.
    """

    seeds: list[str | bytes]
    parse: Callable[[bytes, Path], object]
    refuses: tuple[type[Exception], ...] = ()


def targets() -> Mapping[str, Target]:
    """Return all parsers of what users, other programs and damaged disks may hand us."""
    from scalems import probe, script
    from scalems.env import lock, manifest, spec, state, tag, wheelhouse
    from scalems.env.layout import Layout
    from scalems.errors import ScalemsError
    from scalems.host import filelock, wire
    from scalems.resource import jsontext
    from scalems.resource.config import Project

    envs, configs = REPO / "envs", REPO / "resource-configs"

    def spec_of(raw: bytes, folder: Path) -> object:
        path = folder / "task.toml"
        path.write_bytes(raw)
        found = spec.load(path)
        return lock.requirements(found), lock.constraints(found, {})

    def config_of(raw: bytes, folder: Path) -> object:
        place = folder / "resource-configs" / "local.toml"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(raw)
        project = Project(folder)
        return [project.resource(label) for label in project.labels()]

    def state_of(raw: bytes, folder: Path) -> object:
        place = Layout(folder)
        path = place.resource("local.localhost")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        return state.read(place, "local.localhost")

    def manifest_of(raw: bytes, folder: Path) -> object:
        (folder / "manifest.json").write_bytes(raw)
        return manifest.read(folder), probe.manifest_of(folder / "venv")

    def json_of(raw: bytes, _: Path) -> object:
        return json.loads(
            "".join(
                line
                for line in jsontext.set_members(text(raw), ["a"], {"b": [1]}).splitlines(True)
                if not line.lstrip().startswith("#")
            )
        )

    def holder_of(raw: bytes, folder: Path) -> object:
        (folder / "lock").write_bytes(raw)
        with (folder / "lock").open("rb") as stream:
            return filelock._holder(stream.fileno())

    def messages_of(raw: bytes, _: Path) -> object:
        stream = io.BytesIO(raw)
        return list(iter(lambda: wire.receive(stream), None))

    toml = [path.read_text() for path in sorted(envs.glob("*.toml"))]
    locks = [path.read_text()[:6000] for path in sorted(envs.glob("*.lock.txt"))]
    state_text = json.dumps(STATE)
    probed = f"hi\n{probe.FRAME[0]}{json.dumps(probe.describe())}{probe.FRAME[1]}\n"
    options = {"-n": True, "--resource": True, "-q": False}
    return {
        "env spec": Target([*toml, SPEC], spec_of, (ScalemsError,)),
        "resource config": Target(
            [path.read_text() for path in sorted(configs.glob("*.toml"))],
            config_of,
            (ScalemsError,),
        ),
        "lock": Target(
            locks,
            lambda raw, _: lock.parse(text(raw), source="x").select(probe.markers()),
            (ScalemsError,),
        ),
        "lock's comments": Target(locks, lambda raw, _: lock.parents(text(raw))),
        "state": Target([state_text], state_of),
        "manifest": Target([state_text, "{}"], manifest_of),
        "RP's JSON": Target(['# a\n{\n  "a": {"b": 1}, "c": [1, 2]\n}\n'], json_of, (ValueError,)),
        "probe": Target([probed], lambda raw, _: probe.parse(text(raw)), (ValueError,)),
        "tag": Target(
            ["cp312-manylinux_2_28_aarch64"], lambda raw, _: tag.parse(text(raw)), (ScalemsError,)
        ),
        "command line": Target(
            ["-n 3 --resource a.b script.py -- x --y=1 z"],
            lambda raw, _: script.split(text(raw).split(" "), options),
        ),
        "lock file": Target([state_text, '{"host": "a", "pid": 1}'], holder_of),
        "message of a host": Target(['{"kind": "x"}\n{"y": [1]}\n'], messages_of, (wire.Broken,)),
        "wheelhouse": Target(
            ["[]", '{"format": 1, "wheels": []}'],
            lambda raw, folder: wheelhouse.parse(text(raw), folder=folder),
            (ScalemsError,),
        ),
        **_of_users(),
        **_of_machines(),
        **_of_records(),
    }


def text(raw: bytes) -> str:
    """Return it as text, as one reads the output of a program."""
    return raw.decode("utf-8", "replace")


def named(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Return a parser that is given its text as a file of this name."""

    def parse(raw: bytes, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return read(path)

    return parse


def _of_users() -> dict[str, Target]:
    """Return the parsers of what users hand us."""
    from scalems.env import bundlefile, repository, requirementsfile, wanted
    from scalems.errors import ScalemsError
    from scalems.radical import options
    from scalems.workflow import needs

    def wants(path: Path) -> object:
        return wanted.find(path, path.parent, groups=["g"] if path.suffix == ".toml" else [])

    def locked(path: Path) -> object:
        return wanted.find(path, path.parent)

    refused = (ScalemsError,)
    return {
        "requirements file": Target([REQUIREMENTS], named("requirements.txt", wants), refused),
        "conda's environment": Target([ENVIRONMENT], named("environment.yml", wants), refused),
        "pyproject": Target([PYPROJECT], named("pyproject.toml", wants), refused),
        "pylock": Target(
            [PYLOCK], named("pylock.toml", lambda path: wanted.find(path, path.parent)), refused
        ),
        "requirements' lines": Target(
            [REQUIREMENTS], lambda raw, _: list(requirementsfile.logical(text(raw).splitlines()))
        ),
        "git URL": Target(
            ["https://user:secret@host.org/a/b.git", "git@host:a/b", "file:///a"],
            lambda raw, _: repository.mistake(text(raw)),
        ),
        "pilot option": Target(
            ["nodes=2", "runtime=10", "queue=short", "gpus=x"],
            lambda raw, _: options.parse([text(raw)]),
            refused,
        ),
        "memory size": Target(
            ["1.5 GiB", "200MB", "7"], lambda raw, _: needs.size_of(text(raw)), (ValueError,)
        ),
        "bundle": Target([_bundle()], named("a.bundle", bundlefile.read), (bundlefile.Damaged,)),
    }


def _bundle() -> bytes:
    from scalems.env import bundlefile

    content, stream = b"hello", io.BytesIO()
    part = bundlefile.Part(
        path="locks/task.txt", size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    bundlefile.write(stream, {"resource": "a.b"}, {part: content}, lambda done, total: None)
    return stream.getvalue()


def _of_machines() -> dict[str, Target]:
    """Return the parsers of what programs and the kernel of a machine tell."""
    import subprocess

    from scalems.doctor import quota
    from scalems.env import engine, mpi
    from scalems.host import claim
    from scalems.host.local import CommandFailed
    from scalems.radical import diagnosis, scrub
    from scalems.radical.surroundings import Place
    from scalems.workflow import cores, oom

    def refusal_of(raw: bytes, _: Path) -> object:
        done = subprocess.CompletedProcess(["uv"], 1, text(raw), text(raw))
        return engine.explain(CommandFailed("uv failed", completed=done), doing="it")

    def cause_of(path: Path) -> object:
        place = Place(label="a.b", folder=path.parent.parent, sandbox=path.parent)
        return str(diagnosis.failure("it failed", place))

    def counter_of(path: Path) -> object:
        path.with_name("memory.events").write_bytes(path.read_bytes())
        return oom.kills(path.parent, path), oom.kills(path.parent, OWN_GROUP)

    def sharing_of(path: Path) -> object:
        return claim.mount_of(path, mounts=path).seen_by_all

    return {
        "quota": Target([QUOTA], lambda raw, _: list(quota.read(text(raw)))),
        "an engine's words": Target([REFUSAL], refusal_of),
        "MPI's version": Target(
            ["Open MPI v4.1.4, package", ""], lambda raw, _: mpi.name(text(raw))
        ),
        "mounts": Target(
            [MOUNTS], named("mounts", lambda path: claim.mount_of(path, mounts=path).seen_by_all)
        ),
        "CPU list": Target(["0,4-6"], lambda raw, _: cores.numbers(text(raw)), (ValueError,)),
        "control group": Target(["0::/a/b\n", "oom 1\noom_kill 3\n"], named("own", counter_of)),
        "logs of RADICAL-Pilot": Target([LOG], named("sandbox/agent_0.log", cause_of)),
        "output of a batch job": Target([LOG], named("sandbox/bootstrap_0.out", cause_of)),
        "secrets in a log": Target([LOG], lambda raw, _: scrub.text(text(raw))),
    }


def _of_records() -> dict[str, Target]:
    """Return the parsers of what we have written ourselves, on a disk that may spoil it."""
    from scalems.env import seen
    from scalems.workflow import stamp

    kept = json.dumps({"facts": {}, "answer": {}, "places": {}, "digest": "0", "seal": "0"})
    return {
        "what was seen": Target([kept], named("seen", lambda path: seen.recall(path, path.parent))),
        "stamp": Target([stamp.here()], lambda raw, _: stamp.read(text(raw)), (ValueError,)),
    }


def damaged(seed: str | bytes, chance: random.Random) -> bytes:
    """Return a text with one or a few things wrong with it."""
    raw = bytearray(seed.encode() if isinstance(seed, str) else seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(raw))
        match chance.randrange(5):
            case 0:
                raw[at : at + chance.randint(0, 30)] = b""
            case 1:
                raw[at:at] = chance.choice(PIECES).encode()
            case 2 if at < len(raw):
                raw[at] ^= 1 << chance.randrange(8)
            case 3:
                start = chance.randint(0, len(raw))
                raw[at:at] = raw[start : start + chance.randint(0, 60)]
            case 4:
                raw[at : at + 12] = chance.choice(PIECES).encode()
    return bytes(raw)


def run(target: Target, number: int, folder: Path) -> None:
    """Give a parser one damaged text; what it must not raise, this does."""
    chance = random.Random(number)
    raw = damaged(chance.choice(target.seeds), chance)
    try:
        target.parse(raw, folder)
    except target.refuses as error:
        str(error)


def main() -> None:
    """Fuzz all parsers in turn until the time is over."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 60.0
    known = targets()
    start = time.time_ns()
    end, number, failed = time.monotonic() + seconds, start, 0
    with tempfile.TemporaryDirectory(prefix="scalems-fuzz-") as name:
        while time.monotonic() < end and failed < 10:
            for what, target in known.items():
                try:
                    run(target, number, Path(name))
                except Exception:
                    failed += 1
                    print(f"{what}, seed {number}:", file=sys.stderr)
                    traceback.print_exc()
            number += 1
    print(f"{number - start:,} texts for each of {len(known)} parsers, {failed} not handled")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
