"""Complete commands, options and names in your shell.

bash, once and for all:
  scalems completion bash > ~/.local/share/bash-completion/completions/scalems

zsh: scalems completion zsh > ~/.zfunc/_scalems    (~/.zfunc must be in fpath)
fish: scalems completion fish > ~/.config/fish/completions/scalems.fish
scalems-local and scalems-radical, which are `python -m scalems.local` and `python -m
scalems.radical`, are completed too; bash and fish look for a file of that name, so link it:
  ln -s scalems ~/.local/share/bash-completion/completions/scalems-radical

this shell only: eval "$(scalems completion bash)"
"""

from __future__ import annotations

import argparse

from scalems.cli.backend import COMMANDS
from scalems.errors import ExitCode, UsageError

SHELLS = ("bash", "zsh", "fish", "tcsh")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=_print, json=False, verbose=False)


def _print(options: argparse.Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise UsageError(
            "completion needs argcomplete", remedy="pip install argcomplete"
        ) from error
    print(shellcode(["scalems", *COMMANDS], shell=options.shell))
    return ExitCode.DONE
