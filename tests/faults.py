"""What must hold after each fault: nothing bad is trusted, and the next sync mends it."""

from __future__ import annotations

import json
from pathlib import Path

from homes import Scalems

from scalems.env import check
from scalems.env.check import Depth
from scalems.errors import ExitCode

FOREIGN = '# mine\n{\n  "other": {"a": [1,2]},\n  "localhost": {"notes": "keep"}\n}\n'


def builds(made: Scalems) -> list[Path]:
    """Builds, and what is left of them; not the files that they are locked by."""
    folder = made.root / "builds"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.name.startswith(("pilot-", "task-", ".trash-"))]


def processes_of(made: Scalems) -> list[str]:
    """Command lines of all processes that name the home or what is in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(made.home) in word for word in words):
            found.append(" ".join(words))
    return found


def nothing_bad_is_trusted(made: Scalems) -> None:
    """What RP, a run or a person would find is either a good build or none."""
    named = [link.resolve() for link in (made.root / "current").rglob("*") if link.is_symlink()]
    if made.definition.exists() and "virtenv" in made.definition.read_text():
        entry = json.loads(without_comments(made.definition))["localhost"]
        named.append(Path(entry["virtenv"]).parent)
    named += [path.parent for path in (made.root / "builds").glob("[!.]*/manifest.json")]
    for folder in set(named):
        assert check.inspect("pilot", folder, depth=Depth.DEEP) == []
    fast = made.run("env", "check", "--fast", code=None)
    assert fast.returncode in (ExitCode.DONE, ExitCode.NOT_READY)
    if fast.returncode == ExitCode.DONE:
        assert made.check("--deep")["ok"]


def foreign_is_kept(made: Scalems) -> None:
    """RP's file can be read, and what others wrote there is in it."""
    text = made.definition.read_text()
    assert text.startswith("# mine\n")
    entries = json.loads(without_comments(made.definition))
    assert entries["other"] == {"a": [1, 2]}
    assert entries["localhost"]["notes"] == "keep"


def without_comments(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def left_over(made: Scalems) -> list[Path]:
    """Temporary files and trash in a home and its project."""
    return [
        path
        for folder in (made.root, made.definition.parent, made.project)
        for path in folder.rglob(".*")
        if ("builds" not in path.parts or path.parent.name == "builds")
        and (path.name.endswith(".tmp") or path.name.startswith(".trash"))
    ]
