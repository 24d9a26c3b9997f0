"""Build, verify, inspect and enter the environments of a resource.

Env specs are in envs/NAME.toml, resource configs in resource-configs/DOMAIN.toml of the
project: the folder that you are in, or one above it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

MODULES = {
    "start": ("init",),
    "sync": ("sync", "lock"),
    "check": ("check", "watch"),
    "look": ("list", "show", "diff", "explain", "explain-key"),
    "enter": ("run", "shell"),
    "adopt": ("adopt",),
    "keep": ("rollback", "gc"),
    "share": ("export",),
    "bundle": ("bundle",),
    "plan": ("plan",),
}
"""The commands of each module."""


def configure(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """Add the commands of this group to a parser.

    :param words: of a command line: if the first is a command, the others are left out.
    """
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    wanted = [name for name, known in MODULES.items() if words and words[0] in known]
    for name in wanted or MODULES:
        importlib.import_module(f"{__name__}.{name}").configure(commands)
