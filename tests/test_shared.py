"""Environments of somebody else, which this user may read and not write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from homes import LABEL, PREFIX_SCRIPT, Scalems, add_task, make_scalems, tree

pytestmark = [pytest.mark.radical, pytest.mark.network]

OTHER = "nobody"


@dataclass(frozen=True)
class Reader:
    """Another user, who reads the state folder of the owner.

    :param folder: is this user's own.
    """

    owner: Scalems
    folder: Path

    def run(self, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as that user."""
        env = {
            **{k: v for k, v in self.owner.env.items() if not k.startswith(("UV_", "PIP_"))},
            "HOME": str(self.folder / "home"),
            "SCALEMS_HOME": str(self.owner.root),
        }
        inside = ["unshare", "--mount", "sh", "-c", f'{_opened()} exec "$@"', "sh"]
        other = ["setpriv", f"--reuid={OTHER}", "--regid=nogroup", "--clear-groups"]
        done = subprocess.run(
            [*inside, *other, *argv],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def scalems(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line as that user."""
        return self.run(*self.owner.argv(*words), code=code)


def _opened() -> str:
    """Return shell lines that open the way to the interpreter, which may be in a private home."""
    base = Path(sys.executable).resolve().parents[1]
    closed = [one for one in base.parents if not one.stat().st_mode & 0o001]
    if not closed:
        return ""
    top = closed[-1]
    return (
        f"mount --bind {base} /mnt && mount -t tmpfs none {top} && chmod 755 {top} && "
        f"mkdir -p {base} && mount --bind /mnt {base} || exit 99;"
    )


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    if os.geteuid() or not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp(prefix="scalems-shared-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        made = make_scalems(folder)
        add_task(made.project)
        made.sync()
        for path in (made.root, *made.root.parents):
            if folder in path.parents:
                path.chmod(0o755)
        (folder / "reader" / "home").mkdir(parents=True)
        (folder / "reader" / "script.py").write_text(PREFIX_SCRIPT)
        for path in (folder / "reader", folder / "reader" / "home", folder / "reader/script.py"):
            shutil.chown(path, OTHER, "nogroup")
        yield Reader(made, folder / "reader")
    finally:
        shutil.rmtree(folder)


def test_they_are_checked_and_used_and_nothing_is_written_there(reader: Reader):
    before = tree(reader.owner.root, content=False)
    done = reader.scalems("env", "check", "--deep", code=3)
    assert f"virtenv in {reader.folder}/home/.radical" in done.stdout
    assert f"scalems resource write {LABEL}" in done.stdout
    reader.scalems("resource", "write", LABEL)
    assert "different" not in reader.scalems("env", "check", "--deep").stdout
    for backend in ("scalems.local", "scalems.radical"):
        argv = [sys.executable, "-m", backend, "--resource", LABEL, "--venv", "task", "--no-store"]
        done = reader.run(*argv, "script.py")
        assert done.stdout.strip() == str(reader.owner.build("task") / "venv"), done.stderr
    reader.scalems("env", "adopt", str(reader.owner.build("task") / "venv"))
    assert tree(reader.owner.root, content=False) == before


def test_what_would_change_them_says_whose_they_are(reader: Reader):
    for words in (("env", "gc"), ("env", "rollback", "--resource", LABEL)):
        done = reader.scalems(*words, code=1)
        assert f"{reader.owner.root} is root's, and only read by others" in done.stderr
