"""Calls in processes of this machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scalems import probe
from scalems.env import caches, canonical, site
from scalems.errors import BackendError
from scalems.local.services import Services
from scalems.workflow import cores as cores_of
from scalems.workflow import mpi, stamp
from scalems.workflow.call import ENV_VARIABLE
from scalems.workflow.pool import CallPool
from scalems.workflow.process import CallProcess, Launch, Lost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scalems.env import Build
    from scalems.workflow.backend import Done, Told
    from scalems.workflow.call import Call


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalBackend:
    """Runs calls in a pool of processes, of this Python or of a Task venv.

    :param workers: number of processes.
    :param pin: whether each call has CPUs of its own, see :func:`scalems.workflow.cores.for_calls`.
    :param build: the Task venv that calls run in; without it they run in this Python.
    :param label: where the calls run, for people.
    :param environment: content fingerprint of that venv; without it, that of this Python is made.
    """

    name = "local"

    def __init__(
        self,
        *,
        workers: int,
        pin: str = "auto",
        build: Build | None = None,
        label: str = "local",
        environment: str | None = None,
    ) -> None:
        self.label = label
        self._environment = environment
        self._workers = workers
        self._pin = pin
        self._build = build
        self._lock = threading.Lock()
        self._pool: CallPool | None = None
        self._spare: CallProcess | None = None
        self._services = Services()
        self._closed = False

    @functools.cached_property
    def environment(self) -> str:
        """Content fingerprint of the Task venv, or the digest of this Python and its packages."""
        if self._environment is not None:
            return self._environment
        facts = {"python": platform.python_version(), "machine": platform.machine()}
        versions = probe.versions(sys.path)
        return canonical.digest("client environment 1", {**facts, "versions": versions})

    @functools.cached_property
    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """Versions in the Task venv, or in this Python."""
        if self._build is not None:
            return {self._build.content_digest: self._build.versions}
        return {self.environment: probe.versions(sys.path)}

    def prepare(self) -> None:
        """Start a process while the script is loaded, which takes about as long.

        It serves if the first call finds what processes inherit as it is now. Shell lines of an
        environment are left to that: they take a while, and build on what the script has set.
        """
        build = self._build
        if build is not None and (build.site.lines or build.lines.pre_exec):
            return
        with contextlib.suppress(Lost):  # the first call will tell
            self._spare = CallProcess(Launch(python=self._python, env=self._given(), cwd=None))

    @property
    def _python(self) -> Path | None:
        return self._build.python if self._build else None

    @functools.cached_property
    def _cpus(self) -> list[int]:
        return cores_of.for_calls(self._pin, self._workers)

    def _given(self) -> dict[str, str]:
        """Variables of the processes, beside those that they inherit."""
        marks = {cores_of.PIN: "always"} if self._cpus else {}  # ranks share those of their call
        return {**(_variables(self._build) if self._build else {}), **marks}

    def start(self) -> None:
        """Make the pool; its processes are started as calls need them."""
        self._open()

    def _open(self) -> CallPool:
        # Not before the first call: the processes inherit the environment variables and
        # the working folder that the script has set by then. The spare one is as they are, or
        # it is not used.
        with self._lock:
            if self._pool is None:
                if self._closed:
                    raise BackendError("The local backend is closed.")
                spare, self._spare = self._spare, None
                self._pool = CallPool(
                    self._workers,
                    python=self._python,
                    env=self._given(),
                    cpus=self._cpus,
                    spare=spare,
                )
            return self._pool

    def submit(self, call: Call, done: Done) -> None:
        """Queue a call."""
        self._open().submit(call, done)

    def serve(self, ident: int, wanted: Mapping[str, Any], told: Told) -> None:
        """Start a service in the environment of the calls."""
        build = self._build
        launch = Launch(
            python=build.python if build else None,
            env=_variables(build) if build else {},
            cwd=None,
        )
        self._services.start(ident, wanted, told, launch)

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """Withdraw a call, or end its processes; end a service."""
        if item is None and self._services.stop(call_id):
            return True
        return self._pool is not None and self._pool.cancel(call_id, item)

    def close(self, *, abort: bool = False) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
        self._services.close()
        if self._pool is not None:
            self._pool.close(kill=abort)
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

    def status(self) -> Mapping[str, str]:
        """Return the number of processes."""
        return {"processes": str(self._workers)}


def _variables(build: Build) -> dict[str, str]:

    given = {
        ENV_VARIABLE: build.content_digest,
        stamp.VARIABLE: stamp.text("local", build.software),
    }
    if build.lines.pre_rank:
        given[mpi.PRE_RANK] = json.dumps(build.lines.pre_rank)
    shell = (*build.site.shell, *build.lines.pre_exec)
    exported = site.variables(replace(build.site, shell=shell))
    return {**caches.variables(os.environ), **exported, **given}
