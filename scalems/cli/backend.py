"""``scalems-local`` and ``scalems-radical``: the backends' commands by a name of their own.

They are ``python -m scalems.local`` and ``python -m scalems.radical``. A shell completes by the
name of a command: words after ``python -m`` are python's, and to complete them would be to answer
for python in all of its other uses.
"""

from __future__ import annotations

import os
import sys

COMMANDS = ("scalems-local", "scalems-radical")


def local() -> None:
    """Run ``python -m scalems.local``."""
    from scalems.local import command

    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line could go on
        from scalems.cli import names

        names.answer_script(command.make_parser())
    sys.exit(command.main())


def radical() -> None:
    """Run ``python -m scalems.radical``."""
    from scalems.radical import command

    if "_ARGCOMPLETE" in os.environ:
        from scalems.cli import names

        names.answer_script(command.make_parser())
    sys.exit(command.main())
