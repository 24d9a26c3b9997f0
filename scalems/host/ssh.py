"""The user's own OpenSSH client, and what its failures mean.

It has what sites ask for: the user's configuration, jump hosts, agents, hardware keys,
Kerberos, and one login for many connections. asyncssh, paramiko and fabric were weighed: each
reads only a part of that configuration and would ask for a second login.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import IO, BinaryIO

from scalems.host.address import Host, HostError

COMMAND = "SCALEMS_SSH"
"""Environment variable: the command to use in place of ``ssh``, with options if need be."""

_CONNECT_LIMIT = 20  # seconds
_KEPT = 120  # seconds that a connection stays open for the next command
_GRACE = 15.0  # seconds for the far side to end what it does


class Channel:
    """A command that runs on a host; its streams are those of a child process here.

    :param command: for the user's login shell there.
    :raises HostError: there is no OpenSSH client.
    """

    def __init__(self, host: Host, command: str) -> None:
        self._host = host
        # A file: the client that stays open for the next command would keep a pipe open too.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        words = [*client(host), "-T", "--", host.destination, command]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(
                f"cannot run {words[0]}: {error.strerror or error}",
                remedy=f"install the OpenSSH client, or name it with {COMMAND}",
            ) from error
        assert self._process.stdin
        assert self._process.stdout
        self.stdin: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self.stdout: BinaryIO = self._process.stdout  # type: ignore[assignment]

    def ended(self) -> bool:
        """Whether the client has ended."""
        return self._process.poll() is not None

    def close(self) -> int:
        """End it: the far side is told by the end of its input; return the exit code."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.stdout.close()
        return self._process.returncode

    def kill(self) -> None:
        """End it here at once; whoever waits for an answer sees the end."""
        self._process.kill()

    def failure(self) -> HostError:
        """Return why there is no answer."""
        self.close()
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace")
        return explain(self._host, printed, self._process.returncode)

    def printed(self) -> str:
        """Return what was written to standard error so far."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode(errors="replace")


def client(host: Host) -> list[str]:
    """Return the words that begin a connection to a host, without its name."""
    words = _command()
    options = {
        "BatchMode": "yes",  # nobody is asked for a password in the midst of a build
        "ConnectTimeout": str(_CONNECT_LIMIT),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
    }
    if (place := _control_path(host)) is not None:
        options |= {"ControlMaster": "auto", "ControlPath": place, "ControlPersist": str(_KEPT)}
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return [*words, *(["-p", str(host.port)] if host.port else [])]


def interactive(host: Host) -> list[str]:
    """Return the words that run a command on a host for a person, at a terminal."""
    return [*client(host), "-tt" if os.isatty(0) else "-T", "--", host.destination]


def login(host: Host) -> str:
    """Return the command by which a person logs in once for all that follows."""
    words = [*_command(), *(["-p", str(host.port)] if host.port else [])]
    if (place := _control_path(host)) is not None:
        words += ["-fN", "-o", "ControlMaster=yes", "-o", f"ControlPath={place}"]
        words += ["-o", "ControlPersist=8h"]
    return shlex.join([*words, host.destination])


def hang_up(host: Host) -> None:
    """Close the connection that is kept for the next command, if it is ours."""
    if (place := _control_path(host)) is not None:
        words = [*_command(), "-o", f"ControlPath={place}", "-O", "exit"]
        words += ["-p", str(host.port)] if host.port else []
        subprocess.run(
            [*words, "--", host.destination],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )


def _command() -> list[str]:
    return shlex.split(os.environ.get(COMMAND, "")) or ["ssh"]


def _control_path(host: Host) -> str | None:
    """Return where the connection is kept; ``None`` if the user's configuration decides."""
    folder = _control_folder()
    if folder is None or _has_own(host, tuple(_command())):
        return None
    return f"{folder}/%C"


@functools.cache
def _has_own(host: Host, command: tuple[str, ...]) -> bool:
    """Whether the user shares connections to a host already: their login is then used."""
    words = [*command, "-G", *(["-p", str(host.port)] if host.port else [])]
    try:
        done = subprocess.run(
            [*words, "--", host.destination],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return False  # the connection itself will tell
    return bool(re.search(r"(?m)^controlpath (?!none$)", done.stdout))


def _control_folder() -> Path | None:
    """Return a folder that is private to the user and has a short name, as sockets need it."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base, f"scalems-ssh-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not private or status.st_mode & 0o077 or len(str(folder)) > 45:
        return None
    return folder


_REASONS: tuple[tuple[str, str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than before: it was installed anew, or somebody stands "
        "in between",
        "ask its administrators for its key; only then remove the old one: ssh-keygen -R {bare}",
    ),
    (
        r"Host key verification failed",
        "the host key of {host} is not known here",
        "log in once and compare it with the one that its administrators publish: {plain}",
    ),
    (
        r"Permission denied|Too many authentication failures|Authentication failed",
        "{host} wants a login that only a person can do (password, one-time code, locked key)",
        "log in once, then run it again: {login}",
    ),
    (
        r"Could not resolve hostname",
        "the name of {host} is not known",
        "correct `host` in the resource config, or add it to ~/.ssh/config",
    ),
    (
        r"Connection refused|timed out|No route to host|Network is unreachable"
        r"|Connection closed by|Connection reset|kex_exchange_identification",
        "{host} cannot be reached",
        "try it by hand: {plain}",
    ),
    (
        r"Bad configuration option|terminating, \d+ bad configuration|Bad owner or permissions",
        "the OpenSSH client does not accept its configuration",
        "try it by hand: {plain}",
    ),
)


def explain(host: Host, printed: str, code: int | None) -> HostError:
    """Return the error that a failed connection means.

    :param printed: what the client wrote to standard error.
    :param code: its exit code; 255 if it is its own failure.
    """
    words = [*_command(), *(["-p", str(host.port)] if host.port else []), host.destination]
    names = {
        "host": host.name,
        "bare": shlex.quote(host.destination.rpartition("@")[2]),
        "plain": shlex.join(words),
    }
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    detail = "\n".join(f"    {line}" for line in lines[-6:])
    for pattern, cause, remedy in _REASONS:
        if code == 255 and re.search(pattern, printed):
            told = {**names, "login": login(host) if "{login}" in remedy else ""}
            return HostError(f"{cause.format(**told)}:\n{detail}", remedy=remedy.format(**told))
    what = "the connection to {host} was lost" if code == 255 else "{host} ended the command"
    text = what.format(**names) + (f":\n{detail}" if detail else f" (exit code {code})")
    return HostError(text, remedy=f"try it by hand: {names['plain']}")
