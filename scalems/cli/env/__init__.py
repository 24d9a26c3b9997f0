"""Build, verify, inspect and enter the environments of a resource.

Env specs are in envs/NAME.toml, resource configs in resource-configs/DOMAIN.toml of the
project: the folder that you are in, or one above it.
"""

from __future__ import annotations

import argparse
import importlib

MODULES = ("start", "sync", "look", "enter", "keep", "share", "bundle")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of this group to a parser."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}").configure(commands)
