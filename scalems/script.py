"""The user's script: found among the words of a command line, read, and run as `__main__`."""

from __future__ import annotations

import builtins
import sys
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.errors import UsageError
from scalems.workflow.app import App, collected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

EXAMPLE = "import scalems\n\n    @scalems.app\n    def main():\n        ..."


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a command line, by whom they are for."""

    ours: list[str] = field(default_factory=list)
    """Our options and their values."""
    script: str | None = None
    before: list[str] = field(default_factory=list)
    """What was written before the script and is not ours: the script gets it first."""
    after: list[str] = field(default_factory=list)
    """What was written after the script."""
    doubtful: list[tuple[str, str]] = field(default_factory=list)
    """Unknown options before the script, each with the word that was taken as its value."""

    @property
    def passed(self) -> list[str]:
        """What the script gets, in its order."""
        return self.before + self.after


def split(words: Sequence[str], options: Mapping[str, bool]) -> Words:
    """Divide a command line into our options, the script, and what passes on to the script.

    All that follows the script is the script's. Before it, options that are not ours pass
    on too. A word that follows such an option, if it has no `=`, is taken as the value of
    that option, unless it is an existing ``.py`` file: then it is the script. Any other
    word that is no option and no value of one is the script, and so is the word after ``--``.

    :param options: our options, and whether each takes a value.
    """
    found = Words()
    rest = list(words)
    unknown: str | None = None  # the option just before, if it is not ours and has no value yet
    while rest:
        word = rest.pop(0)
        if word == "--":
            return replace(found, script=rest[0] if rest else None, after=rest[1:])
        if not word.startswith("-") or word == "-":
            if unknown is None or _is_python_file(word):
                return replace(found, script=word, after=rest)
            found.before.append(word)
            found.doubtful.append((unknown, word))
            unknown = None
            continue
        takes = _takes_next(word, options)
        if takes is None:
            found.before.append(word)
            unknown = None if "=" in word else word
            continue
        unknown = None
        found.ours.append(word)
        if takes and rest:
            found.ours.append(rest.pop(0))
    return found


def _takes_next(word: str, options: Mapping[str, bool]) -> bool | None:
    """Return whether the next word is the value of this option; ``None`` if it is not ours."""
    name, equals, _ = word.partition("=")
    if name in options:
        return options[name] and not equals
    if word.startswith("--"):
        return None
    # Short options may be joined, with a value at the end: -qj4
    for position, letter in enumerate(word[1:], start=2):
        takes = options.get(f"-{letter}")
        if takes is None:
            return None
        if takes:
            return position == len(word)
    return False


def _is_python_file(word: str) -> bool:
    try:
        return word.endswith(".py") and Path(word).is_file()
    except OSError:  # too long to be the name of a file
        return False


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script that was read and compiled, and has not run."""

    name: str
    """As the user wrote it."""
    path: Path
    code: types.CodeType

    @classmethod
    def read(cls, words: Words) -> Script:
        """Read and compile the script.

        :raises UsageError: if there is none, or it cannot be read, or is not valid Python.
        """
        if words.script is None:
            raise _no_script(words)
        path = Path(words.script)
        if path.is_dir():
            raise UsageError(
                f"{words.script} is a folder, and the script must be a file.",
                remedy=_offer(sorted(path.glob("*.py"))) or "name a Python file",
            )
        try:
            source = path.read_bytes()
        except FileNotFoundError:
            raise UsageError(
                f"There is no script {words.script}.",
                remedy=_offer(_near(path))
                or "check the path; it is relative to the working folder",
            ) from None
        except OSError as error:
            raise UsageError(f"{words.script} cannot be read: {error.strerror}") from None
        path = path.absolute()
        return cls(name=words.script, path=path, code=_compiled(words.script, path, source))

    def load(self, arguments: Sequence[str], ran: Callable[[], bool] = lambda: False) -> App | None:
        """Run the script's module level as ``__main__`` and return the app that it defines.

        Afterwards ``sys.argv``, ``sys.path[0]`` and ``sys.modules["__main__"]`` are as if
        Python had been started with the script.

        :param ran: tells whether the script has run its workflow by itself, by ``scalems.run``;
            there is no app to run then.
        :raises UsageError: if it defines no app, or more than one.
        """
        module = types.ModuleType("__main__")
        module.__dict__.update(
            __file__=str(self.path), __builtins__=builtins, __cached__=None, __spec__=None
        )
        sys.modules["__main__"] = module
        sys.argv[:] = [self.name, *arguments]
        if not getattr(sys.flags, "safe_path", False):  # `python -P` has no such entry
            sys.path[:1] = [str(self.path.resolve().parent)]
        with collected() as made:
            exec(self.code, module.__dict__)
        if ran():
            return None
        return self._the_app(made, module.__dict__.values())

    def _the_app(self, made: Sequence[App], values: Iterable[object]) -> App:
        # Those of the script itself, also if a later one took the name; else an imported one.
        apps = [app for app in made if app.function.__module__ == "__main__"]
        if not apps:
            apps = list(dict.fromkeys(v for v in values if isinstance(v, App)))
        if not apps:
            raise UsageError(
                f"{self.name} defines no app.",
                remedy=f"mark the function to run, or use scalems.run():\n    {EXAMPLE}",
            )
        if len(apps) > 1:
            places = ", ".join(
                f"{app.function.__qualname__} (line {app.line})"
                for app in sorted(apps, key=lambda app: app.line)
            )
            raise UsageError(
                f"{self.name} defines {len(apps)} apps: {places}.",
                remedy="leave @scalems.app on one of them",
            )
        return apps[0]


def _compiled(name: str, path: Path, source: bytes) -> types.CodeType:
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        text = (error.text or "").rstrip()
        place = f"{name}:{error.lineno}" if error.lineno else name
        shown = ""
        if text:
            left = len(text) - len(text.lstrip())
            column = max((error.offset or 1) - 1 - left, 0)
            shown = f"\n    {text.lstrip()}\n    {' ' * column}^"
        raise UsageError(f"{place}: {error.msg}{shown}") from None
    except ValueError as error:
        raise UsageError(f"{name} is not a Python script: {error}") from None
    return code


def _no_script(words: Words) -> UsageError:
    if not words.doubtful:
        return UsageError(
            "No script is given.", remedy="name it after the options: script.py [its options]"
        )
    option, value = words.doubtful[-1]
    offer = _offer(_near(Path(value))) if value.endswith(".py") else ""
    return UsageError(
        f"No script is given: {value!r} was taken as the value of {option}, "
        "which is an option of the script, and is no existing .py file.",
        remedy=offer or f"put the options of the script after it: script.py {option} {value}",
    )


def _near(path: Path) -> list[Path]:
    """Return existing scripts with names like that of `path`."""
    import difflib

    try:
        there = {item.stem: item for item in path.parent.glob("*.py")}
    except OSError:
        return []
    name = path.name.removesuffix(".py")
    names = difflib.get_close_matches(name, there, n=3, cutoff=0.6)
    return [there[name] for name in names]


def _offer(paths: Sequence[Path]) -> str:
    return "did you mean " + " or ".join(map(str, paths[:3])) + "?" if paths else ""
