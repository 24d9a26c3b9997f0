"""Compile modules: run as a script by the interpreter that is to load what comes out.

Standard library only; nothing of the venv that the modules are in runs.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import sys
from collections.abc import Mapping
from importlib.util import MAGIC_NUMBER


def pack(key: str, code: Mapping[str, bytes], magic: bytes = MAGIC_NUMBER) -> bytes:
    """Return compiled modules in one file, which begins with a digest of its name and the rest.

    :param key: name of the file.
    :param code: of each module, by path.
    :param magic: Python's number of its format.
    """
    table = {path: len(one) for path, one in code.items()}
    header = json.dumps({"magic": magic.hex(), "files": table}).encode()
    body = b"".join([header, b"\n", *code.values()])
    return checksum(key, body) + b"\n" + body


def checksum(key: str, body: bytes) -> bytes:
    """Return what a file begins with."""
    return hashlib.sha256(key.encode() + b"\n" + body).hexdigest().encode()


def main(venv: str, job: str, out: str) -> None:
    """Compile units, and write each into a file.

    :param job: JSON file of them, by the name of that file: the folder of each below the venv,
        and the SHA-256 of each module in it. One with a module that is no such is left out.
    :param out: folder.
    """
    with open(job, encoding="utf-8") as stream:  # noqa: PTH123
        units = json.load(stream)
    for key, (folder, sources) in units.items():
        inside = folder.rpartition("site-packages/")[2]
        code = {}
        for path, sha256 in sources.items():
            with open(f"{venv}/{folder}/{path}", "rb") as stream:  # noqa: PTH123
                text = stream.read()
            if hashlib.sha256(text).hexdigest() != sha256:
                break
            try:
                made = compile(text, f"{inside}/{path}", "exec", dont_inherit=True, optimize=0)
            except Exception:  # a template, or for another Python
                continue
            code[path] = marshal.dumps(made)
        else:
            with open(f"{out}/{key}", "wb") as stream:  # noqa: PTH123
                stream.write(pack(key, code))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:  # a full disk, for one: told in a line, as an installer would
        sys.exit(f"error: {error}")
