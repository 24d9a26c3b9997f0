"""Which modules travel by value with the calls that use them: those the far side does not have."""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cloudpickle

from scalems.workflow import code

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEVER = frozenset({"__main__", "__mp_main__", "scalems"})

log = logging.getLogger(__name__)

_there: frozenset[str] | None = None
_seen: set[str] = set()
_sent: set[str] = set()


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
    _there = there


def choose() -> None:
    """Register what travels by value, of the modules that were loaded since the last time."""
    if len(_seen) == len(sys.modules):
        return
    for name, module in list(sys.modules.items()):
        if name in _seen:
            continue
        _seen.add(name)
        if _travels(name, module):
            cloudpickle.register_pickle_by_value(module)
            _sent.add(name)
            log.info("the module %s (%s) travels by value", name, module.__file__)


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
