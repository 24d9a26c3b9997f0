"""Cold and warm `env sync` beside the same installs by uv, pip-sync and pip, in one run.

    python scripts/bench/build.py             warm caches
    python scripts/bench/build.py --no-pip    without those that take a minute each
    python scripts/bench/build.py --cold      empty caches: minutes, needs a package index
    python scripts/bench/build.py --steps     only where the seconds of one environment go

All of them install both committed locks, hashes enforced. Ours also byte-compiles what RP
imports, imports it, digests every file, compares versions and writes RP's definition. What was
byte-compiled for former builds is kept, as uv keeps wheels: "warm" is with that too, "first" is
without. The last lines have ours as a ratio to uv; of "first" what is left without the
byte-compiling, which is timed by itself. uv is shown as it is by default (hard links into its
cache), when it copies as ours does, and when it byte-compiles, too (all files).

Further tables have both environments at once beside one after the other, and a sync that builds
them where 50 other builds of each are kept, with a generation for each; the last one shows where
the seconds of one environment go, by step.

What a run has made is moved away before the next, and removed at the end: ext4 looks at all inodes
that were freed within a minute before it gives out a new one, so that whoever makes files just
after many were removed waits many times as long. Name a folder on another file system in TMPDIR.
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
from pathlib import Path

from timing import ROOT, SCALEMS, Case, command, compare, processors

import scalems.env.sync as synchronize
from scalems.env import build, codecache, fingerprint, manifest, state, wheel
from scalems.env.build import IMPORTED
from scalems.env.engine.uv import UvEngine
from scalems.env.locking import Options
from scalems.resource import definition
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
    parser.add_argument("--steps", action="store_true", help="only the steps of a build")
    options = parser.parse_args()
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # of whoever runs this; a client venv is compiled
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        folder = Path(name)
        (folder / "former").mkdir()
        if not options.steps:
            _compare(folder, options)
        _steps(folder)


def _compare(folder: Path, options: argparse.Namespace) -> None:
    first, compiling = _ours(folder, "uv", first=True), _compiling(folder)
    warm = _ours(folder, "uv")
    peers = [
        _uv(folder, "uv venv; uv pip sync"),
        _uv(folder, "the same, --link-mode copy", "--link-mode", "copy"),
        _uv(
            folder,
            "the same, --link-mode copy --compile-bytecode",
            *("--link-mode", "copy", "--compile-bytecode"),
        ),
    ]
    ours = [first] if options.cold else [warm, first]
    cases = [*ours, *peers]
    if not options.no_pip:
        cases += [_ours(folder, "pip"), _pip_sync(folder), _pip(folder)]
    for case in cases:
        if options.cold:
            case.prepare = _both(case.prepare, folder)
        else:  # fill the caches
            case.prepare()
            case.run()
    cases.insert(len(ours), compiling)  # of what ours has just made
    compare("cold sync" if options.cold else "warm sync", cases, runs=options.runs)
    for one, less in ((warm, None), (first, compiling)):
        for peer in peers if one.seconds else ():
            shares = (
                (one.median - (less.median if less else 0)) / peer.median,
                (min(one.seconds) - (min(less.seconds) if less else 0)) / min(peer.seconds),
                (one.median_cpu - (less.median_cpu if less else 0)) / peer.median_cpu,
            )
            what = f"{one.name}{' beyond byte-compiling' if less else ''} : {peer.name}"
            print(f"{what} = {shares[0]:.2f} (minima {shares[1]:.2f}, CPU {shares[2]:.2f})")
    if not options.cold:
        compare("two environments", _together(folder), runs=options.runs)
        compare("and former ones", [_kept(folder, 0), _kept(folder, 50)], runs=options.runs)


def _away(place: Path, folder: Path) -> None:
    """Move what a run has made away."""
    if place.exists():
        former = folder / "former"
        place.rename(former / f"{len(os.listdir(former))}-{place.name}")  # noqa: PTH208


def _both(prepare: Callable[[], object], folder: Path) -> Callable[[], None]:
    def cold() -> None:
        prepare()
        _away(folder / "cache", folder)

    return cold


def _environment(folder: Path, state: Path) -> dict[str, str]:
    return {
        "SCALEMS_HOME": str(state),
        "RADICAL_CONFIG_USER_DIR": str(state),
        "UV_CACHE_DIR": str(folder / "cache" / "uv"),
        "PIP_CACHE_DIR": str(folder / "cache" / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def _ours(folder: Path, engine: str, *, first: bool = False) -> Case:
    state = folder / f"scalems-{engine}"
    sync = [SCALEMS, "env", "sync", "--resource", LABEL, "--engine", engine]
    name = f"scalems env sync --engine {engine}"
    return Case(
        f"{name}, first" if first else name,
        command(sync, env=_environment(folder, state)),
        lambda: _anew(state, folder, first=first),
    )


def _anew(state: Path, folder: Path, *, first: bool) -> None:
    """Leave nothing of a state folder but what was byte-compiled.

    :param first: not that either.
    """
    _away(state, folder)
    newest = max((folder / "former").glob(f"*-{state.name}/compiled"), key=_number, default=None)
    if newest and not first:
        shutil.copytree(newest, state / "compiled")


def _number(path: Path) -> int:
    return int(path.parent.name.partition("-")[0])


def _compiling(folder: Path) -> Case:
    """Return the byte-compiling that the first sync has done just before, done by itself.

    Both environments have the same packages of those that are compiled.
    """
    builds = folder / "scalems-uv" / "builds"

    def prepare() -> None:
        for number, cached in enumerate(sorted(builds.rglob("__pycache__"))):
            cached.rename(builds / f"former-{number}")

    def run() -> None:
        (site,) = builds.glob("pilot-*/venv/lib/python*/site-packages")
        folders = [site / name for name in IMPORTED if (site / name).is_dir()]
        jobs = str(os.cpu_count() or 1)
        argv = [sys.executable, "-I", "-S", "-m", "compileall", "-q", "-j", jobs, *folders]
        subprocess.run(argv, check=True)

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
        lambda: _away(place, folder),
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
        _anew(state, folder, first=False)

    return [Case("pilot and task", both, prepare), Case("pilot, then task", one_by_one, prepare)]


def _kept(folder: Path, number: int) -> Case:
    """Return a sync that builds both environments where so many others are kept."""
    state = folder / f"scalems-kept-{number}"
    sync = command([SCALEMS, "env", "sync", "--resource", LABEL], env=_environment(folder, state))
    sync()
    (first,) = (state / "generations" / LABEL).glob("1.json")
    for generation in range(2, number + 2):
        text = first.read_text().replace('"generation": 1', f'"generation": {generation}')
        for made in (state / "builds").glob("[!.]*-[!0]*"):
            former = made.with_name(f"{made.name.partition('-')[0]}-{generation:016x}")
            shutil.copytree(made, former, symlinks=True, copy_function=os.link)
            text = text.replace(made.name, former.name)
        first.with_name(f"{generation}.json").write_text(text)

    def prepare() -> None:
        for made in (state / "builds").glob("[!.]*-[!0]*"):
            _away(made, folder)

    return Case(f"{number} kept", sync, prepare)


STEPS: tuple[tuple[object, str, str], ...] = (
    (synchronize.locking, "ensure", "read locks"),
    (definition, "validate", "show RP its definition, meanwhile"),
    (wheel, "pack", "pack scalems"),
    (UvEngine, "create", "make the venv (uv)"),
    (UvEngine, "install", "install (uv)"),
    (fingerprint, "scan", "digest all files"),
    (fingerprint, "spoilt", "compare with the RECORDs"),
    (codecache, "_compile", "byte-compile what RP imports"),
    (codecache, "compile_into", "all for what is byte-compiled"),
    (build, "_verify", "import the stack"),
    (fingerprint, "scan_compiled", "digest what else was compiled"),
    (fingerprint, "content_digest", "content fingerprint"),
    (manifest, "write_files", "write the table of files"),
    (manifest, "write_stats", "write the list of sizes and times"),
    (manifest, "write", "write the manifest"),
    (build, "_make", "all of the build"),
    (definition, "write", "write RP's definition"),
    (state, "write", "write what was synced"),
)
"""Functions to time, each in the module that it is called by."""


def _steps(folder: Path) -> None:
    """Sync one environment in this process, and print when each step began and what it took."""
    state, project = folder / "scalems-steps", folder / "steps"
    shutil.copytree(ROOT / "envs", project / "envs")
    (project / "resource-configs").mkdir()
    (project / "resource-configs" / "local.toml").write_text(
        f'[localhost]\nextends = "{LABEL}"\npilot = "pilot"\ntasks = []\n'
    )
    os.environ.update(_environment(folder, state))
    here = Path(__file__).resolve().parent
    sys.path = [one for one in sys.path if Path(one).resolve() != here]  # radical.py is no package
    taken: list[tuple[float, float, float, str]] = []
    began = 0.0

    def timed(owner: object, name: str, what: str) -> None:
        former = getattr(owner, name)

        def call(*words: object, **named: object) -> object:
            used, started = processors(), time.perf_counter()
            try:
                return former(*words, **named)
            finally:
                seconds = time.perf_counter() - started
                taken.append((started - began, seconds, processors() - used, what))

        setattr(owner, name, call)

    def whole() -> None:
        options = Options(engine="uv")
        synchronize.sync(Project(project), LABEL, options, notify=lambda *_, **__: None)

    for owner, name, what in STEPS:
        timed(owner, name, what)
    for title in ("filling uv's cache", "first sync", "later, with what was compiled before"):
        _anew(state, folder, first=not title.startswith("later"))
        taken.clear()
        began, used = time.perf_counter(), processors()
        whole()
        taken.append((0.0, time.perf_counter() - began, processors() - used, "all of the sync"))
        if not title.startswith("filling"):
            print(f"\nwhere the seconds of one environment go (the pilot's), {title}")
            print(f"  {'':36}{'begins':>8}{'takes':>8}{'CPU':>8}   (CPU: of all that runs then)")
            for start, seconds, cpu, what in sorted(taken):
                print(f"  {what:36}{start:8.3f}{seconds:8.3f}{cpu:8.3f}")
    start = [
        sys.executable,
        "-c",
        "import scalems.__main__, scalems.cli.env.sync, scalems.env.sync",
    ]
    case = Case("", command(start, env={}))
    case.run()
    used, began = processors(), time.perf_counter()
    case.run()
    print(f"  {'before: Python, and load the code':44}", end="")
    print(f"{time.perf_counter() - began:8.3f}{processors() - used:8.3f}")


if __name__ == "__main__":
    main()
