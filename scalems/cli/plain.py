"""Tables and colours for what is printed most often, without the tenth of a second that rich takes.

What a terminal can do is asked for as rich asks: ``NO_COLOR`` and ``TERM=dumb`` mean no colours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "bold red": "1;31"}
_CODES["bold green"] = "1;32"


def styled(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """Return a text in a style, where the stream shows it.

    :param style: a colour, or bold, or both.
    :param stream: by default the standard output.
    """
    stream = stream or sys.stdout
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain or not style else f"\033[{_CODES[style]}m{text}\033[0m"


def table(header: Sequence[str], rows: Sequence[Sequence[str | tuple[str, str]]]) -> str:
    """Return a table.

    :param rows: of cells, each a text or a text with its style.
    """
    cells = [[cell if isinstance(cell, tuple) else (cell, "") for cell in row] for row in rows]
    widths = [
        max(len(text) for text in (name, *(row[place][0] for row in cells)))
        for place, name in enumerate(header)
    ]
    lines = [
        _line([(name, "bold") for name in header], widths),
        "─" * (sum(widths) + 3 * (len(widths) - 1)),
        *(_line(row, widths) for row in cells),
    ]
    return "\n".join(["", *lines, ""])


def _line(cells: Sequence[tuple[str, str]], widths: Sequence[int]) -> str:
    padded = [
        styled(text, style) + " " * (width - len(text))
        for (text, style), width in zip(cells, widths, strict=True)
    ]
    return "   ".join(padded).rstrip()
