"""The environment manager: specs, locks, builds, fingerprints, parity, verification."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as of typing, which takes longer to load than all the rest of this
if TYPE_CHECKING:
    from scalems.env.check import Depth
    from scalems.env.verification import Build, VerifiedResource, verify

__all__ = ["Build", "Depth", "VerifiedResource", "verify"]


def __getattr__(name: str) -> object:
    # Nothing is loaded before it is used: completion of names needs but one module of these.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{'check' if name == 'Depth' else 'verification'}")
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
