"""Which modules travel with the calls that use them: those the far side does not have.

A package travels whole, see :mod:`scalems.workflow.packages`; any other module by value.
"""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cloudpickle

from scalems.workflow import code, packages

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEVER = frozenset({"__main__", "__mp_main__", "scalems"})

log = logging.getLogger(__name__)

_there: frozenset[str] | None = None
_seen: set[str] = set()
_sent: set[str] = set()
_whole: dict[str, str] = {}  # packages, and the digests of their data files; none: by value


def far_side_has(entries: Iterable[str] | None) -> None:
    """Say what the Python that runs the calls has.

    :param entries: what is in its folder of packages; ``None`` if it is this Python. Then
        modules beside the script travel by value, and no others.
    """
    global _there
    there = None if entries is None else frozenset(entry.partition(".")[0] for entry in entries)
    if there != _there:
        for name in _sent & set(cloudpickle.list_registry_pickle_by_value()):
            cloudpickle.unregister_pickle_by_value(ModuleType(name))
        _sent.clear()
        _seen.clear()
        _whole.clear()
        packages.forget()
    _there = there


def data_of(module: str) -> str:
    """Return the digest of the data files that travel with a module; empty if none do."""
    choose()
    return _whole.get(module.partition(".")[0], "")


def choose() -> None:
    """Find what travels, of the modules that were loaded since the last time."""
    if _whole and not packages.are_here():  # another run has begun
        _whole.clear()
        _seen.clear()
        packages.forget()
    if len(_seen) == len(sys.modules):
        return
    for name, module in list(sys.modules.items()):
        if name in _seen:
            continue
        _seen.add(name)
        if _travels(name, module) and not _goes_whole(name.partition(".")[0]):
            cloudpickle.register_pickle_by_value(module)
            _sent.add(name)
            log.info("the module %s (%s) travels by value", name, module.__file__)


def _goes_whole(top: str) -> bool:
    """Tell if a module goes with its package; the package is packed if it was not yet."""
    if top in _whole:
        return True
    source = getattr(sys.modules.get(top), "__file__", None) or ""
    if _there is None or top in _sent or Path(source).name != "__init__.py":
        return False
    try:
        _whole[top] = packages.add(top, Path(source).parent)
    except (OSError, ValueError) as error:
        log.info("the package %s (%s) cannot travel whole: %s", top, source, error)
        return False
    log.info("the package %s (%s) travels whole", top, source)
    return True


def _travels(name: str, module: ModuleType) -> bool:
    top = name.partition(".")[0]
    source = getattr(module, "__file__", None)
    if top in _NEVER or not isinstance(source, str) or not source.endswith(".py"):
        return False
    if _there is None:
        folder = _script_folder()
        return folder is not None and folder in Path(source).parents and not code.is_installed(name)
    return top not in _there and not code.is_installed(name)


def _script_folder() -> Path | None:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return _folder(script) if script else None


@lru_cache(maxsize=1)
def _folder(script: str) -> Path:
    return Path(script).resolve().parent
