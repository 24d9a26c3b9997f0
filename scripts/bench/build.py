"""Cold and warm `env sync` beside the same installs by uv, pip-sync and pip, in one run.

    python scripts/bench/build.py             warm caches
    python scripts/bench/build.py --no-pip    without those that take a minute each
    python scripts/bench/build.py --cold      empty caches: minutes, needs a package index

All of them install both committed locks, hashes enforced. Ours also byte-compiles what RP
imports, imports it, digests every file, compares versions and writes RP's definition. The last
lines have what is left of ours without the byte-compiling, which is timed by itself, as a ratio
to uv: as it is by default (hard links into its cache), when it copies as ours does, and when it
byte-compiles, too (all files).

A second table has both environments at once beside one after the other; the last one where the
seconds of one environment go, by step, byte-compiling and digesting side by side.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from timing import ROOT, SCALEMS, Case, command, compare

from scalems.env import build, fingerprint
from scalems.env.build import IMPORTED
from scalems.env.engine.uv import UvEngine
from scalems.env.locking import Options
from scalems.env.sync import sync
from scalems.resource.config import Project

LABEL = "local.localhost"
LOCKS = [ROOT / "envs" / f"{name}.lock.txt" for name in ("pilot", "task")]
UV = Path(sys.executable).with_name("uv")


def main() -> None:
    """Time all ways in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="empty the caches before each run")
    parser.add_argument("--no-pip", action="store_true", help="leave out the slow ones")
    options = parser.parse_args()
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # of whoever runs this; a client venv is compiled
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        folder = Path(name)
        ours, compiling = _ours(folder, "uv"), _compiling(folder)
        peers = [
            _uv(folder, "uv venv; uv pip sync"),
            _uv(folder, "the same, --link-mode copy", "--link-mode", "copy"),
            _uv(
                folder,
                "the same, --link-mode copy --compile-bytecode",
                *("--link-mode", "copy", "--compile-bytecode"),
            ),
        ]
        cases = [ours, *peers]
        if not options.no_pip:
            cases += [_ours(folder, "pip"), _pip_sync(folder), _pip(folder)]
        if not options.cold:
            for case in cases:  # fill the caches
                case.prepare()
                case.run()
        for case in cases if options.cold else []:
            case.prepare = _both(case.prepare, folder / "cache")
        cases.insert(1, compiling)  # of what ours has just made
        compare("cold sync" if options.cold else "warm sync", cases, runs=options.runs)
        for peer in peers:
            wall = (ours.median - compiling.median) / peer.median
            cpu = (ours.median_cpu - compiling.median_cpu) / peer.median_cpu
            print(f"ours beyond byte-compiling : {peer.name} = {wall:.2f} (CPU {cpu:.2f})")
        if not options.cold:
            compare("two environments", _together(folder), runs=options.runs)
        _steps(folder)


def _both(prepare: Callable[[], object], cache: Path) -> Callable[[], None]:
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
    sync = [SCALEMS, "env", "sync", "--resource", LABEL, "--engine", engine]
    return Case(
        f"scalems env sync --engine {engine}",
        command(sync, env=_environment(folder, state)),
        lambda: shutil.rmtree(state, ignore_errors=True),
    )


def _compiling(folder: Path) -> Case:
    """Return the byte-compiling that ours has done just before, done again by itself."""
    builds = folder / "scalems-uv" / "builds"

    def prepare() -> None:
        for cached in builds.rglob("*.pyc"):
            cached.unlink()

    def one(site: Path) -> None:
        folders = [site / name for name in IMPORTED if (site / name).is_dir()]
        jobs = str(max(1, (os.cpu_count() or 1) // 2))
        argv = [sys.executable, "-I", "-S", "-m", "compileall", "-q", "-j", jobs, *folders]
        subprocess.run(argv, check=True)

    def run() -> None:
        sites = list(builds.glob("*/venv/lib/python*/site-packages"))
        with ThreadPoolExecutor() as pool:
            list(pool.map(one, sites))

    return Case("of that, byte-compiling", run, prepare)


def _by_hand(
    folder: Path, name: str, steps: Callable[[Path, Path, dict[str, str]], list[Callable[[], None]]]
) -> Case:
    """Return the same by hand.

    :param steps: for a venv and its lock, in an environment.
    """
    place = folder / "by-hand"
    env = _environment(folder, place)
    todo = [step for lock in LOCKS for step in steps(place / lock.stem, lock, env)]
    return Case(
        name,
        lambda: [step() for step in todo],
        lambda: shutil.rmtree(place, ignore_errors=True),
    )


def _uv(folder: Path, name: str, *flags: str) -> Case:
    def steps(venv: Path, lock: Path, env: dict[str, str]) -> list[Callable[[], None]]:
        target = ["--require-hashes", "--python", venv / "bin" / "python", *flags]
        return [
            command([UV, "venv", "--python", sys.executable, venv], env=env),
            command([UV, "pip", "sync", *target, lock], env=env),
        ]

    return _by_hand(folder, name, steps)


def _pip_sync(folder: Path) -> Case:
    def steps(venv: Path, lock: Path, env: dict[str, str]) -> list[Callable[[], None]]:
        python = venv / "bin" / "python"
        inside = {**env, "PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
        sync = [sys.executable, "-m", "piptools", "sync", "--python-executable", python, lock]
        return [
            command([sys.executable, "-m", "virtualenv", "-q", venv], env=env),
            command(sync, env=inside),
        ]

    return _by_hand(folder, "virtualenv; pip-sync", steps)


def _pip(folder: Path) -> Case:
    def steps(venv: Path, lock: Path, env: dict[str, str]) -> list[Callable[[], None]]:
        # The venv's own pip first on PATH: radical.gtod's setup runs the first that it finds.
        inside = {**env, "PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
        install = ["install", "--require-hashes", "--no-deps", "-r", lock]
        return [
            command([sys.executable, "-m", "venv", venv], env=env),
            command([venv / "bin" / "python", "-m", "pip", *install], env=inside),
        ]

    return _by_hand(folder, "python -m venv; pip install", steps)


def _together(folder: Path) -> list[Case]:
    """Return a sync that makes two environments, and two that make one each."""
    state, project = folder / "scalems-two", folder / "project"
    shutil.copytree(ROOT / "envs", project / "envs")
    (project / "resource-configs").mkdir()
    config = project / "resource-configs" / "local.toml"
    env = _environment(folder, state)
    sync = command([SCALEMS, "env", "sync", "--resource", LABEL], env=env, cwd=project)

    def write(tasks: str) -> None:
        config.write_text(f'[localhost]\nextends = "{LABEL}"\npilot = "pilot"\ntasks = [{tasks}]\n')

    def both() -> None:
        write('"task"')
        sync()

    def one_by_one() -> None:
        write("")
        sync()
        both()

    def prepare() -> None:
        shutil.rmtree(state, ignore_errors=True)

    return [Case("pilot and task", both, prepare), Case("pilot, then task", one_by_one, prepare)]


def _steps(folder: Path) -> None:
    """Sync one environment in this process, and print how long each step of its build took."""
    state, project = folder / "scalems-steps", folder / "steps"
    shutil.copytree(ROOT / "envs", project / "envs")
    (project / "resource-configs").mkdir()
    (project / "resource-configs" / "local.toml").write_text(
        f'[localhost]\nextends = "{LABEL}"\npilot = "pilot"\ntasks = []\n'
    )
    os.environ.update(_environment(folder, state))
    here = Path(__file__).resolve().parent
    sys.path = [one for one in sys.path if Path(one).resolve() != here]  # radical.py is no package
    seconds: dict[str, float] = {}

    def timed(owner: object, name: str, what: str) -> None:
        former = getattr(owner, name)

        def call(*words: object, **named: object) -> object:
            started = time.perf_counter()
            try:
                return former(*words, **named)
            finally:
                seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - started

        setattr(owner, name, call)

    for owner, name, what in (
        (UvEngine, "create", "make the venv (uv)"),
        (UvEngine, "install", "install (uv)"),
        (build, "_compile", "byte-compile what RP imports"),
        (fingerprint, "scan", "digest all files, meanwhile"),
        (fingerprint, "spoilt", "compare with the RECORDs"),
        (build, "_verify", "import the stack"),
        (fingerprint, "scan_compiled", "digest what was compiled"),
        (build, "_record", "write manifest and tables"),
        (build, "_make", "all of the build"),
    ):
        timed(owner, name, what)
    started = time.perf_counter()
    sync(Project(project), LABEL, Options(engine="uv"), notify=lambda *_, **__: None)
    seconds["all of the sync"] = time.perf_counter() - started
    print("\nwhere the seconds of one environment go (the pilot's)")
    for what, taken in seconds.items():
        print(f"  {what:32}{taken:7.3f}")


if __name__ == "__main__":
    main()
