"""Digests of values by their content, and of functions by their code and what it uses.

Equal content gives equal digests: in every process, with every hash seed, in every order of
dicts and sets. Python's pickle was weighed: its bytes depend on sharing, interning and order.
joblib's ``hash`` was weighed: it takes functions by name only.

What is installed is known by its name: the environment's fingerprint stands for its content.
What is not (the script, modules beside it, editable packages) counts by content.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import inspect
import struct
import types
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from scalems.store import source
from scalems.workflow import code, shipping
from scalems.workflow.argument import Slot
from scalems.workflow.file import File, content_digest
from scalems.workflow.pickler import is_dispatching
from scalems.workflow.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LARGE = 4096  # bytes above which an encoded part stands for itself by its digest
_CONSTANT = (int, float, complex, str, bytes, bool, type(None))


class Unstable(Exception):
    """A value has no digest that another process would find too; the text names it."""


@dataclass(frozen=True)
class Code:
    """What a function does.

    :param digest: of the function and all that it uses.
    :param parts: a digest for each function, class and global variable in it, by its name.
    """

    digest: str
    parts: dict[str, str]
    names: tuple[str, ...] = ()
    """Of the parameters that take positional arguments."""


def of(value: object) -> str:
    """Return the digest of a value.

    :raises Unstable: it has none.
    """
    kind = type(value)
    if kind in _BINARY and len(value) > _LARGE:  # type: ignore[arg-type]
        return _hex(_Encoder().encode(value))
    leaf = _LEAVES.get(kind)
    if leaf is not None and len(data := leaf(value)) <= _LARGE:
        return _hex(data)
    return _hex(_Encoder().encode(value))


def of_class(kind: type) -> str:
    """Return the digest of a class; empty if it has none."""
    try:
        return of(kind)
    except Unstable:
        return ""


def of_function(function: Callable[..., object]) -> Code:
    """Return what a function does, with all that it uses outside of installed packages.

    :raises Unstable: something in it has no digest.
    """
    if isinstance(function, Task):
        function = function.function
    known = _codes.get(id(function))
    if known is not None and known.holds(function):
        return known.code
    encoder = _Encoder()
    found = Code(_hex(encoder.encode(function)), encoder.parts, _names(function))
    if encoder.constant:
        watched = (tuple(encoder.functions), tuple(encoder.classes))
        _codes[id(function)] = _Known(function, found, tuple(encoder.used), *watched)
        if len(_codes) > 1000:
            _codes.pop(next(iter(_codes)))
    return found


def combined(*texts: str) -> str:
    """Return the digest of texts in their order."""
    # One after the other, each with its length: "t3:abct1:x".
    parts = [b"t%d:%b" % (len(data), data) for data in [text.encode() for text in texts]]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _names(function: Callable[..., object]) -> tuple[str, ...]:
    own = getattr(function, "__code__", None)
    return own.co_varnames[: own.co_argcount] if own is not None else ()


@dataclass(frozen=True)
class _Known:
    """A function whose globals cannot change unseen: digested once."""

    function: object
    code: Code
    used: tuple[tuple[dict[str, Any], str, object], ...]
    functions: tuple[types.FunctionType, ...]
    classes: tuple[tuple[type, dict[str, object]], ...]

    def holds(self, function: object) -> bool:
        return (
            self.function is function
            and all(names.get(name) is value for names, name, value in self.used)
            and not any(one.__dict__ for one in self.functions)
            and all(vars(one) == held for one, held in self.classes)
        )


_codes: dict[int, _Known] = {}


class _Encoder:
    """Writes a value as bytes that only depend on its content."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.used: list[tuple[dict[str, Any], str, object]] = []
        self.functions: list[types.FunctionType] = []
        self.classes: list[tuple[type, dict[str, object]]] = []
        self.constant = True
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[object, bytes]] = {}

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value; of a large one, its digest."""
        kind = type(value)
        leaf = _LEAVES.get(kind)
        if leaf is not None:
            if kind in _BINARY and len(value) > _LARGE:
                return b"#" + _binary(value)
            data: bytes = leaf(value)
            return data if len(data) <= _LARGE else b"#" + hashlib.sha256(data).digest()
        ident = id(value)
        if ident in self._done:
            return self._done[ident][1]
        if ident in self._open:  # it holds itself
            return b"^%d;" % (len(self._open) - self._open[ident])
        self._open[ident] = len(self._open)
        try:
            data = self._structure(kind, value)
        except RecursionError:
            raise Unstable("something nested too deeply") from None
        finally:
            del self._open[ident]
        if len(data) > _LARGE:
            data = b"#" + hashlib.sha256(data).digest()
        self._done[ident] = (value, data)  # held, so that its id is not used again
        return data

    def _structure(self, kind: type, value: Any) -> bytes:
        if kind is list or kind is tuple:
            return self._sequence(b"[" if kind is list else b"(", value)
        if kind is dict:
            return self._mapping(value)
        if kind is types.MappingProxyType:
            return self._mapping(dict(value))
        if kind is set or kind is frozenset:
            tag = b"U" if kind is set else b"{"
            return _sized(tag, b"".join(sorted(self.encode(item) for item in value)))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, Task):
            return self.encode(value.function)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return _name(b"M", value.__name__)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, types.MethodType):
            return self._sequence(b"m", (value.__func__, value.__self__))
        if isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            if owner is None or isinstance(owner, types.ModuleType):
                return _name(b"b", f"{value.__module__}.{value.__qualname__}")
            return self._sequence(b"m", (value.__name__, owner))
        if isinstance(value, Enum):
            return self._sequence(b"e", (kind, value.name))
        if isinstance(value, PurePath):
            return _path(value)
        is_array = hasattr(value, "__array_interface__") and hasattr(value, "dtype")
        if is_array and not hasattr(value, "mask"):  # a masked one is more than its data
            return self._array(kind, value)
        return self._object(value)

    def _sequence(self, tag: bytes, items: Iterable[object]) -> bytes:
        return _sized(tag, b"".join([self.encode(item) for item in items]))

    def _mapping(self, value: dict[Any, Any]) -> bytes:
        pairs = sorted((self.encode(key), self.encode(item)) for key, item in value.items())
        return _sized(b"d", b"".join(part for pair in pairs for part in pair))

    def _array(self, kind: type, value: Any) -> bytes:
        head = f"{kind.__module__}.{kind.__qualname__} {value.dtype.str} {value.shape}"
        if value.dtype.hasobject:
            return _name(b"A", head) + self.encode(value.tolist())
        if value.dtype.names:
            head += f" {value.dtype.descr}"
        if not value.flags.c_contiguous:
            value = value.copy(order="C")
        content = value.tobytes() if not value.shape else memoryview(value.reshape(-1).view("u1"))
        return _name(b"A", head) + hashlib.sha256(content).digest()

    def _object(self, value: Any) -> bytes:
        """Encode an object by what pickle would rebuild it from."""
        known = copyreg.dispatch_table.get(type(value))  # of patterns, ufuncs, `int | None`
        try:
            reduced = value.__reduce_ex__(4) if known is None else known(value)
        except Exception as error:
            name = f"{type(value).__module__}.{type(value).__qualname__}"
            raise Unstable(f"an object of type {name} ({error})") from None
        if isinstance(reduced, str):
            wrapped = getattr(value, "__wrapped__", None)  # as of functools.cache
            if wrapped is not None and not code.is_installed(getattr(value, "__module__", None)):
                return self._sequence(b"w", (type(value), wrapped))
            return _name(b"g", f"{getattr(value, '__module__', '')}.{reduced}")
        make, args, *rest = (*reduced, *[None] * 5)[:6]
        state, items, pairs = rest[0], list(rest[1] or ()), dict(rest[2] or ())
        if isinstance(value, OrderedDict):  # whose order counts where two are compared
            return self._sequence(b"o", (make, args, state, items, [*pairs.items()]))
        return self._sequence(b"o", (make, args, state, items, pairs))

    # --- functions and classes ------------------------------------------------------------

    def _class(self, value: type) -> bytes:
        if code.is_installed(value.__module__):
            return _name(b"c", f"{value.__module__}.{value.__qualname__}")
        skipped = ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__")
        self.classes.append((value, dict(vars(value))))
        attributes = {
            key: _inside(item)
            for key, item in vars(value).items()
            if key not in (*skipped, "__static_attributes__", "__annotations_cache__")
            and not isinstance(item, (types.GetSetDescriptorType, types.MemberDescriptorType))
            and not key.startswith("_abc_")
        }
        self._look_constant(
            item
            for key, item in vars(value).items()
            if key in attributes and not key.startswith("__") and not isinstance(item, _MADE_OF)
        )
        bases = value.__bases__
        data = self._sequence(b"C", (value.__qualname__, bases, attributes))
        # Methods are parts of their own.
        rest = {key: item for key, item in attributes.items() if not _is_code(item)}
        own = self._sequence(b"C", (bases, rest, [*attributes]))
        self.parts[_called(value)] = _hex(own)[:16]
        return data

    def _function(self, function: types.FunctionType) -> bytes:
        if code.is_installed(function.__module__):
            return _name(b"f", f"{function.__module__}.{function.__qualname__}")
        if is_dispatching(function):
            self.constant = False  # more may be registered
            return self._sequence(b"D", (dict(vars(function)["registry"]),))
        name = _called(function)
        self.functions.append(function)
        own = self._code(function.__code__)
        given = self._sequence(b"v", (function.__defaults__, function.__kwdefaults__))
        try:
            enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # a cell that is not filled yet
            enclosed = []
        self.parts[name] = _hex(own)[:16]
        for parameter, value in _defaults(function):
            self._part(f"{name}({parameter}=…)", value)
        for variable, value in zip(function.__code__.co_freevars, enclosed, strict=False):
            if not _is_code(value):
                self._part(f"{variable} of {name}", value)
        self._look_constant([*enclosed, *(value for _, value in _defaults(function))])
        outside = self._globals(function) + self._data(function.__module__)
        data = own + given + self._sequence(b"(", enclosed) + outside
        if function.__dict__:  # attributes that somebody has set, and perhaps reads
            self.constant = False
            for key, value in function.__dict__.items():
                if not _is_code(value):
                    self._part(f"{name}.{key}", value)
            data += self._mapping(function.__dict__)
        return _sized(b"F", data)

    def _part(self, name: str, value: object) -> None:
        self.parts[name] = _hex(self.encode(value))[:16]

    def _globals(self, function: types.FunctionType) -> bytes:
        inside = code.names(function.__code__)
        space = function.__globals__
        found = []
        for name in inside.used:
            if name not in space:
                continue  # a builtin
            value = space[name]
            self.used.append((space, name, value))
            self._look_constant((value,))
            if isinstance(value, types.ModuleType) and not code.is_installed(value.__name__):
                found.append(_name(b"M", name) + self._module(value, inside.attributes))
            else:
                found.append(_name(b"G", name) + self.encode(value))
                if not _is_code(value):
                    self.parts[name] = _hex(found[-1])[:16]
        for name in inside.imported:
            for module, content in source.digests(name).items():
                self.constant = False
                found.append(_name(b"I", module) + content.encode())
                self.parts[f"module {module}"] = content[:16]
        return b"".join(found)

    def _data(self, module: str) -> bytes:
        """Encode the data files of a package that travels."""
        content = shipping.data_of(module or "")
        if content:
            self.parts[f"files of {module.partition('.')[0]}"] = content[:16]
        return content.encode()

    def _module(
        self, module: types.ModuleType, attributes: Iterable[str], outer: tuple[str, ...] = ()
    ) -> bytes:
        """Encode what a function may use of a module that is not installed."""
        self.constant = False  # its attributes may be given other values
        used: dict[str, object] = {}
        for key in attributes:
            value = getattr(module, key, None)
            if isinstance(value, types.ModuleType) and not code.is_installed(value.__name__):
                if value.__name__ not in outer:
                    within = (*outer, module.__name__)
                    used[key] = self._module(value, attributes, within)
            elif hasattr(module, key):
                used[key] = value
                if not _is_code(value):
                    self._part(f"{module.__name__}.{key}", value)
        return self._mapping(used)

    def _look_constant(self, values: Iterable[object]) -> None:
        self.constant = self.constant and all(
            type(value) in _CONSTANT or _is_code(value) for value in values
        )

    def _code(self, own: types.CodeType) -> bytes:
        numbers = (own.co_argcount, own.co_posonlyargcount, own.co_kwonlyargcount)
        names = (own.co_names, own.co_varnames, own.co_freevars, own.co_cellvars)
        flags = own.co_flags & 0xFFFF  # the higher ones say that there is a docstring, and such
        table = getattr(own, "co_exceptiontable", b"")  # Python 3.10 has none
        return self._sequence(b"B", (own.co_code, _constants(own), numbers, names, flags, table))


def _constants(own: types.CodeType) -> tuple[object, ...]:
    """Return the constants of code but for its docstring: a first one that it does not load."""
    constants = own.co_consts
    if constants and isinstance(constants[0], str) and own.co_flags & inspect.CO_NEWLOCALS:
        loads = (i for i in dis.get_instructions(own) if i.opcode in dis.hasconst and i.arg == 0)
        if next(loads, None) is None:
            return (None, *constants[1:])
    return constants


def _is_code(value: object) -> bool:
    """Whether a value is told as the functions in it."""
    return isinstance(value, (types.FunctionType, types.ModuleType, type, Task))


_MADE_OF = (staticmethod, classmethod, property, functools.cached_property)


def _inside(attribute: object) -> object:
    """Return what an attribute of a class is made of."""
    if isinstance(attribute, (staticmethod, classmethod)):
        return attribute.__func__
    if isinstance(attribute, property):
        return (attribute.fget, attribute.fset, attribute.fdel)
    if isinstance(attribute, functools.cached_property):
        return (attribute.func,)
    return attribute


def _called(value: types.FunctionType | type) -> str:
    """Return what people call a function or class: by its module, but in the script."""
    module = value.__module__ or "__main__"
    return value.__qualname__ if module == "__main__" else f"{module}.{value.__qualname__}"


def _defaults(function: types.FunctionType) -> list[tuple[str, object]]:
    """Return the parameters that have defaults, and these."""
    own = function.__code__
    values = function.__defaults__ or ()
    names = own.co_varnames[: own.co_argcount][own.co_argcount - len(values) :]
    return [*zip(names, values, strict=False), *(function.__kwdefaults__ or {}).items()]


def _number(value: float) -> bytes:
    return b"r" + struct.pack("<d", value)


def _bytes(value: bytes) -> bytes:
    return _sized(b"y", value)


_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"1" if value else b"0",
    int: lambda value: b"i%d;" % value,
    float: _number,
    complex: lambda value: b"z" + struct.pack("<dd", value.real, value.imag),
    str: lambda value: _sized(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: _bytes,
    bytearray: lambda value: _sized(b"Y", bytes(value)),
    type(...): lambda _: b".",
    Slot: lambda value: b"S%d;" % value.index,
    File: lambda value: _name(b"K", f"{value.digest} {value.name}"),
}


_BINARY = (bytes, bytearray)


def _binary(value: bytes | bytearray) -> bytes:
    """Return the digest of what :data:`_LEAVES` gives for a large value, which is not copied."""
    found = hashlib.sha256((b"y" if type(value) is bytes else b"Y") + b"%d:" % len(value))
    found.update(value)
    return found.digest()


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + b"%d:" % len(data) + data


def _name(tag: bytes, text: str) -> bytes:
    return _sized(tag, text.encode("utf-8", "surrogatepass"))


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _path(path: PurePath) -> bytes:
    """Encode a path: a file counts by its content, and nothing else does."""
    name = _name(b"P", str(path))
    try:
        status = Path(path).stat()
        if Path(path).is_file():
            key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_dev)
            return name + content_digest(str(Path(path).absolute()), key).encode()
    except OSError:
        pass
    return name
