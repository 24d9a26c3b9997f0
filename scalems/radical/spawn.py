"""Starting the process that holds RADICAL-Pilot's session, here or on another host."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from scalems.env import lease
from scalems.host import local
from scalems.radical import processes

# RP must be loaded first: it warns of deadlocks otherwise. What `nursery.start` says is that this
# is a fork that has done its work.
_START = (
    "import sys; sys.path[:1] = [] if sys.path[0] == '' else sys.path[:1];"
    " import radical.pilot, pathlib; from scalems.radical import nursery, server;"
    " nursery.start(pathlib.Path('nursery')) or server.main({descriptor})"
)


def start(python: Path, run: str, folder: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a session server; it holds the same builds as this process.

    :param python: interpreter of a venv with RP and scalems.
    :param run: name of the run.
    :param folder: of the run.
    :return: its process, and the socket that it listens to.
    :raises OSError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    with theirs, (folder / "server.log").open("ab") as output:
        process = subprocess.Popen(
            [str(python), "-c", _START.format(descriptor=theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(python, run, folder),
            pass_fds=[theirs.fileno(), *lease.descriptors()],
            start_new_session=True,
        )
    return process, ours


def _environment(python: Path, run: str, folder: Path) -> dict[str, str]:
    """Return the environment of a Python's venv, as if it were activated."""
    env = {
        key: value
        for key, value in os.environ.items()
        if not (key.startswith("RADICAL_") and key.endswith("_REPORT"))  # what RP prints
        if not local.is_credential(key, value)  # RP writes its environment to many files
    }
    # RP's processes that outlive what they belong to do not kill themselves where they see pytest.
    env.pop("PYTEST_VERSION", None)
    # Each of RP's processes would ask the network for the time, before it writes a profile.
    env.setdefault("RADICAL_DEFAULT_PROFILE", "FALSE")
    env["PATH"] = f"{python.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    if (python.parent.parent / "pyvenv.cfg").is_file():
        env["VIRTUAL_ENV"] = str(python.parent.parent)
    env["PWD"] = str(folder)  # where RP puts its session
    env[processes.RUN] = run
    return env
