"""Record commands in a terminal of their own, as an SVG: what the README shows is a real run.

    python scripts/record.py docs/_static/terminal.svg 'scalems env check' 'python -m ...'

The SVG is the screen as it was left, colours and all, with each command above its output.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS = 104
LINES = 400  # nothing scrolls away

NAMES = {"brown": "yellow", "default": None}


def main() -> None:
    """Run the commands in turn and write the picture."""
    target, commands = Path(sys.argv[1]), sys.argv[2:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for line in commands:
        console.print(Text.assemble(("$ ", "bold green"), (line, "bold")))
        for row in screen(line):
            console.print(row)
        console.print()
    svg = console.export_svg(title="scalems")
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def screen(line: str) -> list[Text]:
    """Run a command in a pseudo-terminal; return the rows of its screen at the end."""
    display = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(display)
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "50"}
    done = subprocess.Popen(shlex.split(line), stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux says so at the end
            break
        if not data:
            break
        stream.feed(data)
    if done.wait():
        print(f"{line}: exit code {done.returncode}", file=sys.stderr)
    rows = [row(display, number) for number in range(LINES)]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    return rows


def row(display: pyte.Screen, number: int) -> Text:
    """Return one row of a screen with its colours."""
    text = Text()
    for column in range(COLUMNS):
        cell = display.buffer[number][column]
        text.append(cell.data, Style(color=colour(cell.fg), bold=cell.bold))
    text.rstrip()
    return text


def colour(name: str) -> str | None:
    """Return pyte's name of a colour as one that rich knows."""
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    if name.startswith("bright"):
        return f"bright_{NAMES.get(name[6:], name[6:])}"
    return NAMES.get(name, name)


if __name__ == "__main__":
    main()
