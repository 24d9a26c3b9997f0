"""The ``scalems`` command line: one module for each group of commands."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scalems.errors import ExitCode, ScalemsError

GROUPS = {
    "env": "build, verify, inspect and enter the environments of a resource",
    "resource": "look at, check and write RADICAL-Pilot's resource definitions",
    "pilot": "keep pilots warm, so that scripts start at once",
    "runs": "list the runs whose results are kept",
    "show": "show the tasks of a run, or one of them with what it printed",
    "why": "tell why tasks ran rather than be taken from a former run",
    "clean": "remove results that are no longer needed",
    "completion": "complete commands and names in your shell",
    "doctor": "find what makes RADICAL-Pilot's runs fail, before they run",
}
_RESULTS = ("runs", "show", "why", "clean")

EPILOG = """examples:
  scalems env sync --resource local.localhost     build what the specs ask for
  scalems env check                               is it still what was built?
  python -m scalems.local script.py               run a workflow on this machine
  python -m scalems.radical --resource local.localhost --venv task script.py

exit codes:
  0 done   1 failed   2 wrong use   3 environments not ready   130 interrupted
"""


def parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    :param words: those of a command line; of the other groups only the names are loaded then.
    """
    top = argparse.ArgumentParser(
        prog="scalems",
        description="Verified Python environments and fast ensembles of simulations "
        "on RADICAL-Pilot.",
        epilog=EPILOG,
        formatter_class=formatter(),
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    groups = top.add_subparsers(dest="group", metavar="COMMAND", title="commands")
    for name, about in GROUPS.items():
        if words is not None and name != (words or [""])[0]:
            if not (words and words[0] in GROUPS):  # else nobody sees the others
                groups.add_parser(name, help=about, formatter_class=formatter())
            continue
        module = importlib.import_module(f"scalems.cli.{'results' if name in _RESULTS else name}")
        described = about[0].upper() + about[1:] + "." if name in _RESULTS else module.__doc__
        configure = getattr(module, f"configure_{name}" if name in _RESULTS else "configure")
        group = groups.add_parser(
            name, help=about, description=described, formatter_class=formatter()
        )
        if name == "env" and words is not None:
            configure(group, words[1:])
        else:
            configure(group)
    return top


def formatter() -> type[argparse.HelpFormatter]:
    """Return the formatter of help texts: in colour where a person reads it."""
    asked = len(sys.argv) < 3 or any(word in ("-h", "--help") for word in sys.argv)
    if asked and sys.stdout.isatty():
        from rich_argparse import RawDescriptionRichHelpFormatter

        return RawDescriptionRichHelpFormatter
    return _PlainFormatter


class _PlainFormatter(argparse.RawDescriptionHelpFormatter):
    """One that is told the width: argparse asks for it for each option, and loads shutil for it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width() - 2)


@functools.cache
def _width() -> int:
    with contextlib.suppress(KeyError, ValueError):
        return max(int(os.environ["COLUMNS"]), 11)
    with contextlib.suppress(OSError):
        return os.get_terminal_size().columns or 80
    return 80


def run(argv: Sequence[str]) -> int:
    """Run a command line; return its exit code.

    Every error ends as one message with its remedy, never as a traceback of ours, unless
    ``--verbose`` asks for it.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line could go on
        from scalems.cli import names

        names.answer(parser())
    top = parser(argv)
    options = top.parse_args(argv)
    if options.version:
        from scalems.env.wheel import version

        print(f"scalems {version()}")
        return ExitCode.DONE
    if not hasattr(options, "run"):
        shown = top
        if options.group:
            shown = next(
                action.choices[options.group]
                for action in top._actions
                if isinstance(action, argparse._SubParsersAction)
            )
        shown.print_help()
        return ExitCode.USAGE
    if options.verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("interrupted; nothing unfinished is in use", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return ExitCode.FAILED
    except ScalemsError as error:
        _log_traceback(options)
        return report(error, as_json=options.json)
    except OSError as error:
        _log_traceback(options)
        return report(_failed(error), as_json=options.json)


def _failed(error: OSError) -> ScalemsError:
    """Return what a failure of the system means, with its remedy."""
    from scalems.env import layout

    remedy = "look at that disk or file, and run it again; -v shows where it happened"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        remedy = "make room or choose another folder with SCALEMS_HOME"
    root = layout.default().root
    if (
        error.errno in (errno.EACCES, errno.EROFS)
        and root.is_dir()
        and not os.access(root, os.W_OK)
    ):
        owner = _owner(root)
        remedy = (
            f"{root} is {owner}'s, and only read by others: ask {owner}, or unset SCALEMS_HOME to "
            "use a folder of your own"
        )
    words = [str(part) for part in (error.strerror or error, error.filename) if part]
    return ScalemsError(": ".join(words), remedy=remedy)


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # not known on this host
        return f"user {path.stat().st_uid}"


def _log_traceback(options: argparse.Namespace) -> None:
    if options.verbose:
        import logging

        logging.getLogger(__name__).debug("traceback", exc_info=True)


def report(error: ScalemsError, *, as_json: bool = False) -> int:
    """Print an error for people, or as JSON; return its exit code."""
    if as_json:
        import json

        print(json.dumps({"ok": False, "error": error.cause, "remedy": error.remedy}))
    else:
        from scalems.cli.render import print_error

        print_error(error)
    return int(error.exit_code)
