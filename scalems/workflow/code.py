"""What a function uses: found from its code, for pickles and for digests."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_CONSTANTS = (int, float, complex, str, bytes, bool, type(None), types.BuiltinFunctionType)


@dataclass(frozen=True)
class Names:
    """The names in the code of a function, and of those inside of it.

    :param used: globals that it reads or writes.
    :param written: those that it writes.
    :param attributes: attributes of whatever it reads.
    :param imported: modules that it imports when it runs.
    """

    used: tuple[str, ...]
    written: tuple[str, ...]
    attributes: tuple[str, ...]
    imported: tuple[str, ...]


@functools.lru_cache(maxsize=1000)
def names(code: types.CodeType) -> Names:
    """Return the names in code."""
    used: set[str] = set()
    written: set[str] = set()
    attributes: set[str] = set()
    imported: set[str] = set()
    todo = [code]
    while todo:
        one = todo.pop()
        for instruction in dis.get_instructions(one):
            if instruction.opname in _READS:
                used.add(instruction.argval)
            elif instruction.opname in _WRITES:
                written.add(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                attributes.add(instruction.argval)
            elif instruction.opname == "IMPORT_NAME":
                imported.add(instruction.argval)
        todo.extend(item for item in one.co_consts if isinstance(item, types.CodeType))
    found = (used | written, written, attributes, imported)
    return Names(*(tuple(sorted(one)) for one in found))


@functools.lru_cache(maxsize=1000)
def is_installed(module: str | None) -> bool:
    """Whether a module is part of Python or of an installed distribution."""
    if module in (None, "__main__", "__mp_main__"):
        return False
    loaded = sys.modules.get(module or "")
    source = getattr(loaded, "__file__", None)
    if loaded is None or source is None:
        return loaded is not None  # built in
    return (module or "").partition(".")[0] == "scalems" or is_installed_path(source)


def is_installed_path(source: str) -> bool:
    """Whether a file is part of Python or of an installed distribution."""
    path = Path(source).resolve()
    return bool({"site-packages", "dist-packages"}.intersection(path.parts)) or any(
        folder in path.parents for folder in _standard()
    )


@functools.lru_cache(maxsize=1)
def _standard() -> tuple[Path, ...]:
    keys = ("stdlib", "platstdlib")
    return tuple({Path(sysconfig.get_path(key)).resolve() for key in keys})


def used_by(function: types.FunctionType) -> list[tuple[dict[str, Any], str, object]] | None:
    """Return all globals that a function uses, with those of the functions among them.

    Each is given by its namespace, its name and its value. ``None``: something in it may
    change without being replaced, so that nobody can see from this whether it has changed.
    """
    found: list[tuple[dict[str, Any], str, object]] = []
    seen = {id(function)}
    todo = [function]
    while todo:
        one = todo.pop()
        inside = names(one.__code__)
        try:
            cells = [cell.cell_contents for cell in one.__closure__ or ()]
        except ValueError:  # one that is not filled yet
            return None
        given = (*cells, *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values())
        if inside.written or one.__dict__ or not all(isinstance(v, _CONSTANTS) for v in given):
            return None
        space = one.__globals__
        for name in inside.used:
            if name not in space:
                continue  # a builtin
            value = space[name]
            found.append((space, name, value))
            if isinstance(value, types.FunctionType):
                if not is_installed(value.__module__) and id(value) not in seen:
                    seen.add(id(value))
                    todo.append(value)
            elif isinstance(value, (types.ModuleType, type)):
                module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
                if not is_installed(module):
                    return None
            elif not isinstance(value, _CONSTANTS):
                return None
    return found


def unchanged(used: list[tuple[dict[str, Any], str, object]]) -> bool:
    """Whether globals that :func:`used_by` has given are still the same."""
    return all(space.get(name) is value for space, name, value in used)
