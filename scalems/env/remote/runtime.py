"""The code of scalems for a host, and the command that starts it there."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import shlex
import sys
import zlib
from pathlib import Path

from scalems.env import wheel
from scalems.env.remote import boot

_LIBRARIES = ("packaging", "tomli")
"""What the environment manager imports there; tomli only where Python has no tomllib."""

_BROUGHT = '"${SCALEMS_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/scalems}"/pythons'
"""Where a bundle has unpacked the Python that it brought, see :mod:`scalems.env.bundlefile`."""

MISSING = "<<<scalems no python>>>"
"""Line that is printed where there is no interpreter that will do, with those that there are."""


@functools.cache
def pack() -> tuple[str, bytes]:
    """Return the code as a zip archive, and its SHA-256."""
    files = wheel.source_files()
    for name in _LIBRARIES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue
        folder = Path(found.origin).parent
        for path in sorted(folder.rglob("*.py")):
            files[f"{name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    data = wheel.archive(files)
    return hashlib.sha256(data).hexdigest(), data


_EMPTY = 8  # lines before the first one


def first_line() -> bytes:
    """Return the line of Python that the interpreter there reads first, after empty ones.

    These are for start-up files that ask something: each `read` there takes one.
    """
    source = Path(boot.__file__).read_bytes()
    text = base64.b64encode(zlib.compress(source, 9)).decode()
    unpack = f"__import__('zlib').decompress(__import__('base64').b64decode('{text}'))"
    line = f"exec(compile({unpack}, 'scalems-boot', 'exec')); begin()\n".encode()
    return b"\n" * _EMPTY + line


def command(python: str = "") -> str:
    """Return the command that starts an interpreter of the client's minor version there.

    It is for any login shell: one line, all of it quoted once, no exclamation mark.

    :param python: path or command of the interpreter; empty to look for one.
    """
    minor = "{}.{}".format(*sys.version_info[:2])
    places = ("", "$HOME/.local/bin/", "/usr/local/bin/", "/usr/bin/", "/opt/python/bin/")
    if python.startswith("~/"):
        names = ['"$HOME"/' + shlex.quote(python[2:])]
    elif python:
        names = [shlex.quote(python)]
    else:
        names = [f'"{place}python{minor}"' for place in places]
        names += [f"{_BROUGHT}/*/bin/python{minor}", "python3", "python"]
    wanted = minor.replace(".", ", ")
    test = f"import sys; sys.exit(0 if sys.version_info[:2] == ({wanted}) else 1)"
    start = "import sys; exec(next(line for line in sys.stdin.buffer if line.strip()))"
    script = (
        f"for p in {' '.join(names)}; do "
        f'if "$p" -I -c {shlex.quote(test)} </dev/null >/dev/null 2>&1; then '
        f'exec "$p" -I -c {shlex.quote(start)}; fi; done; '
        f"echo; echo {shlex.quote(MISSING)}; "
        "for p in python3 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14; do "
        '"$p" --version 2>/dev/null </dev/null; done; exit 127'
    )
    return f"exec /bin/sh -c {shlex.quote(script)}"
