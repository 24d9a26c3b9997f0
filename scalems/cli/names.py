"""Answers of the command line to a shell that asks how a word could go on.

The shell runs `scalems` at each TAB, with the words so far in variables: argcomplete
(https://kislyuk.github.io/argcomplete/) finds the place in the parser, and the functions here
tell the names that may stand there. Each is read from small files; what cannot be read has no
names.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scalems.errors import ScalemsError

Names = Callable[[argparse.Namespace], Iterable[str]]


def answer(parser: argparse.ArgumentParser) -> None:
    """Tell the shell what could come next, and end the process."""
    import argcomplete

    _attach(parser, ())
    argcomplete.autocomplete(parser, always_complete_options=False)


def answer_script(parser: argparse.ArgumentParser) -> None:
    """Do so for the command of a backend: after its options there is a script, then files."""
    from argcomplete.completers import FilesCompleter

    scripts, files = FilesCompleter((".py",)), FilesCompleter()

    def after(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        return list(files(prefix)) if parsed_args.script else []

    parser.add_argument("script", nargs="?").completer = scripts  # type: ignore[attr-defined]
    words = parser.add_argument("words", nargs=argparse.REMAINDER)
    words.completer = after  # type: ignore[attr-defined]
    answer(parser)


def _attach(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> None:
    """Give each argument of a command and of those below it the names that it may have."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                _attach(child, (*path, name))
        elif names := _source(path, action):
            action.completer = _completer(names)  # type: ignore[attr-defined]


def _source(path: tuple[str, ...], action: argparse.Action) -> Names | None:
    option = action.option_strings[-1] if action.option_strings else ""
    if option == "--upgrade-package" or action.metavar in ("PACKAGE", "PKG"):
        return packages
    if path[:2] in (("env", "lock"), ("env", "export")) and action.metavar == "NAME":
        return specs
    if path[:1] == ("pilot",) and action.metavar == "NAME":
        return pilots
    if path[:1] in (("show",), ("why",)) and action.dest == "numbers":
        return runs
    if option == "--venv":
        return venvs
    if option in ("--queue", "--project"):
        return None  # the batch system's
    by_metavar: dict[str, Names] = {
        "auto|new|warm|NAME": ways,
        "LABEL": labels,
        "NAME": environments,
        "SIDE": sides,
        "NUMBER": generations,
        "TAG": tags,
    }
    return by_metavar.get(str(action.metavar))


def _completer(names: Names) -> Callable[..., list[str]]:
    def complete(*, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        with contextlib.suppress(ScalemsError, OSError, ValueError):
            return sorted(set(names(parsed_args)))
        return []

    return complete


def labels(options: argparse.Namespace) -> Iterator[str]:
    """Yield the resources of the project, and those that were synced."""
    from scalems.env import layout, state
    from scalems.resource.config import find_project

    yield from state.labels(layout.default())
    with contextlib.suppress(ScalemsError):
        yield from find_project(getattr(options, "project", None)).labels()


def specs(options: argparse.Namespace) -> Iterator[str]:
    """Yield the env specs of the project."""
    from scalems.resource.config import find_project

    yield from find_project(getattr(options, "project", None)).env_names()


def environments(options: argparse.Namespace) -> Iterator[str]:
    """Yield the environments that were synced, with their resource where several have one."""
    from scalems.env import layout, state

    place = layout.default()
    wanted = getattr(options, "resource", None)
    found: dict[str, list[str]] = {}
    for label in state.labels(place):
        if synced := state.read(place, label):
            for env in synced.envs if wanted in (None, label) else ():
                found.setdefault(env.name, []).append(label)
    for name, owners in found.items():
        yield name
        yield from (f"{label}/{name}" for label in owners if len(owners) > 1)


def venvs(options: argparse.Namespace) -> Iterator[str]:
    """Yield the Task venvs of the resources that were synced, or of those that are named."""
    from scalems.env import layout, state

    asked = getattr(options, "resource", None) or []
    wanted = {one.partition(":")[0] for one in ([asked] if isinstance(asked, str) else asked)}
    place = layout.default()
    for label in state.labels(place):
        synced = state.read(place, label) if not wanted or label in wanted else None
        yield from (env.name for env in synced.tasks) if synced else ()


def sides(options: argparse.Namespace) -> Iterator[str]:
    """Yield what can be compared: environments, their generations, locks, the client."""
    from scalems.env import layout, state

    yield "client"
    yield from environments(options)
    with contextlib.suppress(ScalemsError):
        yield from (f"lock:{name}" for name in specs(options))
    place = layout.default()
    several = len(state.labels(place)) > 1
    for label in state.labels(place):
        for one in state.generations(place, label):
            for env in one.envs:
                yield (
                    f"{label}/{env.name}#{one.generation}"
                    if several
                    else (f"{env.name}#{one.generation}")
                )


def generations(options: argparse.Namespace) -> Iterator[str]:
    """Yield the generations of a resource, or of all."""
    from scalems.env import layout, state

    place = layout.default()
    wanted = getattr(options, "resource", None)
    for label in [wanted] if wanted else state.labels(place):
        yield from (str(one.generation) for one in state.generations(place, label))


def packages(options: argparse.Namespace) -> Iterator[str]:
    """Yield the distributions of all locks of the project."""
    from scalems.resource.config import find_project

    for path in find_project(getattr(options, "project", None)).envs.glob("*.lock.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line[:1].isalnum() and "==" in line:
                yield line.partition("==")[0]


def tags(options: argparse.Namespace) -> Iterator[str]:
    """Yield this machine's target, and the usual ones."""
    from scalems import probe
    from scalems.env import tag

    yield str(tag.of(probe.interpreter()))
    for python in ("cp310", "cp311", "cp312", "cp313"):
        for cpu in ("x86_64", "aarch64"):
            yield f"{python}-manylinux_2_28_{cpu}"


def pilots(options: argparse.Namespace) -> Iterator[str]:
    """Yield the names of the pilots that are kept warm."""
    from scalems.radical import warm

    yield from (one.name for one in warm.known())


def ways(options: argparse.Namespace) -> Iterator[str]:
    """Yield what ``--pilot`` may be."""
    yield from ("auto", "new", "warm")
    yield from pilots(options)


def runs(options: argparse.Namespace) -> Iterator[str]:
    """Yield the numbers of the former runs."""
    from scalems.store import history

    with history.History(history.find(options.store)).closing() as found:
        yield from (str(one["run"]) for one in found.runs())
