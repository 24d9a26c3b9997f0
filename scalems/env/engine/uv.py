"""The uv engine: https://docs.astral.sh/uv/pip/."""

from __future__ import annotations

import hashlib
import re
import shutil
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from scalems.env.engine import (
    InstallError,
    Needs,
    Resolution,
    ResolveError,
    explain,
    upgrades,
)
from scalems.host.local import CommandFailed, Completed, run
from scalems.host.scratch import scratch

if TYPE_CHECKING:
    from scalems.env.tag import Tag


def find_uv() -> Path | None:
    """Return the uv binary: the one installed beside scalems, else the one on ``PATH``."""
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    if beside.is_file():
        return beside
    found = shutil.which("uv")
    return Path(found) if found else None


class UvEngine:
    """Resolves for all Pythons and platforms at once, installs from uv's shared cache."""

    name = "uv"
    unpacked_cache = True

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._version = ""

    def version(self) -> str:
        """Return the tool's name and version."""
        if not self._version:
            words = run([self._binary, "--version"]).stdout.split()
            self._version = " ".join(words[:2])
        return self._version

    def resolve(
        self,
        requirements: Sequence[str],
        constraints: Sequence[str],
        *,
        python: str,
        interpreter: Path,
        former: str,
        upgrade: bool | Sequence[str],
        offline: bool,
    ) -> Resolution:
        """See :meth:`scalems.env.engine.Engine.resolve`; the result is universal."""
        with scratch("lock") as folder:
            (folder / "requirements.in").write_text("\n".join(requirements) + "\n")
            (folder / "constraints.txt").write_text("\n".join(constraints) + "\n")
            output = folder / "lock.txt"
            output.write_text(former)
            argv = ["pip", "compile", "--universal", "--generate-hashes", "--no-header"]
            argv += ["--python-version", lowest(python), "--python", str(interpreter)]
            argv += ["--constraints", "constraints.txt", "--output-file", "lock.txt"]
            argv += ["requirements.in"]
            argv += upgrades(upgrade)
            argv += ["--offline"] if offline else []
            try:
                self._run(argv, cwd=folder)
            except CommandFailed as error:
                cause, remedy = explain(error, doing="resolving requirements")
                raise ResolveError(cause, remedy=remedy) from error
            body = re.sub(r"(?m)^(\s+# +(?:via )?)-[rc] (\S+)$", r"\1\2", output.read_text())
        return Resolution(body=body, python=f">={lowest(python)}")

    def covers(self, body: str, tag: Tag, *, offline: bool) -> None:
        """See :meth:`scalems.env.engine.Engine.covers`."""
        with scratch("lock") as folder:
            path = folder / "lock.txt"
            path.write_text(body)
            argv = ["pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
            argv += ["--target", str(folder / "target"), "--requirements", str(path)]
            argv += ["--python-version", tag.python, "--python-platform", f"{tag.cpu}-{tag.libc}"]
            argv += ["--offline"] if offline else []
            try:
                self._run(argv)
            except CommandFailed as error:
                cause, remedy = explain(error, doing=f"looking for the files for {tag}")
                raise ResolveError(cause, remedy=remedy) from error

    def create(self, venv: Path, *, interpreter: Path, holding: int) -> None:
        """See :meth:`scalems.env.engine.Engine.create`."""
        try:
            self._run(
                ["venv", "--no-project", "--python", str(interpreter), str(venv)], holding=holding
            )
        except CommandFailed as error:
            cause, remedy = explain(error, doing=f"making {venv}")
            raise InstallError(cause, remedy=remedy) from error

    def install(
        self,
        venv: Path,
        requirements: Path,
        *,
        wheels: Sequence[Path],
        editables: Sequence[Path],
        offline: bool,
        holding: int,
        on_line: Callable[[str], None] | None,
        afresh: Sequence[str] = (),
        wheelhouse: Path | None = None,
    ) -> None:
        """See :meth:`scalems.env.engine.Engine.install`."""
        # Never hard links: an edit in place in any other venv would be one in this. Where the
        # file system can share blocks, a copy costs nothing either.
        target = ["--python", str(venv / "bin" / "python"), "--link-mode", "copy"]
        target += ["--offline"] if offline or wheelhouse else []
        target += ["--no-cache"] if afresh or wheelhouse else []
        if wheelhouse:
            target += ["--no-config", "--no-index", "--find-links", str(wheelhouse)]
        target += [word for name in afresh for word in ("--reinstall-package", name)]
        sync = ["pip", "sync", "--require-hashes", "--allow-empty-requirements", *target]
        links = [word for path in editables for word in ("--editable", str(path))]
        try:
            with scratch("install") as folder:
                own = folder / "own.txt"
                own.write_text("".join(map(_pinned, wheels)))
                self._run([*sync, str(requirements), str(own)], holding=holding, on_line=on_line)
            if links:
                self._run(["pip", "install", "--no-deps", *target, *links], holding=holding)
            (venv / ".lock").unlink(missing_ok=True)  # uv's own, which all may write
        except CommandFailed as error:
            cause, remedy = explain(error, doing=f"installing into {venv}")
            raise InstallError(cause, remedy=remedy) from error

    def wheel(
        self,
        source: Path,
        into: Path,
        *,
        interpreter: Path,
        env: Mapping[str, str],
        offline: bool,
        holding: int,
        on_line: Callable[[str], None] | None,
        needs: Needs | None = None,
    ) -> None:
        """See :meth:`scalems.env.engine.Engine.wheel`."""
        argv = ["build", "--wheel", "--out-dir", str(into), "--python", str(interpreter)]
        argv += ["--offline"] if offline or needs else []
        try:
            with scratch("wheel") as folder:
                if needs:
                    pins = folder / "needs.txt"
                    pins.write_text(needs.pins)
                    argv += ["--no-config", "--no-cache", "--no-index", "--require-hashes"]
                    argv += ["--find-links", str(needs.folder), "--build-constraints", str(pins)]
                self._run([*argv, str(source)], env=env, holding=holding, on_line=on_line)
        except CommandFailed as error:
            cause, remedy = explain(error, doing=f"building {source.name}")
            raise InstallError(cause, remedy=remedy) from error

    def _run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        holding: int | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        # Away from the user's folder, whose pyproject.toml or uv.toml is not about these venvs.
        words = [str(self._binary), *argv, "--no-progress"]
        return run(words, env=env, cwd=cwd or Path("/"), holding=holding, on_line=on_line)


def _pinned(wheel: Path) -> str:
    """Return a line of a requirements file that a wheel is installed by, and no other one."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{wheel.name.partition('-')[0]} @ {wheel.as_uri()} --hash=sha256:{digest}\n"


def lowest(python: str) -> str:
    """Return the lowest Python minor version in a range."""
    limits = SpecifierSet(python)
    for minor in range(10, 30):
        if any(limits.contains(f"3.{minor}.{micro}") for micro in (0, 1, 99)):
            return f"3.{minor}"
    return "3.10"
