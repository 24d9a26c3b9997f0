"""Private homes and projects for tests, and the command line as a user has it there."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).parent.parent
LABEL = "local.localhost"
PREFIX_SCRIPT = """
import sys, scalems

@scalems.task
def prefix():
    return sys.prefix

@scalems.app
def main():
    print(prefix().result())
"""
"""Prints the prefix of the Python that a task runs in."""


@functools.cache
def clean_environment() -> dict[str, str]:
    """The caller's variables, without those that would lead out of a private home.

    The package caches stay the user's own: nothing is fetched twice for a test.
    """
    names = ("SCALEMS_HOME", "RADICAL_CONFIG_USER_DIR", "PYTHONPATH", "VIRTUAL_ENV")
    env = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("XDG_")}
    for variable, argv in {
        "UV_CACHE_DIR": ["uv", "cache", "dir"],
        "PIP_CACHE_DIR": ["pip", "cache", "dir"],
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", *argv], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            env[variable] = done.stdout.strip()
    # The user's settings, where the index may be named, are found through the home as well.
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for variable, file in {
        "UV_CONFIG_FILE": "uv/uv.toml",
        "PIP_CONFIG_FILE": "pip/pip.conf",
    }.items():
        if (config / file).is_file():
            env.setdefault(variable, str(config / file))
    return env


@dataclass(frozen=True)
class Scalems:
    """A private home, a project, and the command line as a user has it there."""

    home: Path
    project: Path
    env: dict[str, str]

    @property
    def root(self) -> Path:
        """Where scalems keeps its things."""
        return self.home / ".local" / "share" / "scalems"

    @property
    def definition(self) -> Path:
        """RP's resource file of the domain ``local``."""
        return self.home / ".radical" / "pilot" / "configs" / "resource_local.json"

    def argv(self, *words: str | Path) -> list[str]:
        """Return the words that run the command line."""
        return [str(Path(sys.executable).with_name("scalems")), *map(str, words)]

    def run(
        self, *words: str | Path, code: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in the project to its end, and see that it ends as it must."""
        done = subprocess.run(
            self.argv(*words),
            cwd=self.project,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, shown
        assert code is None or done.returncode == code, shown
        return done

    def json(self, *words: str | Path, code: int = 0, **env: str) -> Any:
        """Run the command line with ``--json``; return what it printed, which is all JSON."""
        return json.loads(self.run(*words, "--json", code=code, **env).stdout)

    def sync(self, *words: str, code: int = 0, **env: str) -> Any:
        """Sync the project's resource; return the result."""
        return self.json("env", "sync", "--resource", LABEL, *words, code=code, **env)

    def check(self, *words: str, code: int = 0) -> Any:
        """Check the project's resource; return the report."""
        (report,) = self.json("env", "check", "--resource", LABEL, *words, code=code)
        return report

    def build(self, name: str) -> Path:
        """Return the folder of the build in use."""
        return (self.root / "current" / LABEL / name).resolve(strict=True)


def copy_project(folder: Path) -> Path:
    """Copy the repository's own specs, locks and configs."""
    for name in ("envs", "resource-configs"):
        shutil.copytree(REPO / name, folder / name)
    return folder


def small_project(folder: Path) -> Path:
    """Make a project whose resource has the repository's Pilot venv and no other."""
    copy_project(folder)
    for file in (folder / "envs").glob("task.*"):
        file.unlink()
    configure(folder, "tasks = []\n")
    return folder


def configure(project: Path, more: str, *, extends: str = LABEL, name: str = "localhost") -> None:
    """Write the resource config of a project."""
    (project / "resource-configs" / "local.toml").write_text(
        f'[{name}]\nextends = "{extends}"\npilot = "pilot"\n{more}'
    )


def add_task(project: Path, *, name: str = "task") -> None:
    """Add a Task venv to a small project that asks for what the Pilot venv has, lock and all."""
    envs = project / "envs"
    spec = (envs / "pilot.toml").read_text().replace('role = "pilot"', 'role = "task"')
    (envs / f"{name}.toml").write_text(spec)
    shutil.copy(envs / "pilot.lock.txt", envs / f"{name}.lock.txt")
    configure(project, f'tasks = ["{name}"]\n')


def make_scalems(folder: Path, project: Callable[[Path], Path] = small_project) -> Scalems:
    """Make a private home and a project below a folder."""
    home = folder / "home"
    home.mkdir(parents=True)
    env = {**clean_environment(), "HOME": str(home)}
    return Scalems(home=home, project=project(folder / "project"), env=env)


def hand_made_venv(made: Scalems, folder: Path, *packages: str) -> Path:
    """Make a venv by hand that Workers can run in.

    :param packages: what it has beside the pilot's lock and scalems.
    """
    from scalems.env import wheel

    venv = folder / "mine"
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
    for argv in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
        [*install, "--requirement", str(made.project / "envs" / "pilot.lock.txt")],
        *([[*install, *packages]] if packages else []),
        [*install, "--no-deps", str(wheel.pack(folder / "wheels"))],
    ):
        subprocess.run(argv, env=made.env, check=True)
    return venv


def tree(folder: Path, *, content: bool = True) -> dict[str, tuple[object, ...]]:
    """Return what there is below a folder, in a form that shows every change.

    Of lock files only that they are there: they say who held them last.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.suffix == ".lock":
            found[str(path.relative_to(folder))] = (status.st_mode, status.st_ino)
            continue
        inside: object = ""
        if path.is_symlink():
            inside = str(path.readlink())
        elif path.is_file() and content:
            inside = path.read_bytes()
        found[str(path.relative_to(folder))] = (
            *(status.st_mode, status.st_ino, status.st_size if not path.is_dir() else 0),
            *(status.st_mtime_ns, inside),
        )
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the paths where two trees differ: pytest would print all of both."""
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def in_namespace(mounts: str, argv: list[str], made: Scalems) -> subprocess.CompletedProcess[str]:
    """Run a command after mounts that only it sees, and that end with it.

    Skips the test where nobody may mount.
    """
    import pytest

    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-r"]
    env = {**made.env, "HOME": str(made.home)}
    probe = [*unshare, "sh", "-c", 'mount -t tmpfs none "$HOME"']
    if not shutil.which("unshare") or subprocess.run(probe, env=env, check=False).returncode:
        pytest.skip("nobody may mount file systems here")
    script = f'{mounts} || exit 99; cd "$1" && shift && exec "$@"'
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", str(made.project), *argv],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 99, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def debian(command: str, package: str = "") -> str:
    """Return a command of Debian's packages, installed first where we may; else skip the test."""
    import pytest

    if not shutil.which(command) and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
        for argv in (["apt-get", "update", "-qq"], [*install, package or command]):
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    found = shutil.which(command)
    if not found:
        pytest.skip(f"please install {package or command}")
    return found
