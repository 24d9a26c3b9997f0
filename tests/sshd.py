"""A host that is reached over SSH: this machine, through an sshd of the test's own."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from homes import Scalems, clean_environment

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SHARED = ("UV_", "PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "NO_PROXY", "no_proxy")
"""Variables of the near side that a user of the far side has too: the index and the caches."""


@dataclass(frozen=True)
class FarHost:
    """A host, and what the client needs to reach it.

    :param folder: keys and configuration.
    :param home: the home of the user there; nothing else is shared but package caches.
    :param run: of the client, where connections are kept: sockets need a short name.
    :param name: alias of the host in the client's configuration.
    """

    folder: Path
    home: Path
    run: Path
    name: str = "lab"

    @property
    def root(self) -> Path:
        """Where scalems keeps its things there."""
        return self.home / ".local" / "share" / "scalems"

    @property
    def env(self) -> dict[str, str]:
        """Variables of the client."""
        return {
            "SCALEMS_SSH": f"ssh -F {self.folder / 'config'}",
            "XDG_RUNTIME_DIR": str(self.run),
        }

    def of(self, made: Scalems) -> Scalems:
        """The command line of a user who reaches this host."""
        return dataclasses.replace(made, env={**made.env, **self.env})

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        argv = ["ssh", "-F", str(self.folder / "config"), self.name, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def hang_up(self) -> None:
        """Close the connections that the client keeps for the next command."""
        for socket in self.run.glob("*/*"):
            argv = ["ssh", "-F", str(self.folder / "config"), "-o", f"ControlPath={socket}"]
            words = [*argv, "-O", "exit", self.name]
            subprocess.run(words, capture_output=True, check=False)

    def processes(self) -> list[str]:
        """Return what runs there now for its user, besides the server's own processes."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (entry / "environ").read_bytes().split(b"\0")
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if f"HOME={self.home}".encode() in variables:
                    found.append(b" ".join(words).decode(errors="replace"))
        return found


def make_host(
    folder: Path, *, name: str = "lab", settings: str = "", proxy: str = "", **variables: str
) -> FarHost:
    """Make keys and configuration of a host. Nobody listens yet.

    :param proxy: what wraps the server, which is then started for each connection.
    :param settings: more lines of the server's configuration.
    :param variables: of the user there.
    """
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    home = folder / "home"
    home.mkdir(mode=0o700)
    run = Path(tempfile.mkdtemp(prefix="run", dir="/tmp"))
    atexit.register(shutil.rmtree, run, ignore_errors=True)
    for key in ("hostkey", "userkey"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(words, check=True)
    port = _free_port()
    shared = {k: v for k, v in clean_environment().items() if k.startswith(SHARED)}
    variables = {**shared, "HOME": str(home), **variables}
    pairs = " ".join(f'"{key}={value}"' for key, value in variables.items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'hostkey'}\n"
        f"AuthorizedKeysFile {folder / 'userkey.pub'}\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
        f"LogLevel ERROR\nMaxStartups 100\nSetEnv {pairs}\n{settings}"
    )
    known = f"[127.0.0.1]:{port}" if not proxy else name
    kind, key = (folder / "hostkey.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"{known} {kind} {key}\n")
    where = f"  HostName 127.0.0.1\n  Port {port}\n"
    if proxy:
        where = f"  ProxyCommand {proxy} {SSHD} -i -f {folder / 'sshd_config'}\n"
    (folder / "config").write_text(
        f"Host {name}\n{where}  IdentityFile {folder / 'userkey'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  StrictHostKeyChecking yes\n"
    )
    return FarHost(folder=folder, home=home, run=run, name=name)


@contextlib.contextmanager
def listening(host: FarHost) -> Iterator[FarHost]:
    """Start the server of a host, and end it with all of its connections."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (host.folder / "log").open("wb")
    with log:
        server = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(host.folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + 30
        while host.ssh("true").returncode:
            assert server.poll() is None, (host.folder / "log").read_text()
            assert time.monotonic() < limit, (host.folder / "log").read_text()
            time.sleep(0.1)
        yield host
    finally:
        host.hang_up()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def require_sshd() -> None:
    """Skip a test where there is no OpenSSH server."""
    if not (Path(SSHD).is_file() and shutil.which("ssh") and shutil.which("ssh-keygen")):
        pytest.skip("no OpenSSH server: scripts/test installs it")


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
