"""Packs what a report about a failed run needs: logs, versions, definitions, manifests."""

from __future__ import annotations

import io
import json
import platform
import tarfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from scalems import probe
from scalems.env import layout, state
from scalems.env.layout import MANIFEST, Layout
from scalems.errors import ScalemsError, UsageError
from scalems.host.address import Host
from scalems.radical import runs, scrub

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = 1_000_000  # bytes taken of a file: the last ones
_ALL = 50_000_000  # bytes taken of all files
_TEXT = (
    *("log", "out", "err", "json", "cfg", "sh", "env", "prof", "txt", "toml", "launch", "exec"),
    *("sl", "py", "sbatch", "job"),
)
_ENVIRONMENT = ("env",)  # folders of RP with dumps of the environment
_LEFT_OUT = {"data"}  # arguments and results of calls: the user's own

_README = """\
What scalems packed for a report, {time}.

run/          logs of the run, of RADICAL-Pilot and of its pilot, from the host where they ran
client.json   versions in the client's environment
definitions/  RADICAL-Pilot's resource definitions of the user
project/      resource configs, env specs and locks
manifests/    what the environments were verified to be
state/        what was synced

Passwords, tokens and keys were taken out as far as they can be told, and of environment
variables the values of all but well-known ones. Arguments and results of calls are not in it.
Look through it before you send it: `tar -xzf FILE`.
"""


def newest() -> Path:
    """Return the folder of the last run on RADICAL-Pilot.

    :raises UsageError: there is none.
    """
    folders = sorted(runs.root().glob("scalems.*"))
    if not folders:
        raise UsageError(
            f"there are no logs: {runs.root()} has no run",
            remedy="run a workflow with `python -m scalems.radical` first",
        )
    return folders[-1]


def pack(folder: Path, target: Path | None = None) -> Path:
    """Pack a run's logs, and what else tells why it went as it did.

    :param folder: of the run.
    :param target: the file to write, by default one of the run's name in this folder.
    :return: the file.
    :raises UsageError: it is there already, or cannot be written.
    """
    target = target or Path(f"{folder.name}.tar.gz")
    if target.exists():
        raise UsageError(
            f"{target} is there already", remedy="name another file, or remove this one"
        )
    try:
        with tarfile.open(target, "x:gz") as archive:
            size = 0
            for name, content in _parts(folder):
                data = content.encode("utf-8", "replace")
                size += len(data)
                if size > _ALL:
                    break
                info = tarfile.TarInfo(f"{folder.name}/{name}")
                info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
                archive.addfile(info, io.BytesIO(data))
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error
    target.chmod(0o600)
    return target


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files of a bundle: what says most comes first."""
    yield "README.txt", _README.format(time=time.strftime("%Y-%m-%d %H:%M:%S %z"))
    yield "client.json", scrub.text(json.dumps(_client(), indent=1))
    if (folder / runs.HOST).is_file():
        yield from _there(folder)
    else:
        yield from logs(folder)
    place = layout.default()
    yield from _files(place.root / "resources", "state")
    yield from _files(place.root / "adopted", "state/adopted")
    yield from _manifests(place)
    for label in state.labels(place):
        synced = state.read(place, label)
        if synced is None:
            continue
        for env in synced.envs:
            yield from _file(env.spec, f"project/envs/{env.spec.name}")
            lock = env.spec.with_name(f"{env.spec.stem}.lock.txt")
            yield from _file(lock, f"project/envs/{lock.name}")
        for config in sorted((synced.project / "resource-configs").glob("*.toml")):
            yield from _file(config, f"project/resource-configs/{config.name}")


def there(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is of a run on this machine, whose client is on another: its builds' manifests,
    its logs, and what RP is told here, without secrets.
    """
    yield from _manifests(layout.default())
    yield from logs(folder)


def _manifests(place: Layout) -> Iterator[tuple[str, str]]:
    """Yield the manifests of the builds on this machine that are in use, by resource."""
    for label in state.labels(place):
        synced = state.read(place, label)
        if synced is None or synced.host is not None:
            continue
        for env in synced.builds:
            yield from _file(env.folder / MANIFEST, f"manifests/{label}.{env.name}.json")


def logs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the logs of a run on this machine, and what RP is told here, without secrets."""
    yield from _files(folder, "run")
    yield from _files(Path.home() / ".radical", "definitions")


def _there(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the logs of a run on another host, and what RP is told there; or why they are not."""
    from scalems.radical.elsewhere import Elsewhere

    try:
        host = Host(**json.loads((folder / runs.HOST).read_text(encoding="utf-8")))
        with Elsewhere(host) as there:
            yield from there.logs(folder.name)
    except (ScalemsError, OSError, ValueError, TypeError) as error:
        yield "run/NOT-REACHED.txt", f"The logs on the host are not here: {error}\n"


def _client() -> dict[str, object]:
    described = probe.describe()
    return {
        "python": described["python"],
        "interpreter": described["interpreter"],
        "prefix": described["prefix"],
        "platform": platform.platform(),
        "host": described["host"],
        "versions": dict(sorted((d.metadata["Name"], d.version) for d in distributions())),
    }


def _files(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    # The newest last: what is cut off then is what RP does at every start.
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(paths, key=lambda path: (path.suffix == ".prof", path)):
        inner = path.relative_to(folder)
        if not _LEFT_OUT.intersection(inner.parts) and path.suffix[1:] in _TEXT:
            yield from _file(path, f"{name}/{inner}")


def _file(path: Path, name: str) -> Iterator[tuple[str, str]]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _FILE))
            content = file.read().decode("utf-8", "replace")
    except OSError:
        return
    dumped = path.suffix == ".env" or path.parent.name in _ENVIRONMENT
    clean = scrub.environment(content) if dumped else scrub.text(content)
    yield name, f"[... only the end is here ...]\n{clean}" if size > _FILE else clean
