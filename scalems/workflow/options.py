"""What may be said of a task beside its function and its arguments."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any

from scalems.errors import UsageError

_FIRST_PAUSE = 0.5  # seconds before the second attempt; it doubles with each
_LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is run.

    :raises UsageError: a value cannot be what was meant.
    """

    cache: bool = True
    """Whether the result of a former run is taken, and this one kept."""
    retries: int = 0
    """How often a task that failed is tried again, after a pause that doubles each time."""
    timeout: float | None = None
    """Seconds that one attempt may run; then its processes are ended."""

    def __post_init__(self) -> None:
        given: dict[str, Any] = vars(self)  # whatever was written
        faults = []
        if type(given["cache"]) is not bool:
            faults.append(f"cache is True or False, not {self.cache!r}")
        if type(given["retries"]) is not int or self.retries < 0:
            faults.append(f"retries is a whole number of at least 0, not {self.retries!r}")
        timeout = given["timeout"]
        if timeout is not None and (type(timeout) not in (int, float) or not timeout > 0):
            faults.append(f"timeout is a number of seconds above 0, not {timeout!r}")
        if faults:
            raise UsageError("wrong option of a task: " + "; ".join(faults))

    def replaced(self, **changes: Any) -> TaskOptions:
        """Return a copy with other values.

        :raises UsageError: there is no such option, or a value cannot be what was meant.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise UsageError(
                    f"tasks have no option {name!r}{hint}",
                    remedy=f"the options are {', '.join(known)}",
                )
        return replace(self, **changes)

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 1."""
        return float(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))


DEFAULT = TaskOptions()
