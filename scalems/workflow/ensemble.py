"""Whether the members of an ensemble were computed by the same software, told in words."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from scalems.errors import EnvironmentNotReady, UsageError
from scalems.workflow import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scalems.workflow.answers import Answers
    from scalems.workflow.call import Outcome
    from scalems.workflow.stamp import Stamp

    Versions = Mapping[str, Mapping[str, str]]
    """Versions of distributions by name, by the fingerprint of an environment."""

    Groups = dict[tuple[str, tuple[tuple[str, str], ...]], list[int]]
    """Numbers of members by environment and software."""

Mixed = Literal["refuse", "warn", "allow"]

_NAMED = 3  # packages that are named for each group
_RANGES = 6  # ranges of members that are told for each group

log = logging.getLogger(__name__)


class MixedEnsemble(EnvironmentNotReady):
    """Members of an ensemble were computed by different software."""


def check(
    computed: Sequence[Outcome | Answers | None], mixed: Mixed, versions: Callable[[], Versions]
) -> None:
    """See to it that members are of one kind, as far as is known.

    :param computed: how the members were, in their order; ``None`` if it is not known.
    :param versions: asked if they are not.
    :raises UsageError: there is no such policy.
    :raises MixedEnsemble: they are not, and that is to be refused.
    """
    if mixed not in ("refuse", "warn", "allow"):
        raise UsageError(
            f"gather() has no mixed={mixed!r}", remedy="write mixed='refuse', 'warn' or 'allow'"
        )
    if mixed == "allow" or len({(one.env, one.stamp) for one in computed if one is not None}) < 2:
        return
    groups = _groups(stamp.of(one) if one is not None else None for one in computed)
    if len(groups) < 2:
        return  # by several Workers that are alike
    words = _told(groups, versions())
    if mixed == "warn":
        log.warning("the ensemble is mixed: %s", words)
        return
    raise MixedEnsemble(
        f"the ensemble is mixed: {words}",
        remedy="run its members again in one environment (--rerun), or gather them apart; "
        "mixed='warn' or 'allow' lets it pass",
    )


def describe(stamps: Iterable[Stamp | None], versions: Versions) -> str:
    """Return in words which members were computed by what; empty if all were by the same.

    ``members 1-400 on openmm 8.1, 401-512 on openmm 8.2``
    """
    groups = _groups(stamps)
    return _told(groups, versions) if len(groups) > 1 else ""


def _groups(stamps: Iterable[Stamp | None]) -> Groups:
    groups: Groups = {}
    for number, one in enumerate(stamps, start=1):
        if one is not None:
            key = (one.env, tuple(sorted(one.software.items())))
            groups.setdefault(key, []).append(number)
    return groups


def _told(groups: Groups, versions: Versions) -> str:
    facts = [{**versions.get(env, {}), **dict(software)} for env, software in groups]
    told = [_what(env, mine, facts) for (env, _), mine in zip(groups, facts, strict=True)]
    members = [_members(numbers) for numbers in groups.values()]
    parts = [f"{who} on {what}" for who, what in zip(members, told, strict=True)]
    return f"members {', '.join(parts)}"


def _what(env: str, mine: Mapping[str, str], all_of: Sequence[Mapping[str, str]]) -> str:
    names = [
        name
        for name in sorted({name for one in all_of for name in one})
        if len({one.get(name, "") for one in all_of}) > 1
    ]
    shown = [f"{name} {mine[name]}" if name in mine else f"no {name}" for name in names[:_NAMED]]
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED} more")
    return " and ".join(shown) or f"the environment {env[:12] or '(unknown)'}"


def _members(numbers: Sequence[int]) -> str:
    ranges = list(_ranges(numbers))
    text = ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges[:_RANGES])
    return f"{text}, …" if len(ranges) > _RANGES else text


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield start, last
            start = number
        last = number
    yield start, last
