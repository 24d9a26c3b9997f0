"""Tracebacks as the author of a script needs them: without the frames of scalems."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from scalems.workflow import call

_OURS = str(Path(__file__).parent) + os.sep
_HIDDEN = ("/concurrent/futures/", "/asyncio/", "/contextlib.py", "<frozen ")


def _is_users(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith(_OURS) and not any(
        part in frame.filename for part in _HIDDEN
    )


def text(error: BaseException, *, whole: bool) -> str:
    """Return a traceback, of the user's frames only unless it is to be whole."""
    if whole:
        return "".join(traceback.format_exception(error))
    parts = []
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        part, link, how = _link(link)
        if part:
            parts += [part, how]
    return "".join(reversed(parts[:-1]))


def _link(error: BaseException) -> tuple[str, BaseException | None, str]:
    """Return one exception of a chain as text, the next one, and how it led to this one."""
    if isinstance(error, call.RemoteTraceback):
        # Without a frame it would only repeat the exception.
        return (error.text.strip("\n") + "\n" if 'File "' in error.text else ""), None, ""
    told = traceback.TracebackException.from_exception(error)
    told.__cause__ = told.__context__ = None
    told.stack = traceback.StackSummary.from_list([f for f in told.stack if _is_users(f)])
    shown = "".join(told.format())
    if not told.stack:
        shown = shown.removeprefix("Traceback (most recent call last):\n")
        if isinstance(error.__cause__, call.RemoteTraceback) and 'File "' in error.__cause__.text:
            shown = ""  # the traceback of the other process has it all
    if error.__cause__ is not None:
        how = "The above exception was the direct cause of the following exception:"
        return shown, error.__cause__, f"\n{how}\n\n"
    if error.__suppress_context__:
        return shown, None, ""
    how = "During handling of the above exception, another exception occurred:"
    return shown, error.__context__, f"\n{how}\n\n"


def place(error: BaseException) -> str | None:
    """Return the user's line that an error came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f)]
    if not frames:
        return None
    frame = frames[-1]
    return f"{os.path.relpath(frame.filename)}:{frame.lineno}: {frame.line}"
