"""Named places in the code at which tests end it, as a crash, a full disk or a kill would.

``failpoint("build.installed")`` does nothing unless ``SCALEMS_FAILPOINT`` names it, with what to
do there: ``build.installed:kill``. ``SCALEMS_TESTING`` must be set as well, so that a variable
that was left over from a test breaks nobody's work without saying why.
"""

from __future__ import annotations

import errno
import os
import signal

from scalems.errors import UsageError

_ARMED = os.environ.get("SCALEMS_FAILPOINT", "")

ACTIONS = ("kill", "error", "pause")


def failpoint(name: str) -> None:
    """Do at this place what ``SCALEMS_FAILPOINT`` asks for: nothing, unless it names it.

    ``kill`` is SIGKILL to this process, ``pause`` is SIGSTOP, and ``error`` raises what a bad
    disk would.

    :param name: of the step that is done by now, such as ``build.installed``.
    :raises OSError: the failpoint is armed with ``error``.
    :raises UsageError: it is armed, but not in a test.
    """
    if _ARMED:
        _act(name, *_ARMED.partition(":")[::2])


def _act(name: str, wanted: str, action: str) -> None:
    if not os.environ.get("SCALEMS_TESTING") or action not in ACTIONS:
        raise UsageError(
            f"SCALEMS_FAILPOINT={_ARMED} would make this command fail on purpose",
            remedy="unset SCALEMS_FAILPOINT; in a test, set SCALEMS_TESTING too, and let it be "
            f"NAME:{'|'.join(ACTIONS)}",
        )
    if name != wanted:
        return
    if action == "error":
        raise OSError(errno.EIO, f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
