"""Checks of a build beside bare digests and `lstat` of the same files.

    python scripts/bench/verify.py

In one process, interpreter start left out; then the commands, with it. Every byte is read warm,
and cold: from the disk, as far as the system gives up what it keeps of files when it is asked to.
The last tables show that a check costs the same however many builds are kept, and that cost grows
as the number of files does: by four from line to line. The last line has the ratios that matter.
Needs a package index once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from timing import SCALEMS, Case, command, compare

from scalems.env import check, fingerprint, manifest
from scalems.env.check import Depth

LABEL = "local.localhost"


def main() -> None:
    """Build the environments, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--env", default="task", help="environment to look at")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        home = Path(name)
        env = {"SCALEMS_HOME": str(home / "state"), "RADICAL_CONFIG_USER_DIR": name}
        env["PYTHONDONTWRITEBYTECODE"] = ""  # of whoever runs this; a client venv is compiled
        command([SCALEMS, "env", "sync", "--resource", LABEL], env=env)()
        folder = (home / "state" / "current" / LABEL / options.env).resolve()
        known = manifest.read(folder)
        assert known
        table = manifest.read_files(folder, known) or {}
        files = [str(folder / "venv" / path) for path in table]
        what = f"{known.files:,} files, {known.bytes / 1e6:.0f} MB"
        deep = look(folder, Depth.DEEP)
        ratios = [
            f"{name}, {every_byte(f'every byte, {name}: {what}', files, deep, prepare, options)}"
            for name, prepare in (("warm", nothing), ("cold", partial(forget, files)))
        ]
        many = tree(home / "many", 12_000)
        inside = [str(path) for path in many.rglob("*.py")]
        scan = partial(fingerprint.scan, many)
        more = "12,000 files"
        ratios.append(
            f"{more}, {every_byte(f'every byte, {more}', inside, scan, nothing, options)}"
        )
        compare(
            "size and time of every file",
            [
                Case("bare lstat", lambda: [os.lstat(path) for path in files]),
                Case("check, normal", look(folder, Depth.NORMAL)),
                Case("check, fast", look(folder, Depth.FAST)),
            ],
            runs=options.runs,
        )
        fast = command([SCALEMS, "env", "check", "--fast", "--quiet"], env=env)
        commands = [
            Case("python -c pass", command([sys.executable, "-c", "pass"], env=env)),
            Case("scalems --help", command([SCALEMS, "--help"], env=env)),
            Case("scalems env check --fast", fast),
        ]
        compare("commands", commands, runs=options.runs)
        for number in range(100):
            kept = folder.with_name(f"task-{number:016x}")
            kept.mkdir()
            shutil.copy(folder / "manifest.json", kept)
        compare(
            "with 100 more builds",
            [
                Case("check, fast", look(folder, Depth.FAST)),
                Case("scalems env check --fast", fast),
            ],
            runs=options.runs,
        )
        trees = [(count, tree(home / f"tree-{count}", count)) for count in (2500, 10_000, 40_000)]
        for what, read in (("every byte", fingerprint.scan), ("size and time", stamps)):
            cases = [Case(f"{count:,} files", partial(read, place)) for count, place in trees]
            compare(f"{what} of more and more files", cases, runs=options.runs)
        print("\n".join(f"every byte : the fastest bare digest = {one}" for one in ratios))


def every_byte(
    title: str,
    files: list[str],
    check: Callable[[], object],
    prepare: Callable[[], object],
    options: argparse.Namespace,
) -> str:
    """Time a check beside bare digests; return its ratio to the fastest of these."""
    bare = [Case(f"bare {kind}", digests(files, kind), prepare) for kind in ("sha256", "blake2b")]
    ours = Case("ours", check, prepare)
    compare(title, [*bare, ours], runs=options.runs)
    fastest = min(bare, key=lambda case: case.median)
    cpu = ours.median_cpu / fastest.median_cpu
    return f"{ours.median / fastest.median:.2f} (CPU {cpu:.2f}) of {fastest.name}"


def nothing() -> None:
    """Leave the system's cache of files as it is."""


def forget(files: list[str]) -> None:
    """Have the system give up what it keeps of files, which must be on the disk for that."""
    os.sync()
    for path in files:
        if Path(path).is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def tree(folder: Path, count: int) -> Path:
    """Make a folder with so many files of 4 kB, 50 in each of its folders."""
    for start in range(0, count, 50):
        inner = folder / str(start // 2500) / str(start)
        inner.mkdir(parents=True)
        for number in range(50):
            (inner / f"{number}.py").write_bytes(bytes([number]) * 4096)
    return folder


def stamps(folder: Path) -> list[str]:
    """Look at each file as a normal check does."""
    return list(fingerprint.stamps(folder))


def look(folder: Path, depth: Depth) -> Callable[[], None]:
    """Return a check that must find nothing."""

    def run() -> None:
        found = check.inspect("task", folder, depth=depth)
        if found:
            sys.exit("\n".join(map(str, found)))

    return run


def digests(paths: list[str], kind: str) -> Callable[[], object]:
    """Return what digests files on all cores, and does nothing else."""

    def one(share: list[str]) -> None:
        for path in share:
            if Path(path).is_symlink():
                continue
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
                hashlib.new(kind, stream.readall()).hexdigest()

    count = os.cpu_count() or 1

    def run() -> None:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(one, [paths[start::count] for start in range(count)]))

    return run


if __name__ == "__main__":
    main()
