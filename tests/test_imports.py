"""Who imports whom: one direction, no cycles, little on the far side, and nothing for `--help`."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from homes import LABEL, REPO, Scalems

PACKAGE = REPO / "scalems"

RANKS = (
    {"__main__"},
    {"cli"},
    {"doctor", "session"},
    {"local", "radical"},
    {"executor"},
    {"invocation"},
    {"account"},
    {"liveview", "script", "signals", "tracebacks"},
    {"store"},
    {"workflow"},
    {"env"},
    {"resource"},
    {"host"},
    {"probe", "tomlfile"},
    {"failpoint"},
    {"errors", "options"},
)
"""The parts of the package: each imports those below its own line only, for types too."""

FACADE = "scalems"
"""It names what users import, and loads nothing of it before it is used."""

ENGINES = {"scalems.env.engine", "scalems.env.engine.pip", "scalems.env.engine.uv"}
"""A port that can choose among the modules which implement it, once it is asked to."""

FAR_SIDE = {
    "scalems.probe": set(),
    "scalems.workflow.child": {"cloudpickle", "numpy"},
    "scalems.workflow.inspection": {"cloudpickle", "numpy"},
    "scalems.workflow.program": {"cloudpickle", "numpy"},
    "scalems.radical.canary": {"cloudpickle", "numpy"},
    "scalems.radical.worker": {"cloudpickle", "numpy", "radical", "zmq"},
}
"""What is started or loaded in Pilot and Task venvs, with what it may need there."""


@dataclass(frozen=True)
class Import:
    """One import: of what, and when it is done."""

    name: str
    typing: bool = False
    lazy: bool = False

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(_imports(ast.parse(modules()[module].read_text()), typing=False, lazy=False))


def _imports(node: ast.AST, *, typing: bool, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, typing, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module, "relative imports are not used here"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield Import(whole if whole in modules() else node.module, typing, lazy)
    inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for child in node.body:
            yield from _imports(child, typing=True, lazy=inside)
        for child in node.orelse:
            yield from _imports(child, typing=typing, lazy=inside)
        return
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, typing=typing, lazy=inside)


def part(module: str) -> str:
    return module.split(".")[1]


def parents(module: str) -> set[str]:
    words = module.split(".")
    return {".".join(words[:count]) for count in range(1, len(words))}


def direct(module: str, *, lazy: bool) -> set[str]:
    return {
        one.name
        for one in imports(module)
        if one.top == "scalems" and not one.typing and (lazy or not one.lazy)
    }


def ours(module: str, *, lazy: bool) -> set[str]:
    """Modules of scalems that are loaded with one, the packages that they are in included."""
    named = direct(module, lazy=lazy)
    return {*named, *parents(module), *(p for name in named for p in parents(name))} - {module}


def test_the_imports_are_all_seen():
    """The tests below would pass if nothing were found."""
    assert Import("scalems.env.layout") in imports("scalems.env.sync")
    assert Import("scalems.env.engine.pip", lazy=True) in imports("scalems.env.engine")
    assert Import("scalems.env.spec", typing=True) in imports("scalems.env.target")
    assert Import("rich.console", typing=True) in imports("scalems.cli.render")
    assert {part(module) for module in modules() if module != FACADE} == set().union(*RANKS)


def test_imports_go_one_way():
    rank = {name: place for place, names in enumerate(RANKS) for name in names}
    wrong = [
        f"{module} imports {one.name}"
        for module in modules().keys() - {FACADE}
        for one in imports(module)
        if one.top == "scalems" and one.name != FACADE and part(one.name) != part(module)
        if rank[part(one.name)] <= rank[part(module)]
    ]
    assert wrong == []


def test_no_module_needs_one_that_needs_it():
    loaded = {module: direct(module, lazy=False) for module in modules()}
    list(graphlib.TopologicalSorter(loaded).static_order())


def test_not_even_when_a_function_is_called():
    used = {m: direct(m, lazy=True) - (ENGINES if m in ENGINES else set()) for m in modules()}
    list(graphlib.TopologicalSorter(used).static_order())


def test_the_workflow_knows_nothing_of_environments():
    own = {module for module in modules() if module.startswith("scalems.workflow")}
    named = {one.name for module in own for one in imports(module) if one.top == "scalems"}
    assert named - own == {"scalems.errors"}


@pytest.mark.parametrize("entry", FAR_SIDE)
def test_the_far_side_needs_little(entry):
    """Functions of a package's own module are for the client, those of other modules are not."""
    seen: set[str] = set()
    waiting = {entry}
    foreign: set[str] = set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        package = modules()[module].name == "__init__.py"
        waiting |= ours(module, lazy=not package) - seen
        foreign |= {
            one.top
            for one in imports(module)
            if not one.typing and not (package and one.lazy) and one.top != "scalems"
        }
    assert foreign - set(sys.stdlib_module_names) == FAR_SIDE[entry]
    assert not {part(m) for m in seen - {FACADE}} & {"env", "resource", "host", "cli", "tomlfile"}


@pytest.mark.network
def test_the_far_side_loads_in_a_venv_that_was_built(small_home: Scalems, tmp_path):
    python = small_home.build("pilot") / "venv" / "bin" / "python"
    for entry in FAR_SIDE:
        code = f"import sys, {entry}; print(*(m for m in sys.modules if m.startswith('scalems')))"
        done = subprocess.run(
            [python, "-I", "-B", "-c", code],
            env={"HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = {name.split(".")[1] for name in done.stdout.split()[1:]}
        assert loaded <= {"errors", "probe", "workflow", "radical"}, entry


@pytest.mark.parametrize(
    "before", ["", "from scalems.env import Depth", "from scalems.env.verification import examine"]
)
def test_a_name_is_the_function_and_not_its_module(before):
    code = f"{before}\nfrom scalems import env\nfor _ in range(2): assert env.verify.__code__"
    subprocess.run([sys.executable, "-B", "-c", code], check=True)


# --- what is not loaded before it is needed ---------------------------------------------------


def loaded_by(code: str, *, cwd: Path = REPO, env: dict[str, str] | None = None) -> set[str]:
    """Modules that code loads, besides those that Python itself and its site hooks do."""
    wrapped = (
        "import atexit, json, sys\n"
        "before = set(sys.modules)\n"
        "atexit.register(lambda: print('LOADED' + json.dumps([*set(sys.modules) - before])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", wrapped + code],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.partition("LOADED")[2]))


def foreign(loaded: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"scalems"}


def test_the_package_itself_loads_nothing():
    loaded = loaded_by("import scalems")
    assert {name for name in loaded if name.startswith("scalems")} == {"scalems"}
    assert foreign(loaded) == set()


@pytest.mark.parametrize("words", [["--help"], ["env", "--help"], ["env", "sync", "--help"]])
def test_help_loads_the_parsers_only(words):
    code = f"import sys; sys.argv[1:] = {words}; from scalems.__main__ import main; main()"
    loaded = loaded_by(code)
    parts = {part(name) for name in loaded if name.startswith("scalems.")}
    assert parts - {"options"} == {"__main__", "cli", "errors"}
    assert foreign(loaded) == set()
    assert not loaded & {"asyncio", "multiprocessing", "subprocess", "hashlib"}


@pytest.mark.network
@pytest.mark.parametrize(
    "code",
    [
        f"from scalems import env; env.verify({LABEL!r})",
        "sys.exit(run(['env', 'check', '--fast']))",
    ],
)
def test_the_fast_paths_load_neither_rp_nor_parsers(small_home: Scalems, code):
    small_home.run("env", "check", "--fast")  # scalems' own digest is kept from here on
    loaded = loaded_by(
        f"from scalems.cli import run\n{code}", cwd=small_home.project, env=small_home.env
    )
    assert "scalems.env.check" in loaded
    assert foreign(loaded) == set()
    assert loaded & {"scalems.env.sync", "scalems.env.engine", *HEAVY} == set()


@pytest.mark.network
def test_a_sync_with_nothing_to_do_loads_next_to_nothing(small_home: Scalems):
    code = f"from scalems.cli import run; sys.exit(run(['env', 'sync', '--resource', {LABEL!r}]))"
    end = time.monotonic() + 60
    while True:  # until what it has seen is kept: once no file is new any more
        loaded = loaded_by(code, cwd=small_home.project, env=small_home.env)
        if "scalems.env.check" not in loaded:
            break
        assert time.monotonic() < end
        time.sleep(0.3)
    assert "scalems.env.seen" in loaded
    assert foreign(loaded) == set()
    assert loaded & {"dataclasses", "scalems.resource.config", *HEAVY} == set()


HEAVY = {
    *("asyncio", "concurrent", "csv", "datetime", "difflib", "email", "logging", "platform"),
    *("random", "shutil", "socket", "subprocess", "tempfile", "threading", "uuid", "zipfile"),
}
"""Of the standard library: each takes one to five milliseconds, and to look at files needs none."""


def test_names_for_a_shell_to_complete_load_no_checks(tmp_path):
    """Each TAB loads this."""
    code = (
        "from scalems.cli import names; import argparse; list(names.labels(argparse.Namespace()))"
    )
    loaded = loaded_by(code, env={"SCALEMS_HOME": str(tmp_path)})
    assert "scalems.env.state" in loaded
    unwanted = {"scalems.env.verification", "scalems.env.check", *HEAVY}
    assert loaded & unwanted == {"datetime"}  # of tomllib


def test_no_module_is_too_long_to_be_read_at_once():
    assert [p.name for p in modules().values() if len(p.read_text().splitlines()) > 500] == []


def test_each_command_is_in_the_module_that_is_loaded_for_it():
    import argparse
    import importlib

    from scalems.cli import env

    for name, commands in env.MODULES.items():
        parsers = argparse.ArgumentParser().add_subparsers()
        importlib.import_module(f"scalems.cli.env.{name}").configure(parsers)
        assert set(parsers.choices) == set(commands)
