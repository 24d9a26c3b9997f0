"""The source of modules that are not installed, with those that they import."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from pathlib import Path

from scalems.workflow import code


def digests(module: str) -> dict[str, str]:
    """Return a digest of the source of a module and of all that it imports in turn.

    Those that are installed are left out, as the environment stands for them. A package counts
    with all of its files.

    :param module: name, as it is imported.
    :return: by the names of the top level modules, in their order; none if it is installed.
    """
    found: dict[str, str] = {}
    todo = [module.partition(".")[0]]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        files = _files(name)
        if files:
            read = [_read(*one) for one in files]
            found[name] = hashlib.sha256("".join(digest for digest, _ in read).encode()).hexdigest()
            todo += {other for _, imported in read for other in imported} - seen
    return dict(sorted(found.items()))


def _files(module: str) -> list[tuple[str, int, int]]:
    """Return the files of a top level module that is not installed, with what tells a change."""
    if module in sys.builtin_module_names or module in sys.stdlib_module_names:
        return []
    try:
        # What is loaded stays where it is; one that is not is looked for where it would be found.
        loaded = sys.modules.get(module)
        spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None or spec.origin is None or code.is_installed_path(spec.origin):
        return []
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    try:
        return [
            (str(path), status.st_mtime_ns, status.st_size)
            for path in (paths or [Path(spec.origin)])
            if path.suffix == ".py" and (status := path.stat())
        ]
    except OSError:
        return []


@functools.lru_cache(maxsize=10_000)
def _read(path: str, _changed: int, _size: int) -> tuple[str, frozenset[str]]:
    """Return the digest of a file, and the top level modules that it imports."""
    try:
        data = Path(path).read_bytes()
        tree = ast.parse(data)
    except OSError:
        return "", frozenset()
    except (SyntaxError, ValueError):
        return hashlib.sha256(data).hexdigest(), frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return hashlib.sha256(data).hexdigest(), frozenset(names)
