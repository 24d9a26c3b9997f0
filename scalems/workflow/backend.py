"""The port through which a workflow's calls reach the processes that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scalems.workflow.answers import Answers
    from scalems.workflow.call import Call, Outcome

    Notify = Callable[[str], None]
    """Told one short line, for people, whenever the state of a backend changes."""

    Told = Callable[[Mapping[str, Any]], None]
    """Told how it stands with a service: that it is ready, with its ``host`` and ``port``, that it
    is started again, and once that it has ended, and ``how``; see ``scalems.workflow.serving``."""

    Done = Callable[[Outcome | Answers], None]
    """Told the outcome of a call, exactly once; of a block of calls, those of its items.

    Items are told together as ``Answers``, or one by one as an ``Outcome`` that says which it is;
    in whatever order, and each of them once.
    """


class Backend(Protocol):
    """A place where calls run.

    A backend is made with its options and starts nothing. All methods may be called
    from any thread.
    """

    @property
    def name(self) -> str:
        """Name of the command that runs it: ``local`` or ``radical``."""
        ...

    @property
    def label(self) -> str:
        """Where the calls run, for people: ``radical local.localhost/task``."""
        ...

    @property
    def environment(self) -> str:
        """Content fingerprint of the environment that calls run in; empty if it is not known."""
        ...

    @property
    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """Versions of distributions in the environments that calls run in, by fingerprint."""
        ...

    def start(self) -> None:
        """Make the backend ready to run calls.

        It runs in a thread of its own, begun at the first call. :meth:`close` may be
        called meanwhile, and then ends it.

        :raises BackendError: if it cannot start.
        :raises EnvironmentNotReady: if its environments are not what was verified.
        """
        ...

    def submit(self, call: Call, done: Done) -> None:
        """Take a call, also before the backend has started, and return at once.

        It may be a block of calls, which the backend may send in parts, to whom it likes
        (``scalems.workflow.block``): an item is not to wait behind a long one for its place.
        Afterwards `done` is told exactly one outcome, whatever happens: if the backend
        is lost, the failure names the cause.
        """
        ...

    def serve(self, ident: int, wanted: Mapping[str, Any], told: Told) -> None:
        """Start a service, and return at once; :meth:`cancel` ends it, and so does :meth:`close`.

        :param ident: unique in the run, also among calls.
        :param wanted: see ``scalems.workflow.service.service``.
        """
        ...

    def cancel(self, call_id: int, item: int | None = None) -> bool:
        """Withdraw a call: a queued one never runs, a running one has its processes ended.

        :param item: its position, if it is one of a block; the others of it go on.

        :return: whether there was such a call.
        """
        ...

    def close(self, *, abort: bool = False) -> None:
        """Release all that the backend holds; no process is left behind.

        It may be called again, also while another thread is in it.

        :param abort: end running calls at once rather than orderly.
        """
        ...

    def status(self) -> Mapping[str, str]:
        """Return short facts for the live view: ``{"pilot": "PMGR_ACTIVE", "workers": "2"}``."""
        ...
