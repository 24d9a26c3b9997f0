"""The environment manager: specs, locks, builds, fingerprints, parity, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalems.env.check import Depth
    from scalems.env.verify import Build, VerifiedResource, verify

__all__ = ["Build", "Depth", "VerifiedResource", "verify"]


def __getattr__(name: str) -> object:
    if name in __all__:
        import scalems.env.verify

        return getattr(scalems.env.verify, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
