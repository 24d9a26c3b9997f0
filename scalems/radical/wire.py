"""How calls and outcomes travel: as rows of plain values, many at a time.

Over the data channel and to the client they go as pickles with what is large beside them; see
:mod:`scalems.radical.channel`. Through RADICAL-Pilot, where there is no channel, they go as
ASCII text, since RP changes or loses most other values; what is large then goes through a file
in a folder that both sides see, where there is one: RP needs seconds for a megabyte.
"""

from __future__ import annotations

import base64
import os
import pickle
import tempfile
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.radical.channel import OUT_OF_BAND, apart
from scalems.radical.channel import receive as receive
from scalems.radical.channel import send as send
from scalems.radical.parts import SOME
from scalems.workflow.call import Call, Outcome
from scalems.workflow.large import Large
from scalems.workflow.needs import NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scalems.workflow.needs import Needs

    Row = tuple[Any, ...]
    """A :class:`Call` or an :class:`Outcome`: the values of its fields. The first is the id."""

FILE_LIMIT = 100_000
"""Bytes above which a value goes through a file, if the two sides share a folder."""

SLOTS = "SCALEMS_SLOTS"
"""Environment variable: how many calls a Worker runs at a time."""

CANCEL = "scalems_cancel"
"""Control message: stop these calls, wherever they are."""

ALIVE = "scalems_alive"
"""Control message: the client is there. When they stop to come, a Worker ends the pilot."""

HELLO = "scalems_hello"
"""Control message: a Worker says what it is, and how it is reached."""

HEARD = "scalems_heard"
"""Control message: that has come to the session server."""

INVITATION = "SCALEMS_INVITATION"
"""Environment variable of Workers: addresses and public key of the session server, packed."""

ALIVE_EVERY = 10.0  # seconds
ALIVE_LIMIT = 120.0  # seconds

_FILE = "file:"

_CALL = [field.name for field in fields(Call)]
_OUTCOME = [field.name for field in fields(Outcome)]
_call_values = attrgetter(*_CALL)
_outcome_values = attrgetter(*_OUTCOME)
_NEEDS, _AREA = _CALL.index("needs"), _CALL.index("area")
_PAYLOAD = _CALL.index("payload")
assert _OUTCOME.index("payload") == _PAYLOAD  # of a row of either kind
_FILES = _OUTCOME.index("files")
_ITEM = _OUTCOME.index("item")
_STARTED, _ENDED = _OUTCOME.index("started"), _OUTCOME.index("ended")


def call_row(call: Call) -> Row:
    """Return a call as it travels."""
    row: Row = _call_values(call)
    if call.needs is NONE or call.needs == NONE:
        return (*row[:_NEEDS], None, *row[_NEEDS + 1 :])
    return row


def call_of(row: Row) -> Call:
    """Return the call that a row is of."""
    if row[_NEEDS] is None:
        row = with_needs(row, NONE)
    return Call(**dict(zip(_CALL, row, strict=True)))


def outcome_row(outcome: Outcome) -> Row:
    """Return an outcome as it travels."""
    row: Row = _outcome_values(outcome)
    return row


def outcome_of(row: Row) -> Outcome:
    """Return the outcome that a row is of."""
    outcome = object.__new__(Outcome)
    # Frozen dataclasses set their fields one by one, which takes most of the time here.
    outcome.__dict__.update(zip(_OUTCOME, row, strict=True))
    return outcome


def needs_of(row: Row) -> Needs:
    """Return what the call of a row needs."""
    return row[_NEEDS] or NONE


def with_needs(row: Row, needs: Needs) -> Row:
    """Return the row of a call with other needs."""
    return (*row[:_NEEDS], needs, *row[_NEEDS + 1 :])


def duration_of(row: Row) -> float:
    """Return how long the call took whose outcome this is, in seconds."""
    return float(row[_ENDED] - row[_STARTED])


def files_of(row: Row) -> tuple[str, ...]:
    """Return the digests of the files in an outcome."""
    return tuple(row[_FILES])


def size_of(row: Row) -> int:
    """Return the bytes of a call's or an outcome's payload."""
    return len(row[_PAYLOAD])


def is_some(row: Row) -> bool:
    """Tell if an outcome is of some items of a part only, and not the last one of it."""
    return bool(row[_ITEM] == SOME)


def numbered(row: Row, ident: int) -> Row:
    """Return a row with another id."""
    return (ident, *row[1:])


def placed(row: Row, area: str) -> Row:
    """Return the row of a call whose files are in another area."""
    return (*row[:_AREA], area, *row[_AREA + 1 :])


def light(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose large payloads are not copied when they are sent."""
    return [
        row
        if isinstance(row[_PAYLOAD], Large) or len(row[_PAYLOAD]) <= OUT_OF_BAND
        else (*row[:_PAYLOAD], apart(row[_PAYLOAD]), *row[_PAYLOAD + 1 :])
        for row in rows
    ]


def pack(value: object, *, folder: Path | None = None) -> str:
    """Return a text that :func:`unpack` makes the value of, once.

    :param folder: where a large value may be left for the other side.
    """
    data = pickle.dumps(value, protocol=5)
    if folder is None or len(data) <= FILE_LIMIT:
        return base64.b64encode(data).decode("ascii")
    descriptor, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return _FILE + name


def unpack(text: str) -> Any:
    """Return the value that a text stands for; a file that holds it is removed."""
    if not text.startswith(_FILE):
        return pickle.loads(base64.b64decode(text))
    path = Path(text.removeprefix(_FILE))
    data = path.read_bytes()
    path.unlink()
    return pickle.loads(data)
