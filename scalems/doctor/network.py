"""The network of this machine, and the hosts that it connects with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from scalems.doctor.finding import Diagnosis, error, good, warning
from scalems.doctor.places import ROOM_NEEDED, ROOM_WISHED
from scalems.env import layout, state
from scalems.errors import ScalemsError
from scalems.host.address import Host
from scalems.resource.config import find_project
from scalems.tomlfile import near

_SKEW = 2.0  # seconds
_ANSWER = 60.0  # seconds to import radical.utils from a slow file system
_IFACE = "RADICAL_DEFAULT_IFACE"


def addresses() -> Iterator[Diagnosis]:
    """RP's parts talk over TCP, at the address of one of the host's interfaces."""
    yield from _host_name()
    yield from _interface()
    address = _chosen()
    try:
        with socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((address, port), timeout=5).close()
    except OSError as failure:
        yield error(
            "ports",
            f"nothing can listen and be reached at {address}, which RADICAL-Pilot takes: {failure}",
            f"name another interface: export {_IFACE}=NAME (`ip -brief address` lists them)",
        )
    else:
        yield good("ports", f"can be opened and reached at {address}, which RADICAL-Pilot takes")


def _chosen() -> str:
    """Return the address that RP takes; radical.utils makes a folder where it is imported."""
    code = "import radical.utils; print(radical.utils.get_hostip())"
    with tempfile.TemporaryDirectory() as base:
        said = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "RADICAL_BASE": base},
            capture_output=True,
            text=True,
            timeout=_ANSWER,
            check=True,
        )
    return said.stdout.split()[-1]


def _host_name() -> Iterator[Diagnosis]:
    name = socket.gethostname()
    try:
        yield good("host name", f"{name} is {socket.gethostbyname(name)}")
    except OSError as failure:
        yield warning(
            "host name",
            f"{name!r} has no address: {failure}",
            f"add it to /etc/hosts: 127.0.1.1 {name}",
        )


def _interface() -> Iterator[Diagnosis]:
    """Look at the interface that RP is told to use: it takes another without a word."""
    import netifaces

    if not (name := os.environ.get(_IFACE)):
        return
    with_address = [
        interface
        for interface in netifaces.interfaces()
        if netifaces.AF_INET in netifaces.ifaddresses(interface)
    ]
    if name in with_address:
        yield good("interface", f"{_IFACE} names {name}")
    else:
        yield warning(
            "interface",
            f"{_IFACE} names {name!r}, which is none with an IPv4 address here"
            f"{near(name, with_address)}: RADICAL-Pilot takes another",
            f"name one of {', '.join(with_address)}, or unset {_IFACE}",
        )


# --- other hosts --------------------------------------------------------------------------


def host_of(label: str) -> Host | None:
    """Return the host of a resource, None for this machine.

    :raises UsageError: there is no such resource.
    """
    synced = state.read(layout.default(), label)
    return synced.host if synced else find_project().resource(label).host


def host(host: Host) -> Iterator[Diagnosis]:
    """Connect with a host, and look at what an environment needs there."""
    from scalems.env.remote.link import connect

    begun = time.monotonic()
    try:
        with connect(host) as link:
            took = time.monotonic() - begun
            yield good(f"connection to {host.name}", f"{link.hostname} answers in {took:.1f} s")
            facts = link.call("facts", interpreters=[], sites={})
            skew = abs(time.time() - facts["time"]) - 1.0
            python = facts["interpreters"][""]
            yield good(f"Python on {host.name}", f"{python['facts']['version']}: {python['path']}")
            free = facts["free"]
            make = error if free < ROOM_NEEDED else warning
            shown = f"{free / 2**30:.1f} GiB free in {link.root}"
            yield (
                good(f"place on {host.name}", shown)
                if free >= ROOM_WISHED
                else make(f"place on {host.name}", shown, "make room, or set `root`")
            )
            if skew > _SKEW:
                yield warning(f"clock of {host.name}", f"{skew:.0f} s apart", "set it by NTP")
            index = bool(facts["uv"]) and not host.offline and link.call("reaches_index")
            shown = "can be fetched there" if index else "are sent from here"
            yield good(f"packages on {host.name}", shown)
    except ScalemsError as failure:
        yield error(f"connection to {host.name}", failure.cause, failure.remedy or "")
