"""Starts RADICAL-Pilot's helper processes by forks of one that has imported RP already.

RP runs each of its bridges and components as a command of its own, one after the other, and waits
for each: some twenty interpreters, which all import the same for some 0.3 s, before a pilot is
active. Here the same commands run in forks of one interpreter. RP finds its commands on the
``PATH``; a folder there, before its own, has stand-ins of the same names, which hand over their
arguments, folder, environment and streams, and end as the command does. If there is nobody to
hand them over to, they become the command itself. Nothing of RP is changed.

``python -m scalems.radical.nursery COMMAND ...`` runs one of RP's commands with such a folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import setproctitle  # RP needs it

COMMANDS = ("radical-pilot-bridge", "radical-pilot-component")
"""What RP starts many of."""

_SOCKET = "nursery"
_ALONE = 1.0  # seconds between two looks whether the parent is there
_IDLE = 120.0  # seconds without a command after which there are no more to come
_HEAD = 4  # bytes of a length

# The other end of `_run`. It is started often, so it imports next to nothing.
_STAND_IN = """
import os, sys
command, *arguments = sys.argv[1:]
bin, here = os.path.dirname(os.path.abspath(__file__)), os.getcwd()
try:
    import json, socket
    link = socket.socket(socket.AF_UNIX)
    os.chdir(bin)  # names of sockets are short
    link.connect({socket!r})
    os.chdir(here)
    text = json.dumps([[command, *arguments], here, dict(os.environ)]).encode()
    socket.send_fds(link, [len(text).to_bytes({head}, "big")], [0, 1, 2])
    link.sendall(text)
except OSError:
    os.chdir(here)
    os.execv(command, [command, *arguments])
code = link.recv(1)
sys.exit(code[0] if code else 1)
"""


def start(folder: Path) -> bool:
    """Fork the process that forks others; RP's commands are found in a new folder from now on.

    To be called while this process has one thread. If anything is missing, all is as it was.

    :param folder: is made, and private to the user.
    :return: whether this is a fork that has run a command, and is to end now.
    """
    commands = {name: shutil.which(name) for name in COMMANDS}
    folder = folder.absolute()
    try:
        if None in commands.values():
            return False
        folder.mkdir(mode=0o700)
        _write(folder, {name: str(path) for name, path in commands.items()})
        listener = socket.socket(socket.AF_UNIX)
        here = Path.cwd()
        os.chdir(folder)  # names of sockets are short
        try:
            listener.bind(_SOCKET)
        finally:
            os.chdir(here)
        listener.listen(16)
    except OSError:
        return False
    parent = os.getpid()
    gc.freeze()  # what is there now is left alone by collections, and so stays shared
    if os.fork():
        listener.close()
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return False
    return _serve(listener, parent)


def _write(folder: Path, commands: dict[str, str]) -> None:
    code = folder / "stand_in.py"
    code.write_text(_STAND_IN.format(socket=_SOCKET, head=_HEAD), encoding="utf-8")
    for name, path in commands.items():
        words = shlex.join([sys.executable, "-I", "-S", str(code), path])
        # Not by `#!`: the kernel cuts long names.
        (folder / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o700)


def _serve(listener: socket.socket, parent: int) -> bool:
    """Fork for each command, until there are no more to come; return in each fork when it is done.

    :return: true.
    """
    # Finds where titles go, which it cannot once the environment is another. From then on /proc
    # does not show the environment: this is not for the parent, which is known by its own.
    setproctitle.getproctitle()
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        # Its forks hold nothing open that whoever started the parent waits to see closed.
        if number > 2 and number != listener.fileno():
            with contextlib.suppress(OSError):  # it was that of the list
                os.close(number)
    # None is waited for. What is shared may have set handlers, which its forks need: psij's
    # tells it that a pilot has ended.
    ignored = (signal.SIGINT, signal.SIGCHLD)
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in ignored}
    idle = 0.0
    while idle < _IDLE and os.getppid() == parent:
        listener.settimeout(_ALONE)
        try:
            link, _ = listener.accept()
        except TimeoutError:
            idle += _ALONE
            continue
        except OSError:
            break
        idle = 0.0
        if os.fork() == 0:
            listener.close()
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
            _run(link)
            return True
        link.close()
    os._exit(0)


def _run(link: socket.socket) -> None:
    """Run a command as its own interpreter would, and tell how it has ended."""
    link.settimeout(None)
    head, streams, *_ = socket.recv_fds(link, _HEAD, 3)
    left = int.from_bytes(head, "big")
    text = b""
    while len(text) < left:
        text += link.recv(left - len(text))
    argv, folder, environment = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    own = os.getpid()
    os.register_at_fork(after_in_child=link.close)  # the command's own forks do not tell
    code: Any = 1
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if os.getpid() == own:
            sys.stdout.flush()
            sys.stderr.flush()
            number = code if isinstance(code, int) else int(code is not None)
            with contextlib.suppress(OSError):
                link.sendall(bytes([number & 0xFF]))
            link.close()


def main() -> None:
    """Run one of RP's commands, which may start others, in this process."""
    import radical.pilot  # noqa: F401  # what is shared

    del sys.argv[0]
    if sys.path and sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]  # a script has not this folder there
    command = shutil.which(sys.argv[0])
    if command is None:
        sys.exit(f"{sys.argv[0]}: command not found")
    if not start(Path.cwd() / "nursery"):
        sys.argv[0] = command
        runpy.run_path(command, run_name="__main__")


if __name__ == "__main__":
    main()
