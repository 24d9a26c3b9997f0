"""Nothing to do: `env sync` and `env check` beside `uv pip sync`, `uv sync` and `pip-sync`.

    python scripts/bench/noop.py

scalems looks at two environments, the client and RP's resource file; the peers look at one
environment of the same lock (`uv sync`: of a project with the same requirements, in its own
lock format). Needs a package index once, to build them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from timing import ROOT, SCALEMS, Case, command, compare

RESOURCE = ["--resource", "local.localhost"]


def main() -> None:
    """Build the environments, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalems-bench-") as name:
        home = Path(name)
        env = {"SCALEMS_HOME": str(home / "state"), "RADICAL_CONFIG_USER_DIR": name}
        venv, lock = home / "by-hand", ROOT / "envs" / "task.lock.txt"
        python = venv / "bin" / "python"
        uv = Path(sys.executable).with_name("uv")
        sync = [uv, "pip", "sync", "--require-hashes", "--python", python, lock]
        pip_sync = [sys.executable, "-m", "piptools", "sync", "--python-executable", python, lock]
        check = [SCALEMS, "env", "check"]
        command([SCALEMS, "env", "sync", *RESOURCE], env=env)()
        command([uv, "venv", "--seed", "--python", sys.executable, venv], env=env)()
        command(sync, env=env)()
        command([python, "-m", "ensurepip"], env=env)()
        project = _project(home / "project", lock)
        uv_sync = [uv, "sync", "--frozen", "--no-python-downloads", "--project", project]
        command([uv, "lock", "--project", project], env=env, cwd=project)()
        command(uv_sync, env=env, cwd=project)()
        compare(
            "nothing to do",
            [
                Case("scalems env sync", command([SCALEMS, "env", "sync", *RESOURCE], env=env)),
                *(
                    Case(f"scalems env check {depth}".strip(), command([*check, *flags], env=env))
                    for depth, flags in (("--fast", ["--fast"]), ("", []), ("--deep", ["--deep"]))
                ),
                Case("uv pip sync", command([*sync, "--dry-run"], env=env)),
                Case("uv sync --frozen", command(uv_sync, env=env, cwd=project)),
                Case("pip-sync", command([*pip_sync, "--dry-run"], env=env)),
                Case("python -c pass", command([sys.executable, "-c", "pass"], env=env)),
            ],
            runs=options.runs,
        )


def _project(folder: Path, lock: Path) -> Path:
    """Write a project for uv whose requirements are the pins of a lock."""
    pins = re.findall(r"(?m)^([\w.-]+==[^\\\n]+?) *\\?$", lock.read_text())
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "bench"\nversion = "1"\n'
        f'requires-python = "=={sys.version_info[0]}.{sys.version_info[1]}.*"\n'
        f"dependencies = {json.dumps(pins)}\n"
    )
    return folder


if __name__ == "__main__":
    main()
