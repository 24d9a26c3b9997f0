"""The far side of a service: starts a program, waits until it answers, watches it, and ends it.

It runs where the program runs, and what it knows is in a folder that whoever has started it sees
too: ``wanted.json`` says what to start, ``state.json`` how it stands, and a file ``stop`` ends it.
It needs the standard library, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from scalems.workflow import mpi

WANTED, STATE, STOP = "wanted.json", "state.json", "stop"
START = (
    "import sys; sys.path[:1] = [] if sys.path[0] == '' else sys.path[:1];"
    " from scalems.workflow.serving import main; main({folder!r})"
)
"""What the interpreter of the environment is given after ``-c``."""

_LOOK = 0.05  # seconds between two looks
_ANSWER = 1.0  # seconds for a connection
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_SHOWN = 2000  # characters of the program's output in an error
_SEARCHED = 1_000_000  # bytes of its output that are searched for the pattern


class Address(NamedTuple):
    """Where a service answers: a pair, as sockets take it; as text ``host:port``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def main(name: str) -> None:
    """Serve until the program has ended or is told to; the state file says which."""
    folder = Path(name)
    stop = folder / STOP
    signal.signal(signal.SIGTERM, lambda *_: stop.touch())
    wanted = json.loads((folder / WANTED).read_text(encoding="utf-8"))
    host = wanted["host"] or _address(wanted["reach"])
    port = wanted["port"] or _free_port(host)

    def filled(word: str) -> str:
        return word.replace("{port}", str(port)).replace("{host}", host)

    wanted["argv"] = [filled(word) for word in wanted["argv"]]
    wanted["env"] = {key: filled(value) for key, value in wanted["env"].items()}
    found: dict[str, Any] = {}
    how = ""
    for restarts in range(wanted["restarts"] + 1):
        if restarts:
            found.update(restarts=restarts, before=how)
            _tell(folder, **found, state="restarting")
        try:
            process = _started(wanted, folder)
        except OSError as error:
            _tell(folder, state="ended", how=f"did not start: {error.strerror}", stderr="")
            return
        try:
            how, again = _watch(process, wanted, folder, found, host, port)
        finally:
            _end(process)
        if not again:
            break
    _tell(folder, **found, state="ended", how=how, stderr=_tail(folder))


def _started(wanted: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        return subprocess.Popen(
            [*mpi.shell(wanted["pre_exec"]), *wanted["argv"]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **wanted["env"]},
            cwd=wanted["cwd"] or folder,
            start_new_session=True,
        )


def _watch(
    process: subprocess.Popen[bytes],
    wanted: dict[str, Any],
    folder: Path,
    found: dict[str, Any],
    host: str,
    port: int,
) -> tuple[str, bool]:
    """Tell when the program is ready; return how it has ended, for people.

    :param found: gets its address then; has the one that it had when it is started again.
    :return: also whether it was ready, and has ended by itself: it may be started again.
    """
    parent, ready = os.getppid(), False
    limit = time.monotonic() + wanted["timeout"]
    while process.poll() is None:
        if (folder / STOP).exists() or os.getppid() != parent:
            return "was stopped", False
        if not ready and (address := _answers(wanted, folder, host, port)) is not None:
            if found and found.items() & address.items() != address.items():
                return f"was started again, and answers at {address} now", False
            ready = True
            found.update(address)
            _tell(folder, **found, state="ready")
        if not ready and time.monotonic() > limit:
            return f"was not ready after {wanted['timeout']:g} s", False
        time.sleep(_LOOK)
    if wanted["ready"] and not ready and (address := _answers(wanted, folder, host, port)):
        ready = True
        found.update(address)
    code = process.returncode
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}", ready
    return f"ended with exit code {code}" + " before it was ready" * (not ready), ready


def _answers(wanted: dict[str, Any], folder: Path, host: str, port: int) -> dict[str, Any] | None:
    """Return the address of a program that is ready; ``None`` if it is not yet."""
    if wanted["ready"] is None:
        try:
            with socket.create_connection((host, port), timeout=_ANSWER):
                return {"host": host, "port": port}
        except OSError:
            return None
    for name in ("stdout", "stderr"):
        with (folder / name).open("rb") as file:
            text = file.read(_SEARCHED).decode("utf-8", "replace")
        if match := re.search(wanted["ready"], text, re.MULTILINE):
            said = match.groupdict()
            return {"host": said.get("host") or host, "port": int(said.get("port") or port)}
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program with all that it has started."""
    for number, limit in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
            if number == signal.SIGTERM:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it has left
            return


def _tell(folder: Path, **state: object) -> None:
    part = folder / f".{STATE}"
    part.write_text(json.dumps(state), encoding="utf-8")
    part.replace(folder / STATE)


def _tail(folder: Path) -> str:
    for name in ("stderr", "stdout"):
        with contextlib.suppress(OSError):
            text = (folder / name).read_bytes()[-_SHOWN:].decode("utf-8", "replace").strip()
            if text:
                return text
    return ""


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def _address(reach: list[str]) -> str:
    """Return the address of this host on the way to the first of others that there is a way to."""
    for other in reach:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        ):
            probe.connect((other, 9))  # nothing is sent
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def laid(folder: Path, wanted: dict[str, Any]) -> list[str]:
    """Make the folder of a service; return what the interpreter is started with.

    :raises OSError: it cannot be made.
    """
    folder.mkdir(parents=True, mode=0o700)
    (folder / WANTED).write_text(json.dumps(wanted), encoding="utf-8")
    return ["-c", START.format(folder=str(folder))]


def state(folder: Path) -> dict[str, Any]:
    """Return how it stands with a service; ``{}`` while it starts."""
    try:
        told: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told
