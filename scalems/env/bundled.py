"""Local packages that came with a bundle: their folders and repositories are elsewhere.

A bundle has a wheel of each, and ``envs/bundled.json`` of the project says what they were built
from. So a machine without the sources makes the same environment from the same lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import UsageError

if TYPE_CHECKING:
    from scalems.env.package import Prepared

FILE = "bundled.json"
"""Beside the env specs."""

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """The wheel of a local package.

    :param reference: where it was built from, see ``scalems.env.package``.
    :param digest: of its files, or of its commit.
    :param needs: what it requires.
    :param sha256: of the wheel.
    """

    reference: str
    digest: str
    version: str
    needs: tuple[str, ...]
    filename: str
    sha256: str


def read(envs: Path) -> dict[str, Bundled]:
    """Return the packages that a bundle brought, by their names.

    :param envs: folder of the env specs.
    :raises UsageError: the file is not as a bundle has written it.
    """
    path = envs / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            raise ValueError("it is of another version of scalems")
        return {str(name): _one(fields) for name, fields in data["packages"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not as a bundle has written it: {error}",
            remedy="unpack the bundle again: scalems env sync --bundle FILE --replace",
        ) from None


def _one(fields: Mapping[str, Any]) -> Bundled:
    filename, sha256 = str(fields["filename"]), str(fields["sha256"])
    if "/" in filename or not filename.endswith(".whl") or not sha256.isalnum():
        raise ValueError(f"{filename!r} is not the name of a wheel")
    return Bundled(
        reference=str(fields["reference"]),
        digest=str(fields["digest"]),
        version=str(fields["version"]),
        needs=tuple(map(str, fields["needs"])),
        filename=filename,
        sha256=sha256,
    )


def text(packages: Sequence[Prepared], digests: Mapping[str, str]) -> str:
    """Return the content of the file for packages that were made ready.

    :param digests: SHA-256 of their wheels, by name.
    """
    listed = {
        one.name: {
            "reference": one.reference,
            "digest": one.digest,
            "version": one.version,
            "needs": list(one.needs),
            "filename": one.wheel.name,
            "sha256": digests[one.name],
        }
        for one in sorted(packages, key=lambda one: one.name)
    }
    return json.dumps({"format": _FORMAT, "packages": listed}, indent=1) + "\n"
