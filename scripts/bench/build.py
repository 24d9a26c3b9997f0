"""Cold and warm `env sync` beside the same installs done by hand with uv and with pip.

    python scripts/bench/build.py             warm caches
    python scripts/bench/build.py --cold      empty caches: minutes, needs a package index

All of them install both committed locks, hashes enforced. Ours also byte-compiles what RP
imports, imports it, digests every file, compares versions and writes RP's definition.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from timing import ROOT, SCALEMS, Case, command, compare

LOCKS = [ROOT / "envs" / f"{name}.lock.txt" for name in ("pilot", "task")]


def main() -> None:
    """Time all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="empty the caches before each run")
    parser.add_argument("--no-pip", action="store_true", help="leave out the slow ones")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        folder = Path(name)
        cases = [_ours(folder, "uv"), _uv(folder)]
        if not options.no_pip:
            cases += [_ours(folder, "pip"), _pip(folder)]
        if not options.cold:
            for case in cases:  # fill the caches
                case.prepare()
                case.run()
        for case in cases if options.cold else []:
            case.prepare = _both(case.prepare, folder / "cache")
        compare("cold sync" if options.cold else "warm sync", cases, runs=options.runs)


def _both(prepare, cache: Path):
    def cold() -> None:
        prepare()
        shutil.rmtree(cache, ignore_errors=True)

    return cold


def _environment(folder: Path, state: Path) -> dict[str, str]:
    return {
        "SCALEMS_HOME": str(state),
        "RADICAL_CONFIG_USER_DIR": str(state),
        "UV_CACHE_DIR": str(folder / "cache" / "uv"),
        "PIP_CACHE_DIR": str(folder / "cache" / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def _ours(folder: Path, engine: str) -> Case:
    state = folder / f"scalems-{engine}"
    sync = [SCALEMS, "env", "sync", "--resource", "local.localhost", "--engine", engine]
    return Case(
        f"scalems env sync --engine {engine}",
        command(sync, env=_environment(folder, state)),
        lambda: shutil.rmtree(state, ignore_errors=True),
    )


def _uv(folder: Path) -> Case:
    place = folder / "uv"
    env = _environment(folder, place)
    uv = Path(sys.executable).with_name("uv")
    steps = []
    for lock in LOCKS:
        venv = place / lock.stem
        steps.append(command([uv, "venv", "--python", sys.executable, venv], env=env))
        target = ["--require-hashes", "--python", venv / "bin" / "python"]
        steps.append(command([uv, "pip", "sync", *target, lock], env=env))
    return Case(
        "uv venv; uv pip sync",
        lambda: [step() for step in steps],
        lambda: shutil.rmtree(place, ignore_errors=True),
    )


def _pip(folder: Path) -> Case:
    place = folder / "pip"
    env = _environment(folder, place)
    steps = []
    for lock in LOCKS:
        venv = place / lock.stem
        steps.append(command([sys.executable, "-m", "venv", venv], env=env))
        # The venv's own pip first on PATH: radical.gtod's setup runs the first that it finds.
        inside = {**env, "PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
        install = ["install", "--require-hashes", "--no-deps", "-r", lock]
        steps.append(command([venv / "bin" / "python", "-m", "pip", *install], env=inside))
    return Case(
        "python -m venv; pip install",
        lambda: [step() for step in steps],
        lambda: shutil.rmtree(place, ignore_errors=True),
    )


if __name__ == "__main__":
    main()
