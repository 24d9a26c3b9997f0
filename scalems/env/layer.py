"""Layers: an environment that adds packages to another, its base, without a copy of it.

The venv of a layer has its own packages only. A line of a ``.pth`` file, which Python's
:mod:`site` runs at each start, adds the base's site-packages after its own, with the ``.pth``
files there; ``--system-site-packages`` was weighed, which leads to an interpreter's packages and
not to those of another venv, and so was ``PYTHONPATH``, which comes before all others and is
inherited by every Python that a task starts. Both builds never change, and a layer's input
fingerprint covers its base's, so a link never leads to anything else than what was verified.
"""

from __future__ import annotations

import os
from pathlib import Path

from scalems import probe
from scalems.env.canonical import digest

PTH = "_scalems_base.pth"
_MOST = 4096
_OWN = ("python", "activate", "pip", "deactivate")


def link(venv: Path, base: Path) -> None:
    """Let a venv see the packages of another, and give it the scripts of it that it lacks.

    A script that runs the base's interpreter is written anew for that of the venv, where it finds
    the packages of both; other programs are linked to.

    :param base: the other venv.
    :raises OSError: it cannot be written, or the base is not there.
    """
    folder = str(probe.site_packages(base))
    (probe.site_packages(venv) / PTH).write_text(
        f"# written by scalems: this environment adds to another\n"
        f"import site; site.addsitedir({folder!r})\n"
    )
    for path in sorted((base / "bin").iterdir()):
        new = venv / "bin" / path.name
        if path.name.startswith(_OWN) or os.path.lexists(new):
            continue
        raw = path.read_bytes() if path.is_file() else b""
        # The line of the interpreter, or the few of sh that stand for one which is too long.
        head, rest = raw[:_MOST], raw[_MOST:]
        own = os.fsencode(base / "bin" / "python")
        if raw.startswith(b"#!") and own in head:
            new.write_bytes(head.replace(own, os.fsencode(venv / "bin" / "python"), 1) + rest)
            new.chmod(path.stat().st_mode & 0o777)
        else:
            new.symlink_to(path)


def content_digest(own: str, base: str) -> str:
    """Return the content fingerprint of a layer.

    :param own: that of its own files, without the link.
    :param base: that of its base.
    """
    return digest("layer content 1", [own, base])
