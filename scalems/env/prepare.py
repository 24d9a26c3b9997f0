"""Local packages made ready: each is a wheel that was built once from given files."""

from __future__ import annotations

import contextlib
import email
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scalems.env import lock, repository, site, source, wheelhouse
from scalems.env.bundled import Bundled
from scalems.env.canonical import digest
from scalems.env.engine import Engine, InstallError, Needs
from scalems.env.guard import waiting
from scalems.env.layout import Layout
from scalems.env.lock import Lock
from scalems.env.package import Package, Prepared
from scalems.env.source import Table
from scalems.env.spec import EnvSpec
from scalems.env.target import Interpreter
from scalems.errors import EnvironmentNotReady, UsageError
from scalems.host import filelock
from scalems.host.scratch import scratch
from scalems.probe import normalize

if TYPE_CHECKING:
    from scalems.env.locking import Notify, Options


class Workshop:
    """Makes local packages ready, and keeps their wheels.

    :param folder: where new wheels go; those of ``place`` are used where they are there.
    """

    def __init__(
        self, place: Layout, folder: Path, engine: Engine, options: Options, notify: Notify
    ) -> None:
        self._place = place
        self._folder = folder
        self._engine = engine
        self._options = options
        self._notify = notify

    def prepare(self, spec: EnvSpec, interpreter: Interpreter) -> tuple[Prepared, ...]:
        """Return the local packages of an env spec, each with the wheel of its present files.

        :raises UsageError: a source is not what the spec says.
        :raises EnvironmentNotReady: a repository cannot be read.
        :raises InstallError: a wheel cannot be built.
        """
        if not spec.packages:
            return ()
        former = _former(spec)
        return tuple(self._one(spec, one, former, interpreter) for one in spec.packages)

    def _one(
        self, spec: EnvSpec, one: Package, former: Lock | None, interpreter: Interpreter
    ) -> Prepared:
        if one.bundled is not None and (prepared := self._bundled(one, one.bundled, former)):
            return prepared
        table: Table = {}
        commit = ""
        if one.path is not None:
            try:
                table = source.read(one.path, without=spec.path.parent)
            except OSError as error:
                raise UsageError(
                    f"{spec.path}: packages.{one.name}: {one.path} cannot be read: {error}"
                ) from error
            content = source.table_digest(table)
        else:
            commit = self._commit(spec, one, former)
            content = digest("commit 1", [commit, one.subdirectory])
        env = spec.build_env.get(one.name, {})
        taken = spec.site.to_dict() if spec.site else {}
        key = digest("wheel 1", [one.name, content, dict(interpreter.facts), dict(env), taken])

        def tree(folder: Path) -> Path:
            if one.path is not None:
                source.copy(one.path, table, folder / one.name)
            else:
                repository.checkout(one.git, commit, folder / one.name)
            return _inner(folder / one.name, one)

        wheel = self.make(
            one.name,
            key,
            tree,
            what=f"{one.name} from {one.reference(commit)}",
            interpreter=interpreter.path,
            env={**site.variables(spec.site), **env},
        )
        name, version, needs = metadata(wheel)
        if name != one.name:
            raise UsageError(
                f"{spec.path}: packages.{one.name}: what is there is called {name!r}",
                remedy=f"write [packages.{name}]",
            )
        return Prepared(
            package=one,
            reference=one.reference(commit),
            digest=content,
            wheel=wheel,
            version=version,
            needs=needs,
            table=table,
        )

    def _bundled(self, one: Package, brought: Bundled, former: Lock | None) -> Prepared | None:
        """Return a package as a bundle has brought it; ``None`` if the lock has another commit.

        :raises UsageError: its wheel is not here any more, or was changed.
        """
        pinned = former.packages.get(one.name) if former else None
        if one.git and (pinned is None or pinned.reference != brought.reference):
            return None
        path = self._place.wheelhouse / "files" / brought.sha256 / brought.filename
        try:
            same = wheelhouse.sha256(path) == brought.sha256
        except OSError:
            same = False
        if not same:
            raise UsageError(
                f"the wheel of {one.name!r}, which a bundle has brought, is not here any more: "
                f"{path}",
                remedy="scalems env sync --bundle FILE --offline, with that bundle",
            )
        return Prepared(
            package=one,
            reference=brought.reference,
            digest=brought.digest,
            wheel=path,
            version=brought.version,
            needs=brought.needs,
            table={},
        )

    def _commit(self, spec: EnvSpec, one: Package, former: Lock | None) -> str:
        """Return the commit of a git source: the one of the lock, unless it is to be resolved."""
        upgrade = self._options.upgrade
        upgrade = upgrade if isinstance(upgrade, bool) else one.name in map(normalize, upgrade)
        pinned = former.packages.get(one.name) if former else None
        if pinned and pinned.rev == one.rev and not upgrade:
            commit = pinned.commit
            if commit and pinned.reference == one.reference(commit):
                return commit
        if self._options.frozen:
            raise EnvironmentNotReady(
                f"the lock of {spec.name!r} is not current: it has no commit of {one.name!r}",
                remedy=f"run `scalems env lock {spec.name}`, or sync without --frozen",
            )
        if self._options.offline and not one.git.startswith("file:"):
            raise EnvironmentNotReady(
                f"{one.git} cannot be asked offline what {one.rev!r} is",
                remedy="run once without --offline where there is a network",
            )
        self._notify(f"{spec.name}: asking {one.git} what {one.rev} is", detail=True)
        return repository.commit_of(one.git, one.rev)

    @staticmethod
    def folder(package: str, key: str) -> str:
        """Return the name of the folder that a wheel is kept in."""
        return f"{package}-{key[:16]}"

    def make(
        self,
        package: str,
        key: str,
        tree: Callable[[Path], Path],
        *,
        what: str,
        interpreter: Path,
        env: Mapping[str, str],
        remedy: str | None = None,
        needs: Needs | None = None,
    ) -> Path:
        """Return a wheel, which is built unless it was.

        :param key: digest of all that decides it.
        :param tree: puts the source into a folder; returns where it is.
        :param what: what is built from what, for people.
        :param env: variables that its build gets.
        :param remedy: what to do if it cannot be built.
        :param needs: see :meth:`scalems.env.engine.Engine.wheel`.
        :raises InstallError: it cannot be built.
        """
        name = self.folder(package, key)
        if found := _in(self._place.packages / name):
            return found
        with filelock.hold(
            self._folder / f".{name}.lock",
            on_wait=waiting(self._notify, f"another sync is building {package}"),
        ) as holding:
            target = self._folder / name
            if found := _in(target):
                return found
            self._notify(f"building {what}")
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=self._folder) as temporary:
                out = Path(temporary, "out")
                try:
                    self._engine.wheel(
                        tree(Path(temporary)),
                        out,
                        interpreter=interpreter,
                        env=env,
                        offline=self._options.offline,
                        holding=holding,
                        on_line=lambda line: self._notify(
                            f"{package}: {line.strip()}", detail=True
                        ),
                        needs=needs,
                    )
                except InstallError as error:
                    raise InstallError(error.cause, remedy=error.remedy or remedy) from error
                if _in(out) is None:
                    raise InstallError(f"building {what} gave no wheel")
                (out / ".gitignore").unlink(missing_ok=True)  # by uv
                shutil.rmtree(target, ignore_errors=True)
                out.replace(target)
            return next(target.glob("*.whl"))


@contextlib.contextmanager
def workshop(
    place: Layout, engine: Engine, options: Options, *, notify: Notify
) -> Iterator[Workshop]:
    """Yield what makes local packages ready; a dry run leaves no wheel behind."""
    if options.dry_run:
        with scratch("packages") as folder:
            yield Workshop(place, Path(folder), engine, options, notify)
    else:
        yield Workshop(place, place.packages, engine, options, notify)


def metadata(wheel: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return the normalized name, the version and the requirements of a wheel.

    Format: https://packaging.python.org/en/latest/specifications/core-metadata/.

    :raises InstallError: it is not a wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            path = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            message = email.message_from_bytes(archive.read(path))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise InstallError(f"{wheel} is not a wheel: {error!r}") from error
    needs = [f"python {text}" for text in message.get_all("Requires-Python", [])]
    needs += sorted(message.get_all("Requires-Dist", []))
    return normalize(message["Name"]), str(message["Version"]), tuple(needs)


def _former(spec: EnvSpec) -> Lock | None:
    try:
        return lock.load(spec.lock_path)
    except FileNotFoundError:
        return None


def _in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _inner(tree: Path, one: Package) -> Path:
    folder = tree / one.subdirectory
    if not any((folder / name).is_file() for name in ("pyproject.toml", "setup.py")):
        raise UsageError(
            f"there is no Python project in {one.git or one.path}"
            + (f" below {one.subdirectory}" if one.subdirectory else ""),
            remedy="name its folder in the repository with `subdirectory`",
        )
    return folder
