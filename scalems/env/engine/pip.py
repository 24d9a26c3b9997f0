"""The pip engine: virtualenv makes the venv, pip-tools resolves and installs.

https://virtualenv.pypa.io/ and https://pip-tools.readthedocs.io/.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

# pip must not ask, nor look for a newer pip, nor be steered by a user's `require-virtualenv`.
_SETTINGS = {
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_REQUIRE_VIRTUALENV": "0",
}


class PipEngine:
    """Resolves for the interpreter at hand only: pip has no universal resolution."""

    name = "pip"
    unpacked_cache = False

    def version(self) -> str:
        """Return the tools' names and versions."""
        tools = ("virtualenv", "pip-tools", "pip")
        return ", ".join(f"{tool} {importlib.metadata.version(tool)}" for tool in tools)

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
        """See :meth:`scalems.env.engine.Engine.resolve`."""
        if offline:
            raise ResolveError("pip-tools cannot resolve offline", remedy="use --engine uv")
        with scratch("lock") as folder:
            (folder / "requirements.in").write_text("\n".join(requirements) + "\n")
            (folder / "constraints.txt").write_text("\n".join(constraints) + "\n")
            (folder / "lock.txt").write_text(former)
            builder = folder / "builder"
            try:
                # pip-compile resolves for the Python that it runs with: give it the target's.
                self._virtualenv(builder, interpreter)
                self._pip_install_tools(builder)
                argv = ["compile", "--generate-hashes", "--no-header", "--strip-extras"]
                argv += ["--allow-unsafe", "--no-emit-index-url", "--no-emit-trusted-host"]
                argv += ["--no-emit-find-links", "--quiet", "--constraint", "constraints.txt"]
                argv += ["--output-file", "lock.txt", "requirements.in"]
                argv += upgrades(upgrade)
                run(
                    [builder / "bin" / "python", "-m", "piptools", *argv],
                    env=_first_on_path(builder),
                    cwd=folder,
                )
            except CommandFailed as error:
                cause, remedy = explain(error, doing="resolving requirements")
                raise ResolveError(cause, remedy=remedy) from error
            minor = _minor(interpreter)
            return Resolution(body=(folder / "lock.txt").read_text(), python=f"=={minor}.*")

    def covers(self, body: str, tag: Tag, *, offline: bool) -> None:
        """See :meth:`scalems.env.engine.Engine.covers`."""
        raise ResolveError(
            f"pip cannot tell whether a lock serves {tag}: it resolves for the Python at hand only",
            remedy="use --engine uv (pip install uv), or remove the target",
        )

    def create(self, venv: Path, *, interpreter: Path, holding: int) -> None:
        """See :meth:`scalems.env.engine.Engine.create`."""
        try:
            # pip-sync runs the venv's own pip; `install` takes it out again.
            self._virtualenv(venv, interpreter, holding=holding)
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
        """See :meth:`scalems.env.engine.Engine.install`; pip unpacks each archive anew."""
        python = venv / "bin" / "python"
        env = _first_on_path(venv)
        if offline:
            env["PIP_NO_INDEX"] = "1"
        if wheelhouse:
            env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse)}
            env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
        pip_args = "--require-hashes --no-deps --no-compile"
        try:
            self._module(
                [
                    *("piptools", "sync", "--python-executable", str(python)),
                    *("--pip-args", pip_args, str(requirements)),
                ],
                env=env,
                holding=holding,
                on_line=on_line,
            )
            pip = [str(python), "-I", "-m", "pip"]
            if wheels:
                run(
                    [*pip, "install", "--no-deps", "--no-compile", "--no-index", *map(str, wheels)],
                    env=env,
                    holding=holding,
                )
            if editables:
                links = [word for path in editables for word in ("--editable", str(path))]
                run(
                    [*pip, "install", "--no-deps", "--no-compile", *links],
                    env=env,
                    holding=holding,
                )
            # What remains is the lock and scalems, whichever engine installed it.
            run(
                [*pip, "uninstall", "--yes", "--quiet", "pip", "setuptools", "wheel"],
                env=env,
                holding=holding,
            )
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
        argv = ["pip", "--python", str(interpreter), "wheel", "--no-deps", "--wheel-dir", str(into)]
        settings = {**env, **({"PIP_NO_INDEX": "1"} if offline or needs else {})}
        try:
            with scratch("wheel") as folder:
                if needs:
                    pins = folder / "needs.txt"
                    # pip takes no hashes in constraints; the folder has been verified.
                    pins.write_text(re.sub(r" \\\n +--hash=\S+", "", needs.pins))
                    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
                    settings |= {"PIP_FIND_LINKS": str(needs.folder)}
                    # The first by pip 25.3 and later.
                    settings |= {"PIP_BUILD_CONSTRAINT": str(pins), "PIP_CONSTRAINT": str(pins)}
                self._module([*argv, str(source)], env=settings, holding=holding, on_line=on_line)
        except CommandFailed as error:
            cause, remedy = explain(error, doing=f"building {source.name}")
            raise InstallError(cause, remedy=remedy) from error

    def _virtualenv(self, venv: Path, interpreter: Path, *, holding: int | None = None) -> None:
        argv = ["virtualenv", "--no-download", "--quiet", "--python", str(interpreter), str(venv)]
        self._module(argv, holding=holding)

    def _pip_install_tools(self, builder: Path) -> None:
        pinned = f"pip-tools=={importlib.metadata.version('pip-tools')}"
        argv = ["-I", "-m", "pip", "install", "--quiet", pinned]
        run([str(builder / "bin" / "python"), *argv], env=_first_on_path(builder))

    def _module(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        holding: int | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a module of the client's environment, deaf to its PYTHONPATH and user site."""
        words = [sys.executable, "-I", "-m", *argv]
        settings = {**_SETTINGS, **(env or {})}
        return run(words, env=settings, cwd=Path("/"), holding=holding, on_line=on_line)


def _first_on_path(venv: Path) -> dict[str, str]:
    """Put a venv's own pip first on PATH.

    radical.gtod's setup runs the first `pip` that it finds; one of another version would
    remove the cache folder that this pip is about to write to.
    """
    return {**_SETTINGS, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}


def _minor(interpreter: Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return run([interpreter, "-I", "-c", code]).stdout.strip()
