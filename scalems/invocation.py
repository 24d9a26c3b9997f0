"""Runs a script under a backend: options, live view, signals, exit codes.

A backend's command is ``main(parser, make_backend)`` with a parser made on top of
:func:`base_parser`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scalems.account import Account
from scalems.liveview import LiveView, say
from scalems.script import Script, split
from scalems.signals import Interrupted, Signals
from scalems.workflow import file
from scalems.workflow.current import activated, offered
from scalems.workflow.graph import Graph
from scalems.workflow.policy import GO_ON, FailurePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scalems.env import VerifiedResource
    from scalems.env.finding import About, Policy
    from scalems.store.store import Store
    from scalems.workflow.backend import Backend, Notify
    from scalems.workflow.call import Outcome

    MakeBackend = Callable[[argparse.Namespace, Notify], Backend]

log = logging.getLogger(__name__)
task_log = logging.getLogger("scalems.task")

_LEVELS = ("debug", "info", "warning", "error", "critical")
_KILL_LIMIT = 3.0  # seconds that a second Ctrl-C gives the backend to end its processes
_GRACE = 5.0  # seconds that calls may still take when the app has failed

RULES = """\
Everything after the script belongs to the script. Options before it that are not
ours are passed on to the script too, in their order. If such an option is written
without "=", a word after it is taken as its value, unless that word is an existing .py
file: then that is the script. "--" ends our options: the word after it is the script.

Exit codes: 0 done, 1 the workflow failed, 2 wrong use, 3 the environments are not
ready; what the script gives to sys.exit(); 130 after Ctrl-C, 143 after SIGTERM.
"""


# --- options ------------------------------------------------------------------------------


def base_parser(
    prog: str, description: str, *, examples: Sequence[tuple[str, str]] = ()
) -> argparse.ArgumentParser:
    """Return a parser with the options that all backends have.

    :param prog: the command, such as ``python -m scalems.local``.
    :param examples: command lines for the help, each with what it does.
    """
    lines = [f"  {command}\n      {what}" for command, what in examples]
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [options] script.py [options of the script]",
        description=description,
        epilog="\n".join(["Examples:", *lines, "", RULES] if lines else [RULES]),
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    parser.add_argument(
        "-v", "--verbose", action="count", default=0,
        help="say more: what tasks print, whole tracebacks; -vv for all that is logged",
    )  # fmt: skip
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no live view and no summary, only errors"
    )
    parser.add_argument(
        "--log-level", choices=_LEVELS, help="what of scalems is logged (default: warning)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a summary as JSON on the standard output"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the same summary to a file"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--store", type=Path, metavar="FOLDER",
        help="where results are kept, and taken from if a call has finished before "
        "(default: .scalems beside the script)",
    )  # fmt: skip
    which.add_argument(
        "--no-store", action="store_true", help="keep no results, and take none of former runs"
    )
    parser.add_argument(
        "--rerun", action="store_true", help="run all tasks again, and keep the new results"
    )
    parser.add_argument(
        "--on-error", choices=("continue", "stop"), default="continue",
        help="when a task fails: go on with all that does not depend on it, or end the run "
        "at once (default: continue)",
    )  # fmt: skip
    parser.add_argument(
        "--retries", type=_count, default=0, metavar="N",
        help="run a task that failed again, up to N times, if it does not say so itself "
        "(default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "-j", "--max-workers", type=_positive, metavar="N", help="calls at a time (default: cores)"
    )
    return parser


def policies(options: argparse.Namespace) -> Mapping[About, Policy]:
    """Return what the options of :func:`scalems.options.add_policies` say."""
    from scalems.env.finding import About, Policy

    return {about: Policy(getattr(options, about.value)) for about in About}


def verify(
    resource: str, venv: str, options: argparse.Namespace, *, pilot: bool = True
) -> VerifiedResource:
    """Verify the environments that a run is to use, and hold them; tell what a policy lets pass.

    :param venv: name of a Task venv, or the folder of one that scalems did not build.
    :param pilot: whether the run needs the Pilot venv of the resource too.
    :raises UsageError: if there is no such resource or Task venv.
    :raises EnvironmentNotReady: if the environments are not what was built.
    """
    from scalems import env

    allowed = policies(options)
    if pilot and _is_unmanaged(resource):
        from scalems.env import unmanaged

        verified = unmanaged.verify(resource, venv, policies=allowed)
    elif "/" in venv:
        from scalems.env import adopt

        verified = adopt.verify(venv, resource=resource, pilot=pilot, policies=allowed)
    else:
        verified = env.verify(resource, tasks=[venv], policies=allowed, hold=True)
    for finding in (*verified.remarks, *verified.tolerated):
        say(f"warning: {finding}")
    return verified


def _is_unmanaged(resource: str) -> bool:
    """Whether RADICAL-Pilot knows a resource that scalems has no config of."""
    from scalems.env import layout, state

    if resource in state.labels(layout.default()):
        return False  # as most are, and no more has to be loaded
    from scalems.env import unmanaged

    return unmanaged.is_so(resource)


def environment(resource: VerifiedResource, venv: str) -> str:
    """Return the fingerprint that results of a Task venv are kept under.

    It is empty if a policy let differences pass: what computes is not what was verified then.
    """
    return "" if resource.tolerated else resource.tasks[venv].computes


def _formatter(prog: str) -> argparse.HelpFormatter:
    from rich_argparse import RawDescriptionRichHelpFormatter

    formatter: argparse.HelpFormatter = RawDescriptionRichHelpFormatter(prog)
    return formatter


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        from importlib.metadata import version

        print(f"scalems {version('scalems')}")
        parser.exit()


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _option_table(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """Return our options and whether each takes a value."""
    return {
        option: action.nargs != 0 for action in parser._actions for option in action.option_strings
    }


def _hint_at_typos(passed: Sequence[str], known: Sequence[str]) -> None:
    import difflib

    for word in passed:
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name.startswith("--") and near:
            say(f"{name} is passed on to the script; did you mean {near[0]}?")


class _StandardError(logging.Handler):
    """Writes to what ``sys.stderr`` is at the time: the live view takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        with contextlib.suppress(Exception):  # logging never ends a program
            print(self.format(record), file=sys.stderr)


def _configure_logging(options: argparse.Namespace) -> None:
    level = ["warning", "info", "debug"][min(options.verbose, 2)]
    if options.quiet and not options.verbose:
        level = "error"
    logger = logging.getLogger("scalems")
    logger.setLevel((options.log_level or level).upper())
    logger.propagate = False  # else all would be there twice if the script configures logging
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


# --- the run ------------------------------------------------------------------------------


def main(
    parser: argparse.ArgumentParser,
    make_backend: MakeBackend,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a backend's command; return its exit code.

    :param make_backend: checks the options and the environments, and returns the backend,
        which is not started.
    :param argv: the command line, by default that of this process.
    """
    table = _option_table(parser)
    words = split(sys.argv[1:] if argv is None else argv, table)
    options = parser.parse_args(words.ours)
    _configure_logging(options)
    inline = getattr(options, "inline", False)  # a live view would be in a debugger's way
    run = Run(
        policy=FailurePolicy(on_error=options.on_error, retries=options.retries),
        quiet=options.quiet,
        verbose=options.verbose,
        live=not inline,
    )
    try:
        with run.signals.handled():
            script = Script.read(words)
            _hint_at_typos(words.before, list(table))
            backend = make_backend(options, run.view.notify)
            run.store = _open_store(options, script, words.passed, backend)
            run.execute(script, words.passed, backend)
    except BaseException as error:
        run.error = error
    account = run.account()
    code = account.tell()
    if run.store is not None:
        run.store.end(code)
    if options.json:
        print(account.json(code))
    return account.write(options.report, code) if options.report is not None else code


def _open_store(
    options: argparse.Namespace, script: Script, arguments: Sequence[str], backend: Backend
) -> Store | None:
    """Open the store of results that the options ask for.

    :raises StoreError: one that was named cannot be used; without a name there is a warning.
    """
    if options.no_store:
        return None
    from scalems.store.database import StoreError
    from scalems.store.opening import opened
    from scalems.store.store import FOLDER

    folder = options.store or script.path.parent / FOLDER
    try:
        return opened(
            folder,
            backend,
            script=str(script.path),
            argv=arguments,
            rerun=options.rerun,
            warn=say,
        )
    except StoreError as error:
        if options.store is not None:
            raise
        say(f"warning: no results are kept: {error.cause}")
        return None


class Run:
    """One run of a script."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: int = 0,
        live: bool = True,
        policy: FailurePolicy = GO_ON,
    ) -> None:
        self._policy = policy
        self.view = LiveView(quiet=quiet or not live)
        self.signals = Signals(self._kill)
        self.error: BaseException | None = None
        """What ended the app before its end."""
        self.store: Store | None = None
        """Where its results are kept."""
        self._quiet = quiet
        self._verbose = verbose
        self._graph: Graph | None = None
        self._printed = 0

    def execute(self, script: Script, arguments: Sequence[str], backend: Backend) -> None:
        """Run a script's app on a backend until all tasks have ended, and close the backend.

        :raises BaseException: what the app raised; the backend is closed then too.
        """
        folder = self.store.folder if self.store is not None and self.store.writes else None
        with file.area(folder) as area, contextlib.ExitStack() as stack:
            graph = Graph(
                backend,
                on_outcome=self._show_output,
                policy=self._policy,
                results=self.store,
                area=area,
            )

            def begin() -> Graph:
                if self._graph is None:
                    self._graph = graph
                    self.view.watch(graph)
                    stack.enter_context(self.view)
                return graph

            self._execute(script, arguments, graph, begin)

    def _execute(
        self,
        script: Script,
        arguments: Sequence[str],
        graph: Graph,
        begin: Callable[[], Graph],
    ) -> None:
        """Load the script, and run its app; or what it runs itself while it is loaded."""
        with offered(begin):
            try:
                try:
                    app = script.load(arguments, lambda: self._graph is not None)
                    if app is not None:
                        with activated(begin()):
                            app.run()
                except SystemExit as error:
                    if error.code not in (None, 0):
                        raise
                graph.wait()
                graph.close()
            except Interrupted as signalled:
                self._abort(graph, signalled)
                raise
            except BaseException:
                try:
                    self._let_finish(graph)
                    graph.close(abort=True)
                except Interrupted as signalled:
                    self._abort(graph, signalled)
                    raise
                raise

    def _let_finish(self, graph: Graph) -> None:
        """Give what is computing when the app fails a moment to finish, so that it is kept."""
        if self.store is None or graph.error is not None or graph.wait(0):
            return
        say(
            f"the app failed: up to {_GRACE:.0f} s for what is computing to finish and be kept"
            " (Ctrl-C ends it at once)"
        )
        graph.wait(_GRACE)

    def _abort(self, graph: Graph, signalled: Interrupted) -> None:
        say(f"{signalled}: stopping; once more ends at once")
        graph.close(abort=True)

    def _kill(self) -> None:
        if self._graph is not None:
            self._graph.backend.close(abort=True)

    def account(self) -> Account:
        """Return what is to be told of it at its end."""
        return Account(
            graph=self._graph,
            error=self.error,
            store=self.store,
            elapsed=self.view.elapsed,
            printed=self._printed,
            quiet=self._quiet,
            verbose=self._verbose > 0,
        )

    def _show_output(self, task: str, outcome: Outcome) -> None:
        if outcome.stdout or outcome.stderr:
            self._printed += 1
        for stream in (outcome.stdout, outcome.stderr):
            for line in stream.splitlines():
                task_log.info("%s#%d: %s", task, outcome.id, line)
