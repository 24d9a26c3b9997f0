"""Requirements as PEP 508 has them, read so that any text is taken or refused."""

from __future__ import annotations

from packaging.requirements import InvalidRequirement, Requirement


def parse(text: str) -> Requirement:
    """Read a requirement, such as ``numpy>=1.26 ; python_version < '3.13'``.

    ``packaging`` hands strings of markers to Python's own parser, which has errors of its own.

    :raises InvalidRequirement: it is none.
    """
    try:
        return Requirement(text)
    except (ValueError, SyntaxError, RecursionError) as error:
        raise InvalidRequirement(str(error)) from error
