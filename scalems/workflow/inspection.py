"""Looks at calls in the Python that is to run them, before they are sent there.

It runs in a process of a Task venv, and reads the payloads of calls from its standard
input. It needs the standard library and what calls need. Nothing of a call is run.
"""

from __future__ import annotations

import dis
import importlib.metadata
import importlib.util
import json
import os
import platform
import struct
import sys
import types
from typing import TYPE_CHECKING, Any

from scalems.workflow import argument, call, code, packages
from scalems.workflow.large import Large, Payload, Unpickler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER = struct.Struct("!QQ?")
"""What comes before each payload: its bytes, and whether its call is one of several ranks."""

_OURS = frozenset({"scalems", "cloudpickle", "__main__", "__mp_main__"})
_BY_VALUE = frozenset({"_make_function", "_function_setstate", "_make_skeleton_class"})
_NICE = 5


def main() -> None:
    """Answer each payload on the standard input with a line of JSON, until there is no more."""
    os.nice(_NICE)  # RADICAL-Pilot is starting meanwhile
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what modules print when they are loaded
    source = sys.stdin.buffer
    while len(header := source.read(HEADER.size)) == HEADER.size:
        size, more, ranks = HEADER.unpack(header)
        payload, function = source.read(size), source.read(more)
        answers.write(json.dumps(examine(payload, function=function, ranks=ranks)) + "\n")
        answers.flush()


def examine(payload: Payload, *, function: bytes = b"", ranks: bool = False) -> dict[str, Any]:
    """Return what a call needs here, and what of it is missing.

    :param payload: of the :class:`~scalems.workflow.call.Call`.
    :param function: of the call, if it is apart.
    :param ranks: whether it runs on several MPI ranks.
    :return: ``python``, the version here; ``by_value``, whether code travels in it;
        ``missing``, modules that are not here, each with whether it is certain that the call
        fails for it; ``packages``, versions here by the distribution of each module that it
        refers to, with whether the function is of it; ``error``, why it cannot be rebuilt.
    """
    found = _Found()
    answer: dict[str, Any] = {"python": platform.python_version(), "error": ""}
    try:
        functions = list(_functions(payload, found, function))
    except Exception as error:
        functions = []
        if not (found.missing or found.carried):
            answer["error"] = call.summary(error)
    for one in functions:
        for module, certain in imports(one):
            if module not in (*_OURS, *found.carried) and not _is_there(module):
                found.missing[module] = certain or found.missing.get(module, False)
    if ranks and not _is_there("mpi4py"):
        found.missing["mpi4py"] = True
    answer["missing"] = found.missing
    answer["by_value"] = found.by_value
    answer["packages"] = _packages(found.modules, {f.__module__ for f in functions})
    return answer


class _Found:
    """What was met while a payload was rebuilt."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.missing: dict[str, bool] = {}
        self.by_value = False
        self.carried: set[str] = set()

    def take(self, carried: tuple[packages.Package, ...], pickled: bytes) -> Callable[..., None]:
        """Stand for what comes with packages, which are not unpacked to look at it."""
        self.carried.update(one.name for one in carried)
        return lambda *_: None


class _Unpickler(Unpickler):
    """Notes what is looked up by name."""

    def __init__(self, data: Payload, found: _Found) -> None:
        super().__init__(data)
        self._found = found

    def find_class(self, module: str, name: str) -> Any:
        """Return what has a name in a module."""
        top = module.partition(".")[0]
        if module == packages.__name__ and name == packages.load.__name__:
            return self._found.take
        if top == "cloudpickle":
            self._found.by_value = self._found.by_value or name in _BY_VALUE
        elif top not in _OURS:
            self._found.modules.add(top)
        try:
            return super().find_class(module, name)
        except ModuleNotFoundError as error:
            missing = (error.name or module).partition(".")[0]
            if missing not in self._found.carried:
                self._found.missing[missing] = True
            raise


def _functions(
    payload: Payload, found: _Found, pickled: bytes = b""
) -> Iterator[types.FunctionType]:
    """Rebuild a call, and yield the functions that it will run as far as they can be seen."""
    call = _Unpickler(payload, found).load()
    if isinstance(call, Large):  # it was pickled once more, to be sent here
        call = _Unpickler(call, found).load()
    function, args, kwargs, *_ = (pickled, *call) if pickled else call
    if type(function) is bytes:
        function = _Unpickler(function, found).load()
    if type(args) is bytes:  # it was an item of a block
        args = _Unpickler(args, found).load()
    if function is argument.apply:
        template, values = args
        yield from _functions(template, found)
        for value in values:
            if isinstance(value, argument.Packed):
                _Unpickler(value.payload, found).load()
        return
    for value in (function, *args, *kwargs.values()):
        inner = getattr(value, "func", value)  # functools.partial
        if isinstance(inner, types.FunctionType):
            yield from _reached(inner)


def _reached(function: types.FunctionType) -> Iterator[types.FunctionType]:
    """Yield a function, and those that came with it as its globals."""
    seen, todo = {id(function)}, [function]
    while todo:
        one = todo.pop()
        yield one
        if _is_there(one.__module__.partition(".")[0]) and one.__module__ not in _OURS:
            continue  # it is installed here, and what it needs is its package's affair
        for name in code.names(one.__code__).used:
            value = one.__globals__.get(name)
            if isinstance(value, types.FunctionType) and id(value) not in seen:
                seen.add(id(value))
                todo.append(value)


def imports(function: types.FunctionType) -> Iterator[tuple[str, bool]]:
    """Yield the modules that a function imports when it runs, and whether it always does.

    It does if the import comes before every branch, and nothing catches its failure.
    """
    certain = not getattr(function.__code__, "co_exceptiontable", b"")
    always = set()
    for instruction in dis.get_instructions(function.__code__):
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            break
        if instruction.opname == "IMPORT_NAME":
            always.add(instruction.argval.partition(".")[0])
    for module in {name.partition(".")[0] for name in code.names(function.__code__).imported}:
        if module:
            yield module, certain and module in always


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _packages(modules: set[str], functions: set[str]) -> dict[str, tuple[str, bool]]:
    """Return the version of the distribution of each module, and whether a function is of it."""
    wanted = modules - set(sys.stdlib_module_names)
    if not wanted:
        return {}
    owners = importlib.metadata.packages_distributions()
    tops = {name.partition(".")[0] for name in functions}
    return {
        name: (importlib.metadata.version(name), module in tops)
        for module in sorted(wanted)
        for name in owners.get(module, ())[:1]
    }


if __name__ == "__main__":
    main()
