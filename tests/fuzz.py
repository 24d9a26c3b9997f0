"""Damaged input for every parser: real files, cut, mixed and turned, and what they may raise.

    scripts/fuzz 60        for so many seconds; what fails is printed with its seed

atheris was weighed: its coverage guidance needs a clang of its own, and these parsers stand on
json, tomllib and packaging, whose depths are not ours to explore.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Target:
    """A parser.

    :param seeds: texts that it takes.
    :param parse: gives it a text, in a folder to write to.
    :param refuses: what it may raise.
    """

    seeds: list[str]
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

    def text(raw: bytes) -> str:
        return raw.decode("utf-8", "replace")

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
        "env spec": Target(toml, spec_of, (ScalemsError,)),
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
    }


def damaged(seed: str, chance: random.Random) -> bytes:
    """Return a text with one or a few things wrong with it."""
    raw = bytearray(seed.encode())
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
