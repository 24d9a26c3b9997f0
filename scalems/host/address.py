"""Names of hosts, as the user's OpenSSH client understands them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scalems.errors import ExitCode, ScalemsError, UsageError

_DESTINATION = (
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}@)?"
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\])"
)
_ADDRESS = rf"(?P<destination>{_DESTINATION})(?::(?P<port>[0-9]{{1,5}}))?"
"""``[user@]alias-or-host[:port]``; nothing in it can be an option or mean anything to a shell."""


class HostError(ScalemsError):
    """A host cannot be reached, or does not answer as it must."""

    exit_code = ExitCode.NOT_READY


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host that is reached over SSH.

    :param name: ``[user@]alias-or-host[:port]``.
    :param root: state folder of scalems there, absolute or below ``~/``; empty for the default.
    :param python: the interpreter there, a path or a command; empty to look for one.
    :param offline: it reaches no package index.
    """

    name: str
    root: str = ""
    python: str = ""
    offline: bool = False

    @property
    def destination(self) -> str:
        """The name without the port."""
        return split(self.name)[0]

    @property
    def port(self) -> int | None:
        """The port, if it is named."""
        return split(self.name)[1]


def split(name: str) -> tuple[str, int | None]:
    """Return what ``ssh`` connects to, and the port if it is named.

    :raises UsageError: it is no name of a host.
    """
    match = re.fullmatch(_ADDRESS, name)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise UsageError(
            f"{name!r} is not the name of a host",
            remedy="write [user@]host or an alias of ~/.ssh/config, with :PORT if need be",
        )
    return match["destination"].replace("[", "").replace("]", ""), port
