"""Services: programs that run beside the tasks of a run, and that these use."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from scalems.errors import TaskError, UsageError
from scalems.workflow import argument, current, program
from scalems.workflow.call import Outcome, failure_of, hostname
from scalems.workflow.serving import Address as Address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scalems.workflow.future import Future
    from scalems.workflow.graph import Graph

_TIMEOUT = 60.0  # seconds

log = logging.getLogger(__name__)


class ServiceError(TaskError):
    """A service did not become ready, or has ended while the run went on."""


class Service:
    """A service of a run; made by :func:`scalems.service`."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.name = name
        self._graph = graph
        self._promise = graph.promise(f"service {name}", (), self._withdrawn)
        self._error: ServiceError | None = None
        self._stopped = False
        self._restarts = 0
        self._asked = False  # whether the backend knows of it
        self._ended = threading.Event()

    @property
    def address(self) -> Future[Address]:
        """A future of where it answers, an :class:`~scalems.workflow.serving.Address`.

        :raises ServiceError: it has ended, after it was ready.
        """
        future = self._promise.future
        if self._error is not None and future.done() and future.exception() is None:
            raise self._error
        return future

    def exception(self, timeout: float = 0.0) -> ServiceError | None:
        """Return why it has ended, if it has, and nobody has stopped it.

        :param timeout: seconds to wait for its end.
        """
        self._ended.wait(timeout)
        return self._error

    def stop(self, timeout: float | None = None) -> bool:
        """End it, with all that it has started. At the end of the run it is ended by itself.

        :param timeout: seconds to wait for that.
        :return: whether it has ended.
        """
        self._stopped = True
        if not self._promise.future.cancel():
            self._graph.backend.cancel(self._promise.future.task_id)
        if not self._asked:
            self._ended.set()
        return self._ended.wait(timeout)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, wanted: dict[str, Any], argv: list[object], env: dict[str, object]) -> None:
        """Start it as soon as its words are known."""
        futures = argument.futures_in(argv, env)
        if not futures:
            self._serve(wanted, argv, env)
            return
        ended = itertools.count(1)

        def arrived(_: object) -> None:
            if next(ended) < len(futures) or self._ended.is_set():
                return
            wrong = [one for one in futures if one.cancelled() or one.exception() is not None]
            if not wrong:
                self._serve(wanted, *argument.resolved((argv, env)))
                return
            how = f"was not started, since a task that it depends on has failed: {wrong[0]!r}"
            self._told({"state": "ended", "how": how, "stderr": ""})

        for future in futures:
            future.add_done_callback(arrived)

    def _serve(self, wanted: dict[str, Any], argv: list[object], env: dict[str, object]) -> None:
        try:
            wanted["argv"] = [program.word(word, index) for index, word in enumerate(argv)]
            wanted["env"] = {key: program.word(value, key) for key, value in env.items()}
        except UsageError as error:
            told = {"state": "ended", "how": f"was not started: {error.cause}", "stderr": ""}
            self._told({**told, "remedy": error.remedy})
            return
        if not self._stopped:
            self._asked = True
            self._graph.backend.serve(self._promise.future.task_id, wanted, self._told)

    def _withdrawn(self, future: Future[Any]) -> None:
        self._stopped = True
        self._graph.backend.cancel(future.task_id)

    def _told(self, state: Mapping[str, Any]) -> None:
        """Hear from the backend how it stands with it."""
        if "host" in state and not self._promise.future.done():  # it may have ended since
            address = Address(state["host"], state["port"])
            log.info("the service %s answers at %s", self.name, address)
            self._settle(ok=True, payload=pickle.dumps(address, protocol=5))
        if state.get("restarts", 0) > self._restarts:
            self._restarts = state["restarts"]
            log.warning("the service %s %s, and is started again", self.name, state["before"])
        if state["state"] != "ended":
            return
        end = f"; the end of what it printed:\n{state['stderr']}" if state.get("stderr") else ""
        if not (self._stopped or self._graph.closed):
            self._error = ServiceError(
                f"The service {self.name} {state['how']}{end}",
                remedy=state.get("remedy"),
            )
            if self._promise.future.done():
                log.error("%s", self._error.cause)
        self._ended.set()
        if not self._promise.future.done():
            failure = self._error or ServiceError(f"The service {self.name} was stopped.")
            self._settle(ok=False, payload=pickle.dumps(failure_of(failure), protocol=5))

    def _settle(self, *, ok: bool, payload: bytes) -> None:
        now = time.time()
        self._promise.settle(
            Outcome(
                id=self._promise.future.task_id,
                ok=ok,
                payload=payload,
                host=hostname(),
                pid=0,
                started=now,
                ended=now,
            )
        )


def service(
    argv: Sequence[object],
    *,
    ready: str | None = None,
    port: int | None = None,
    timeout: float = _TIMEOUT,
    restarts: int = 0,
    cores: int = 1,
    env: Mapping[str, object] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pre_exec: Sequence[str] = (),
    label: str = "",
) -> Service:
    """Start a program that other tasks use, such as a database or a model server.

    .. code-block:: python

        database = scalems.service(["redis-server", "--bind", "{host}", "--port", "{port}"])
        counts = [count(seed, database.address) for seed in range(8)]    # wait until it is ready

    It runs in the environment of the tasks beside them, until the run ends. ``{port}`` in its
    words stands for a port that is free there, ``{host}`` for the address that tasks reach it by.

    :param argv: the program and its arguments: text, paths, numbers, files, or futures of these.
        It is started when these futures have their values.
    :param ready: a regular expression; it is ready when a line that it prints matches. Groups named
        ``host`` and ``port`` tell where it answers. Without it, it is ready when the port answers.
    :param port: the one that it listens at, by default a free one.
    :param timeout: seconds to get ready in.
    :param restarts: how often it is started again, with the same port, when it ends by itself after
        it was ready. Tasks that use it meanwhile see that it is not there.
    :param cores: that it takes.
    :param env: variables to add to the environment; ``{port}`` and ``{host}`` stand for these too.
    :param cwd: working folder; by default one of its own.
    :param pre_exec: lines of bash to run before the program.
    :param label: its name in messages, by default that of the program.
    :return: its ``address`` is a future of :class:`~scalems.workflow.serving.Address`. If it does
        not get ready, this raises :class:`~scalems.workflow.service.ServiceError` with the end of
        what it has printed. One that ends later is told at once, and ``address`` raises from
        then on.
    :raises UsageError: no workflow is running, or an argument cannot be what was meant.
    """
    if isinstance(argv, (str, bytes)) or not argv:
        raise UsageError(
            f"service() takes a list of the program and its arguments, not {argv!r}.",
            remedy='write e.g. scalems.service(["redis-server", "--port", "{port}"])',
        )
    words, variables = list(argv), dict(env or {})
    places: list[tuple[int | str, object]] = [*enumerate(words), *variables.items()]
    known = [program.word(word, place) for place, word in places if not argument.futures_in(word)]
    first = "service" if argument.futures_in(words[0]) else known[0]
    name = label or os.path.basename(first)  # noqa: PTH119 - a word, not a path
    graph = current.graph(f"the service {name!r} was called")
    wanted = {
        "ready": _pattern(ready),
        "port": _port(port),
        "timeout": _positive("timeout", timeout),
        "restarts": _natural("restarts", restarts),
        "cores": int(_positive("cores", cores)),
        "cwd": None if cwd is None else os.path.abspath(cwd),  # noqa: PTH100
        "pre_exec": list(pre_exec),
        "name": name,
        "host": "",
        "reach": [],
    }
    if ready is None and port is None and not any("{port}" in word for word in known):
        raise UsageError(
            f"It cannot be told when the service {name} is ready.",
            remedy="write {port} where its port goes, or name it with port=, "
            "or give a pattern of what it prints with ready=",
        )
    made = Service(graph, name)
    graph.start()
    made._start(wanted, words, variables)
    return made


def _pattern(ready: str | None) -> str | None:
    try:
        if ready is not None:
            re.compile(ready)
    except (re.error, TypeError) as error:
        raise UsageError(f"ready is a regular expression, not {ready!r}: {error}") from None
    return ready


def _port(port: object) -> int:
    if port is not None and (type(port) is not int or not 0 < port < 65536):
        raise UsageError(f"port is a number from 1 to 65535, not {port!r}.")
    return port or 0


def _natural(name: str, value: int) -> int:
    if type(value) is not int or value < 0:
        raise UsageError(f"{name} is a whole number from 0, not {value!r}.")
    return value


def _positive(name: str, value: float) -> float:
    if type(value) not in (int, float) or not value > 0:
        raise UsageError(f"{name} is a number above 0, not {value!r}.")
    return value
