"""RADICAL-Pilot's side of a run: one session, one pilot, a raptor master and its Workers.

All that is known of RP's API is here. Nothing of it runs in the user's process: see
:mod:`scalems.radical.server`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems import probe
from scalems.env import enter
from scalems.errors import UsageError
from scalems.radical import batch, lean, runs, surroundings
from scalems.radical.request import Request
from scalems.radical.surroundings import Place
from scalems.radical.wire import HELLO, INVITATION, SLOTS
from scalems.workflow import mpi, stamp
from scalems.workflow.call import ENV_VARIABLE
from scalems.workflow.cores import PIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scalems.radical.request import Layout
    from scalems.radical.settings import Settings

_LOCAL = ("fork://", "local://")
_MAKING = ("create", "update", "recreate", "private")
_SAFE = re.compile(r"[\w./+@:,=~-]+")
_CANCEL_LIMIT = 15.0  # seconds
_IN_JOB = (
    "unset SLURM_EXPORT_ENV",  # PSI/J sets it to NONE: `srun` in a call would have no PATH
    # RP brings the variables of its agent's node to all others.
    'case "$SLURM_STEP_NODELIST" in "") ;; *[],[]*) export SLURMD_NODENAME="$(scontrol show '
    'hostnames "$SLURM_STEP_NODELIST" | sed -n "$((SLURM_NODEID + 1))p")" ;; '
    '*) export SLURMD_NODENAME="$SLURM_STEP_NODELIST" ;; esac',
)

CHANNEL = "SCALEMS_CHANNEL"
"""Environment variable: addresses that Workers reach the server by, or ``off``."""

FINAL = ("DONE", "FAILED", "CANCELED")
"""States that pilots and tasks of RP end in."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PilotEvent:
    """A pilot changed its state."""

    state: str


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """A task of RP ended: the master, a Worker, or a batch of calls."""

    uid: str
    state: str
    value: str | None
    error: str


@dataclass(frozen=True, kw_only=True)
class Hello:
    """A Worker says what it is."""

    text: str
    """See :meth:`scalems.radical.worker.RaptorWorker`; it may come several times."""


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """Something has changed about the pilot's job in the batch system."""

    job: batch.Job


class PilotSession:
    """Opens and closes RP's session, and passes batches of calls to its Workers.

    :param emit: told events, from RP's threads.
    :param invite: returns what a Worker needs to know to connect, see :func:`wire.pack`.
    """

    def __init__(
        self,
        settings: Settings,
        emit: Callable[[PilotEvent | TaskEvent | JobEvent | Hello], None],
        *,
        invite: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._emit = emit
        self._invite = invite
        self._session: Any = None
        self._pilots: Any = None
        self._pilot: Any = None
        self._tasks: Any = None
        self._raptor: Any = None
        self._venv: Path | None = None
        self.slots = 0
        self.spare = 0
        """Cores that no Worker has."""
        self.per_node = 0
        """Cores of a node; 0 if that is not known."""
        self.runtime = 0
        self.local = False
        self.makes_venv = False
        """Whether RP makes the Pilot venv when the pilot starts, which takes minutes."""
        self._queue = batch.Queue("")
        self._watch: batch.Watch | None = None
        self.staff: dict[str, str] = {}
        """The tasks that must live as long as the run does: uid to what it is."""
        self._scheduling: dict[str, float] = {}
        self._masters = 0  # that were started
        self._hosts: list[str] | None = None
        self._own: list[str] = []  # those, if all are of this machine
        self._shares: list[tuple[int, int]] = []  # cores and slots of each Worker's place
        self._places: dict[str, int] = {}  # which of these each Worker has, or had

    def open(self, proceed: Callable[[str], None]) -> None:
        """Start the session, the pilot, the master and the Workers; wait for none of them.

        :param proceed: told each step before it is taken; it may raise to stop here.
        :raises UsageError: if RP does not accept the resource or a pilot option.
        """
        import radical.pilot as rp

        # A pilot's job that Slurm begins anew would find no session.
        os.environ["SBATCH_NO_REQUEUE"] = "1"
        proceed("starting the RADICAL-Pilot session")
        config = lean.prepare(self._settings.folder / "config", self._settings.label)
        self._session = rp.Session(uid=self._settings.run, cfg=config)
        resource = self._resource()
        description, layout = self._describe(rp, resource)
        self._pilots = rp.PilotManager(session=self._session)
        self._pilots.register_callback(self._on_pilot)
        proceed(f"submitting the pilot to {self._settings.label}")
        # Before the task manager is made: the pilot boots meanwhile.
        try:
            self._pilot = self._pilots.submit_pilots(description)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(
                f"RADICAL-Pilot does not accept the pilot description: {error!r}"
            ) from error
        self._watch_job()
        proceed("starting the task manager")
        self._tasks = rp.TaskManager(session=self._session)
        self._tasks.register_callback(self._on_task)
        self._tasks.register_subscriber("control_pubsub", self._on_control)
        self._tasks.add_pilots(self._pilot)
        self._employ(rp, layout)

    def submit(self, name: str, function: str, *arguments: str) -> None:
        """Send a call-mode task to the Workers; its end is an event of that name."""
        import radical.pilot as rp

        self._raptor.submit_tasks(
            rp.TaskDescription(
                {
                    "uid": name,
                    "mode": rp.TASK_FUNCTION,
                    "function": function,
                    "args": list(arguments),
                }
            )
        )

    def launch(
        self, name: str, words: list[str], variables: Mapping[str, str], **fields: object
    ) -> None:
        """Start a task of RP's own, in the Task venv; its end is an event of that name.

        :param words: what its Python is given.
        :param variables: of its environment.
        :param fields: more of RP's TaskDescription.
        """
        import radical.pilot as rp

        build = self._settings.build
        description = {
            "uid": name,
            "mode": rp.TASK_EXECUTABLE,
            "executable": str(build.python),
            "arguments": words,
            "pre_launch": [
                *(*mpi.LAUNCH_LINES, *(mpi.RANK_LINES if fields.get("ranks") != 1 else ())),
                *build.lines.pre_launch,
            ],
            "pre_exec": self._entered(),
            **fields,
        }
        description["environment"] = {
            ENV_VARIABLE: build.content_digest,
            stamp.VARIABLE: stamp.text(name, build.software),
            **variables,
        }
        self._tasks.submit_tasks(rp.TaskDescription(description))

    def cancel(self, name: str) -> None:
        """End a task of RP's own."""
        self._tasks.cancel_tasks([name])

    def _entered(self) -> list[str]:
        """Return the shell lines that enter the Task venv."""
        build = self._settings.build
        before = build.lines.pre_exec
        entered = enter.shell_lines(build.venv, build.site, before, conda=build.conda)
        lines = [*_IN_JOB, *entered]
        if build.lines.pre_rank:
            ranks = shlex.quote(json.dumps(build.lines.pre_rank))
            lines.append(f"export {mpi.PRE_RANK}={ranks}")
        return lines

    @property
    def workers(self) -> int:
        """How many Workers there are."""
        return sum(what.startswith("Worker") for what in self.staff.values())

    def hosts(self) -> list[str]:
        """Return the addresses of this machine that Workers may reach it by, the best first.

        The first is the one that RP's agent connects to: that of the interface that RP is told
        to use (``RADICAL_DEFAULT_IFACE``), or that it likes best. ``SCALEMS_CHANNEL`` names
        others, or is ``off``. Later they are the same, even if the machine has them no more.
        """
        if self._hosts is None:
            self._hosts = self._addresses()
            # One that is not of this machine may lead here through a gateway.
            if all(map(surroundings.has, self._hosts)):
                self._own = self._hosts
        return self._hosts

    def _addresses(self) -> list[str]:
        if named := os.environ.get(CHANNEL):
            return [] if named == "off" else [host.strip() for host in named.split(",")]
        if self.local:
            return ["127.0.0.1"]
        import netifaces
        import radical.utils as ru

        found = [str(ru.get_hostip())]
        for interface in netifaces.interfaces():
            for entry in netifaces.ifaddresses(interface).get(netifaces.AF_INET, ()):
                if not entry["addr"].startswith("127."):
                    found.append(entry["addr"])
        return list(dict.fromkeys(found))

    def stuck(self) -> float:
        """Return for how many seconds the agent's scheduler has had the master or a Worker.

        There is room for them, so it takes none. But RP forks the scheduler's process while
        threads hold locks, and now and then it never wakes up, and nobody notices.
        """
        return max((time.monotonic() - since for since in self._scheduling.values()), default=0.0)

    def broadcast(self, command: str, **argument: object) -> None:
        """Send a control message to all Workers."""
        message = {"cmd": command, "arg": argument, "fwd": True}
        self._tasks.publish("control_pubsub", message)

    def sandbox(self) -> Path | None:
        """Return the pilot's folder, if this host sees it."""
        folder = self._folder()
        return folder if folder is not None and (self.local or folder.is_dir()) else None

    def _folder(self) -> Path | None:
        if self._pilot is None:
            return None
        import radical.utils as ru

        return Path(ru.Url(self._pilot.pilot_sandbox).path)

    def place(self) -> Place:
        """Return where the run runs, for those who look for what is wrong there."""
        settings, sandbox = self._settings, self.sandbox()
        return Place(
            label=settings.label,
            folder=settings.folder,
            venv=self._venv if self.local or sandbox is not None else None,
            build=settings.build,
            sandbox=sandbox,
            addresses=tuple(self._own),
        )

    def close(self) -> None:
        """Give back the resource: cancel the pilot and close the session.

        Nothing is done if all of it is on this machine. RP needs 10 s and more for
        that, and the server ends all processes of the run anyway.
        """
        if self._pilot is None or self.local or self._end_job():
            return
        # Closing at once takes RP 16 s when it has not heard that the pilot has ended.
        with _logged("cancel the pilot"):
            self._pilot.cancel()
            self._pilots.wait_pilots(self._pilot.uid, timeout=_CANCEL_LIMIT)
        with _logged("close the session"):
            self._session.close(download=False)
        self._end_job()

    @property
    def in_queue(self) -> bool:
        """Whether the pilot is a job of a batch system that can be asked."""
        return self._watch is not None

    def look(self) -> None:
        """Ask the batch system about the pilot's job at once."""
        if self._watch is not None:
            self._watch.look()

    def _watch_job(self) -> None:
        folder = self._folder()
        if folder is not None and not self.local:
            runs.note_sandbox(self._settings.folder, folder)
        if self._queue.known and folder is not None:
            self._watch = batch.Watch(
                self._queue, folder, lambda job: self._emit(JobEvent(job=job))
            )
            self._watch.start()

    def _end_job(self) -> bool:
        """End the pilot's job by the batch system; return whether it is certain to end.

        RP takes some 20 s to do the same.
        """
        folder = self._folder()
        job = None if folder is None else self._queue.find(folder)
        if job is None:
            return False
        log.info("cancel %s", job.text())
        return job.ended or self._queue.cancel(job)

    def _resource(self) -> Any:
        try:
            schema = self._settings.options.get("access_schema")
            resource = self._session.get_resource_config(self._settings.label, schema)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UsageError(
                f"RADICAL-Pilot cannot use the resource {self._settings.label}: {error}"
            ) from error
        endpoint = str(resource.job_manager_endpoint)
        self.local = endpoint.startswith(_LOCAL)
        self._queue = batch.Queue(endpoint)
        venv = Path(str(resource.get("virtenv") or ""))
        self.makes_venv = resource.get("virtenv_mode") in _MAKING
        if resource.get("virtenv_mode") == "use" and venv.is_absolute():
            self._venv = venv
        return resource

    def _describe(self, rp: Any, resource: Any) -> tuple[Any, Layout]:
        settings = self._settings
        request = Request.of(settings, resource)
        self.slots, self.runtime = request.slots, request.runtime
        self.spare, self.per_node = request.spare, request.per_node
        fields = dict(request.fields)
        if self.local:
            if not _SAFE.fullmatch(str(settings.folder)):
                raise UsageError(
                    f"RADICAL-Pilot cannot work in {settings.folder}: its scripts do not quote "
                    "the name",
                    remedy="set XDG_STATE_HOME to a folder with a plain name",
                )
            fields.setdefault("sandbox", str(settings.folder))
        return rp.PilotDescription(fields), request.layout

    def _employ(self, rp: Any, layout: Layout) -> None:
        self._hire_master(rp)
        self._shares = list(zip(layout.cores, layout.slots, strict=True))
        for index in range(len(self._shares)):
            self._places[f"scalems.worker.{index}"] = index
        self._hire(rp, list(self._places))

    def renew_master(self, uid: str) -> None:
        """Start a raptor master in the place of one that has ended; Workers to come are its."""
        import radical.pilot as rp

        del self.staff[uid]
        self._hire_master(rp)

    def dismiss(self, uid: str) -> None:
        """Do without a Worker that has ended."""
        del self.staff[uid]
        self.slots -= self._shares[self._places[uid]][1]

    def replace_worker(self, uid: str) -> str:
        """Start a Worker in the place of one that has ended; return what it is, for people."""
        import radical.pilot as rp

        del self.staff[uid]
        name = f"scalems.worker.{len(self._places)}"
        self._places[name] = self._places[uid]
        self._hire(rp, [name])
        return self.staff[name]

    def _hire_master(self, rp: Any) -> None:
        uid = f"scalems.master.{self._masters}" if self._masters else "scalems.master"
        self._masters += 1
        raptor = rp.TaskDescription({"mode": rp.RAPTOR_MASTER, "uid": uid})
        self._raptor = self._tasks.submit_raptors(raptor)[0]
        self.staff[self._raptor.uid] = "raptor master"

    def _hire(self, rp: Any, names: list[str]) -> None:
        build = self._settings.build
        package = build.code or probe.sites(build.venv)[-1] / "scalems"
        code = package / "radical" / "worker.py"
        descriptions, invitation = [], self._invite()
        for name in names:
            cores, slots = self._shares[self._places[name]]
            descriptions.append(
                rp.TaskDescription(
                    {
                        "mode": rp.RAPTOR_WORKER,
                        "uid": name,
                        "raptor_file": str(code),
                        "raptor_class": "RaptorWorker",
                        "ranks": 1,
                        "cores_per_rank": cores,
                        "environment": {
                            SLOTS: str(slots),
                            INVITATION: invitation,
                            PIN: self._settings.pin,
                            ENV_VARIABLE: build.content_digest,
                        },
                        "pre_launch": list(build.lines.pre_launch),
                        "pre_exec": self._entered(),
                    }
                )
            )
        for task in self._raptor.submit_workers(descriptions):
            self.staff[task.uid] = f"Worker {task.uid.rpartition('.')[2]}"

    def _on_pilot(self, pilot: Any, state: str, *_: Any) -> None:
        self._emit(PilotEvent(state=state))

    def _on_control(self, _: str, message: dict[str, Any]) -> None:
        if message.get("cmd") == HELLO:
            self._emit(Hello(text=message["arg"]["text"]))

    def _on_task(self, task: Any, state: str, *_: Any) -> None:
        if state == "AGENT_SCHEDULING" and task.uid in self.staff:
            self._scheduling = {**self._scheduling, task.uid: time.monotonic()}
        elif task.uid in self._scheduling:
            self._scheduling = {k: v for k, v in self._scheduling.items() if k != task.uid}
        if state in FINAL:
            error = "\n".join(filter(None, (task.exception, task.stderr)))
            self._emit(TaskEvent(uid=task.uid, state=state, value=task.return_value, error=error))


@contextlib.contextmanager
def _logged(what: str) -> Any:
    log.info("%s", what)
    try:
        yield
    except Exception:
        log.exception("RADICAL-Pilot could not %s", what)
