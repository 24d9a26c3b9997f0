"""Looks at the first call of each function in the real Task venv, while RADICAL-Pilot starts.

What a call needs and the Task venv does not have is known then before there is a pilot, and
not after hours in a queue.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import platform
import queue
import shlex
import subprocess
import threading
from importlib import metadata
from typing import TYPE_CHECKING, Any

from scalems.env import enter, site
from scalems.env.finding import Policy
from scalems.errors import EnvironmentNotReady, ScalemsError
from scalems.host import ssh
from scalems.workflow.block import singles
from scalems.workflow.inspection import HEADER
from scalems.workflow.large import Large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scalems.env import Build
    from scalems.host.address import Host
    from scalems.workflow.backend import Notify
    from scalems.workflow.call import Call

_LARGEST = 100_000_000  # bytes of a payload that is looked at
_READY = "<<<scalems inspection>>>"
_NOISE = 1 << 20  # bytes of a line
_LEAKING = ("PYTHONPATH", "PYTHONHOME")

log = logging.getLogger(__name__)


class Preflight:
    """Examines calls in a process of a Task venv, in the background.

    :param label: RP's label of the resource.
    :param policy: what to do about a call that must fail: refuse the run, tell, or nothing.
    :param notify: told what may go wrong.
    :param host: where the Task venv is; ``None`` is this machine.
    """

    refuse: Callable[[ScalemsError], object] = staticmethod(lambda error: None)
    """Told what must go wrong."""

    def __init__(
        self,
        build: Build,
        label: str,
        policy: Policy,
        *,
        notify: Notify,
        host: Host | None = None,
    ) -> None:
        self._build = build
        self._host = host
        self._label = label
        self._policy = policy
        self._notify = notify
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._waiting: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = policy is Policy.OFF or (host is None and not build.python.exists())

    def offer(self, call: Call) -> None:
        """Take a call, to look at it if it is the first one of its function."""
        with self._lock:
            if self._ended or call.name in self._seen:
                return
            self._seen.add(call.name)
            if call.items is not None:
                call = next(singles(call))
            self._waiting.put(call)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="scalems-preflight", daemon=True
                )
                self._thread.start()

    def end(self) -> None:
        """Look at no more: calls run now, and tell themselves what they lack."""
        with self._lock:
            self._ended = True
            self._waiting.put(None)
            process = self._process
        if process is not None:
            process.kill()

    def _run(self) -> None:
        try:
            with self._lock:
                if self._ended:
                    return
                self._process = self._start() if self._host is None else self._start_there()
            with self._process:
                if self._host is not None:
                    self._skip_noise(self._process)
                while (call := self._waiting.get()) is not None:
                    answer = self._ask(self._process, call)
                    if answer is None:
                        return
                    self._judge(call, answer)
        except (OSError, ValueError, ScalemsError) as error:
            log.info("calls could not be looked at before the start: %s", error)

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {k: v for k, v in os.environ.items() if k not in _LEAKING}
        return subprocess.Popen(
            [self._build.python, "-m", "scalems.workflow.inspection"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",  # what lies in a working folder is not to be found
            env={**variables, **site.variables(self._build.site)},
            start_new_session=True,
        )

    def _start_there(self) -> subprocess.Popen[bytes]:
        """Start it on the host, in the Task venv as a Worker enters it."""
        assert self._host is not None
        lines = [
            *enter.shell_lines(self._build.venv, self._build.site, conda=self._build.conda),
            "cd /",
            f"echo; echo {shlex.quote(_READY)}",
            "exec python -m scalems.workflow.inspection",
        ]
        command = f"exec bash -c {shlex.quote(chr(10).join(lines))}"
        return subprocess.Popen(
            [*ssh.client(self._host), "-T", "--", self._host.destination, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @staticmethod
    def _skip_noise(process: subprocess.Popen[bytes]) -> None:
        """Pass over what start-up files and modules of the host print."""
        assert process.stdout is not None
        while (line := process.stdout.readline(_NOISE)).strip() != _READY.encode():
            if not line:
                raise ValueError("the host has ended the process")

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], call: Call) -> dict[str, Any] | None:
        """Return what the process found out; ``None`` if it has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        if len(call.payload) > _LARGEST:  # a function that is apart is never large
            return {}
        payload = call.payload
        if isinstance(payload, Large):
            payload = pickle.dumps(payload, protocol=5)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(HEADER.pack(len(payload), len(call.function), call.needs.ranks > 1))
            process.stdin.write(payload + call.function)
            process.stdin.flush()
        line = process.stdout.readline()
        return dict(json.loads(line)) if line else None

    def _judge(self, call: Call, answer: dict[str, Any]) -> None:
        certain: list[tuple[str, str]] = []
        doubtful: list[tuple[str, str]] = []
        for is_certain, text, remedy in self._faults(call, answer):
            (certain if is_certain else doubtful).append((text, remedy))
        for text, remedy in doubtful if self._policy is Policy.ERROR else [*certain, *doubtful]:
            self._notify(f"warning: {text} ({remedy})")
        if certain and self._policy is Policy.ERROR:
            error = EnvironmentNotReady(
                "\n".join(text for text, _ in certain),
                remedy="; ".join(dict.fromkeys(remedy for _, remedy in certain))
                + "; or run with --preflight warn",
            )
            with self._lock:
                ended = self._ended
            if not ended:
                self.refuse(error)

    def _faults(self, call: Call, answer: dict[str, Any]) -> Iterator[tuple[bool, str, str]]:
        """Yield what is wrong with a call: whether it must fail for it, what, and the remedy."""
        name = self._build.name
        for module, certain in answer.get("missing", {}).items():
            needs = "needs" if certain else "may need"
            package = _package_of(module)
            yield (
                certain,
                f"{call.name} {needs} the module {module!r}, which the Task venv {name!r} does "
                "not have",
                self._mend(f"add {package} to the dependencies", f"-m pip install {package}"),
            )
        here, there = platform.python_version(), answer.get("python", "")
        if answer.get("by_value") and there and _minor(here) != _minor(there):
            yield (
                True,
                f"{call.name} travels as bytecode of Python {_minor(here)}, and the Task venv "
                f"{name!r} has Python {_minor(there)}",
                self._mend("give it the client's `python`", "is to be the client's Python"),
            )
        for package, (version, is_function) in answer.get("packages", {}).items():
            ours = _version(package)
            if ours and ours != version:
                what = "is of" if is_function else "gets values of"
                yield (
                    is_function,
                    f"{call.name} {what} {package}, which is {ours} here and {version} in the "
                    f"Task venv {name!r}",
                    self._mend(f"pin {package}=={ours}", f"-m pip install {package}=={ours}")
                    + f"; or install {version} here",
                )
        if answer.get("error"):
            yield (
                False,  # it may be our looking that fails
                f"{call.name} cannot be rebuilt in the Task venv {name!r}: {answer['error']}",
                "see what its arguments and its module need there",
            )

    def _mend(self, spec: str, python: str) -> str:
        """Return what is to be done in the spec, or with the Python of a venv of others."""
        if self._build.place is not None:
            return f"{self._build.python} {python}"
        return f"{spec} in envs/{self._build.name}.toml; scalems env sync --resource {self._label}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _package_of(module: str) -> str:
    """Return the distribution that a module is of here, or else the module's name."""
    return (metadata.packages_distributions().get(module) or [module])[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
