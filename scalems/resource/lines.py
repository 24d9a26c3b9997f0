"""Shell lines around what runs: those of an env spec, of a resource config, of a task.

They are named as in RADICAL-Pilot's ``TaskDescription``; ``pre_rank`` is what older versions of
it had under that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KEYS = ("pre_launch", "pre_exec", "pre_rank")
_LIMIT = 10.0  # seconds for bash to read a line


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Shell lines (bash) of one author, each one line. The first that fails ends all.

    :param pre_launch: run where RADICAL-Pilot's agent is, before it launches a Worker.
    :param pre_exec: run on the node, in the Task venv, before the Worker starts; what they set
        is there for all calls.
    :param pre_rank: run before each rank of a call or program that has several.
    """

    pre_launch: tuple[str, ...] = ()
    pre_exec: tuple[str, ...] = ()
    pre_rank: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Lines:
        """Take them from the table of a spec or config, or from what :meth:`to_dict` gave."""
        return cls(**{key: tuple(table.get(key, ())) for key in KEYS})

    def __bool__(self) -> bool:
        return bool(self.pre_launch or self.pre_exec or self.pre_rank)

    def __add__(self, later: Lines) -> Lines:
        """Compose them: those of another author run after these."""
        return Lines(
            pre_launch=self.pre_launch + later.pre_launch,
            pre_exec=self.pre_exec + later.pre_exec,
            pre_rank=self.pre_rank + later.pre_rank,
        )

    def to_dict(self) -> dict[str, list[str]]:
        """Return those that there are, in values that JSON can hold."""
        return {key: list(lines) for key, lines in asdict(self).items() if lines}


def mistakes(
    data: Mapping[str, Any], *, place: Sequence[str | int] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield lines that bash cannot read, as an unclosed quote: they would spoil those after them.

    :param place: of the table in its file.
    """
    for key in KEYS:
        lines = data.get(key)
        for index, line in enumerate(lines if isinstance(lines, list) else ()):
            if isinstance(line, str) and "\n" not in line and (problem := _problem(line)):
                yield (*place, key, index), f"is not one whole line of shell: {problem}"


def _problem(line: str) -> str:
    import subprocess  # a launch reads no spec

    # So it stands in the script that RADICAL-Pilot writes.
    script = f"{line} || exit\n"
    try:
        done = subprocess.run(
            ["bash", "-n"],
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""  # it is told when it runs
    told = done.stderr.strip().splitlines()
    return (told[0].partition("line ")[2].partition(": ")[2] or told[0]) if done.returncode else ""
