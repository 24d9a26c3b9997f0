"""The format of a bundle, and how a machine without scalems gets scalems from one.

A bundle is a zip file (https://docs.python.org/3/library/zipapp.html) with this module as its
``__main__.py``: ``python3 FILE`` installs scalems from it, with nothing but Python and no
network. So this module is of the standard library only, and is never imported by what it
does not trust. All entries are stored as they are and have one date, so the same content
gives the same bytes. ``bundle.json`` has the size and SHA-256 of each, and a digest over itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FORMAT = 1
HEAD = "bundle.json"
_PATH = re.compile(r"[A-Za-z0-9_][\w.+!-]*(/[A-Za-z0-9_][\w.+!-]*)*", re.ASCII)
_BLOCK = 1 << 20

Tell = Callable[[int, int], None]
"""Is told how many bytes are done, and of how many."""


class Damaged(ValueError):
    """A bundle is not one, or is not as it was made; the text says where."""


@dataclass(frozen=True)
class Part:
    """One file of a bundle.

    :param path: below the bundle, with ``/``.
    :param omitted: it is not in this bundle: the target has it already.
    """

    path: str
    size: int
    sha256: str
    omitted: bool = False

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte is as it was made.

    :param about: what it is for: ``resource``, ``targets``, ``scalems`` and more.
    """

    file: Path
    about: Mapping[str, Any]
    parts: tuple[Part, ...]

    @property
    def is_delta(self) -> bool:
        """Whether it leaves out what the target has."""
        return any(part.omitted for part in self.parts)

    def below(self, folder: str) -> Iterator[Part]:
        """Yield the parts in a folder of the bundle."""
        return (part for part in self.parts if part.path.startswith(f"{folder}/"))

    def text(self, path: str) -> str:
        """Return a part that is text.

        :raises Damaged: it has changed since the bundle was read, or is not there.
        """
        for part in self.parts:
            if part.path == path:
                with zipfile.ZipFile(self.file) as archive:
                    return b"".join(_blocks(archive, part)).decode()
        raise Damaged(f"it has no {path}")

    def extract(self, part: Part, target: Path) -> None:
        """Write a part to a file, which is complete and right or not there.

        :raises Damaged: it has changed since the bundle was read.
        :raises OSError: the file cannot be written.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.uname().nodename}-{os.getpid()}.tmp")
        try:
            with zipfile.ZipFile(self.file) as archive, temporary.open("wb") as stream:
                for block in _blocks(archive, part):
                    stream.write(block)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def python(version: str) -> str:
    """Return the path of the Python that a bundle brings, an archive of it."""
    return f"python/cpython-{version}.tar.gz"


_SCRIPT = """#!/bin/sh
# A bundle of scalems that brings its Python {version}: sh FILE --help
set -eu
umask 077
root=${{SCALEMS_HOME:-${{XDG_DATA_HOME:-$HOME/.local/share}}/scalems}}
python=$root/pythons/cpython-{version}-{short}
if [ ! -x "$python/bin/python{minor}" ]; then
  mkdir -p "$root/pythons"
  new=$python.$$
  trap 'rm -rf "$new"' EXIT
  trap 'exit 130' INT TERM HUP
  mkdir "$new"
  echo "unpacking Python {version} into $root/pythons" >&2
  tail -c +{begin:012d} "$0" | head -c {size} > "$new/python.tar.gz"
  if ! echo "{sha256}  $new/python.tar.gz" | sha256sum -c - > /dev/null; then
    echo "error: $0 is truncated or was changed; nothing of it was used" >&2
    exit 1
  fi
  tar -xzf "$new/python.tar.gz" -C "$new"
  mv "$new/{folder}" "$python" 2> /dev/null || [ -x "$python/bin/python{minor}" ]
  rm -rf "$new"
  trap - EXIT INT TERM HUP
fi
exec "$python/bin/python{minor}" -I "$0" "$@"
"""


def script(part: Part) -> bytes:
    """Return what a bundle begins with that brings a Python: a shell script that unpacks it.

    The rest of the file is the zip archive, in which the Python is the first entry.
    """
    version = part.name.removeprefix("cpython-").removesuffix(".tar.gz")
    values = {
        "version": version,
        "minor": ".".join(version.split(".")[:2]),
        "short": part.sha256[:16],
        "size": part.size,
        "sha256": part.sha256,
        "folder": "python",
    }
    # The number has as many digits whatever it is; zip's header of a file is of 30 bytes.
    length = len(_SCRIPT.format(begin=0, **values))
    return _SCRIPT.format(begin=length + 30 + len(part.path) + 1, **values).encode()


def _brought(parts: Iterable[Part]) -> Part | None:
    """Return the Python that a bundle brings."""
    found = [one for one in parts if one.path.startswith("python/") and not one.omitted]
    return found[0] if found else None


def brings_python(parts: Iterable[Part]) -> bool:
    """Whether a bundle of these parts can be run without a Python."""
    return _brought(parts) is not None


def client(target: str) -> str:
    """Return the path of what scalems itself needs on a target, in pip's format."""
    return f"client/{target}.txt"


def head(about: Mapping[str, Any], parts: tuple[Part, ...]) -> bytes:
    """Return the text of ``bundle.json``; no paths of this machine, no clock."""
    listed = [
        {"path": part.path, "size": part.size, "sha256": part.sha256}
        | ({"omitted": True} if part.omitted else {})
        for part in sorted(parts, key=lambda part: part.path)
    ]
    data = {"format": FORMAT, **about, "parts": listed}
    return (json.dumps({**data, "digest": _digest(data)}, indent=1) + "\n").encode()


def write(
    stream: IO[bytes], about: Mapping[str, Any], files: Mapping[Part, Path | bytes], tell: Tell
) -> None:
    """Write a bundle.

    :param files: where the content of each part is; those that are omitted have none.
    """
    done, total = 0, sum(part.size for part in files if not part.omitted)
    brought = _brought(files)
    if brought:
        stream.write(script(brought))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        if not brought:
            archive.writestr(_entry(HEAD), head(about, tuple(files)))
        for part in sorted(files, key=lambda part: (part is not brought, part.path)):
            if part.omitted:
                continue
            content = files[part]
            entry = _entry(part.path)
            entry.file_size = part.size
            with archive.open(entry, "w") as target:
                for block in [content] if isinstance(content, bytes) else _read(content):
                    target.write(block)
                    done += len(block)
                    tell(done, total)
        if brought:
            archive.writestr(_entry(HEAD), head(about, tuple(files)))


def read(file: Path, tell: Tell = lambda done, total: None) -> Bundle:
    """Read a bundle and verify every byte of it; nothing is unpacked and nothing is run.

    :raises Damaged: it is truncated or changed, or has entries that no bundle has; all that is
        wrong is named.
    :raises OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            about, parts = _head(archive)
            faults = list(_names(archive, parts))
            faults += _begins(file, archive, parts)
            done, total = 0, sum(part.size for part in parts if not part.omitted)
            for part in parts if not faults else ():
                try:
                    for block in _blocks(archive, part) if not part.omitted else ():
                        done += len(block)
                        tell(done, total)
                except Damaged as error:
                    faults.append(str(error))
    except zipfile.BadZipFile as error:
        raise Damaged(f"{file} is truncated, or is not a bundle ({error})") from None
    except Damaged as error:
        raise Damaged(f"{file} is damaged, or is not a bundle: {error}") from None
    if faults:
        raise Damaged(f"{file} is not as it was made:\n" + "\n".join(f"  {one}" for one in faults))
    return Bundle(file, about, parts)


def _head(archive: zipfile.ZipFile) -> tuple[dict[str, Any], tuple[Part, ...]]:
    try:
        data = json.loads(archive.read(HEAD))
        claimed = data.pop("digest")
        if claimed != _digest(data):
            raise Damaged(f"{HEAD} was changed")
        if data.pop("format") != FORMAT:
            raise Damaged(f"{HEAD} is of another version of scalems")
        parts = tuple(
            Part(str(one["path"]), int(one["size"]), str(one["sha256"]), bool(one.get("omitted")))
            for one in data.pop("parts")
        )
        if not all(re.fullmatch("[0-9a-f]{64}", part.sha256) for part in parts):
            raise Damaged(f"{HEAD} has a file without a SHA-256")
    except Damaged:
        raise
    except (*_UNREADABLE, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{HEAD} cannot be read ({error})") from None
    return data, parts


def _names(archive: zipfile.ZipFile, parts: tuple[Part, ...]) -> Iterator[str]:
    """Yield what is wrong with the names in an archive: none may be missing, twice or elsewhere."""
    there = [entry.filename for entry in archive.infolist()]
    listed = [part.path for part in parts]
    for name in sorted({name for name in there + listed if not _PATH.fullmatch(name)}):
        yield f"{name!r}: such a name could lead out of the folder that it is unpacked in"
    for name in sorted({name for many in (there, listed) for name in many if many.count(name) > 1}):
        yield f"{name}: it is there twice"
    expected = {part.path for part in parts if not part.omitted} | {HEAD}
    for name in sorted(expected - set(there)):
        yield f"{name}: it is missing"
    for name in sorted(set(there) - expected):
        yield f"{name}: it does not belong to the bundle"


def _begins(file: Path, archive: zipfile.ZipFile, parts: tuple[Part, ...]) -> list[str]:
    """Return what is wrong with what is before the archive: nothing may be but the script."""
    brought = _brought(parts)
    wanted = script(brought) if brought else b""
    first = min((one.header_offset for one in archive.infolist()), default=0)
    with file.open("rb") as stream:
        if first == len(wanted) and stream.read(first) == wanted:
            return []
    return ["its beginning: it was changed"]


_UNREADABLE = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
"""What reading an entry of a damaged zip file may raise."""


def _blocks(archive: zipfile.ZipFile, part: Part) -> Iterator[bytes]:
    """Yield the bytes of a part.

    :raises Damaged: at its end at the latest, if they are not those that it was made of.
    """
    hashed, size = hashlib.sha256(), 0
    try:
        with archive.open(part.path) as stream:
            while block := stream.read(_BLOCK):
                size += len(block)
                if size > part.size:
                    break
                hashed.update(block)
                yield block
    except (*_UNREADABLE, KeyError, zlib.error) as error:
        raise Damaged(f"{part.path}: it was changed ({error})") from None
    if size != part.size or hashed.hexdigest() != part.sha256:
        raise Damaged(f"{part.path}: it was changed (its SHA-256 is another)")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    return entry


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _digest(data: Mapping[str, Any]) -> str:
    text = json.dumps(["bundle", data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- on a machine without scalems -------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Install scalems from the bundle that this runs from."""
    file = Path(sys.argv[0]).absolute()
    parser = argparse.ArgumentParser(
        prog=f"python3 {file.name}",
        description="Install scalems from this bundle into a new venv, without a network.",
        epilog=f"then: .venv/bin/scalems env sync --bundle {file.name} --offline",
    )
    parser.add_argument(
        "--venv", type=Path, default=Path(".venv"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument(
        "--verify", action="store_true", help="say whether every byte is as it was made, and end"
    )
    options = parser.parse_args(argv)
    try:
        bundle = read(file, _progress("verifying"))
        sys.stderr.write(f"{file.name}: every byte is as it was made\n")
        if not options.verify:
            _install(bundle, options.venv.absolute())
    except (Damaged, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was installed\n")
        return 130
    if not options.verify:
        scalems = options.venv / "bin" / "scalems"
        print(f"scalems is installed. Next: {scalems} env sync --bundle {file.name} --offline")
    return 0


def _install(bundle: Bundle, venv: Path) -> None:
    python, cpu = "cp{}{}-".format(*sys.version_info), f"_{platform.machine()}"
    fitting = [one for one in bundle.about["targets"] if one.startswith(python)]
    fitting = [one for one in fitting if one.endswith(cpu)]
    brought = _brought(bundle.parts)
    if not fitting:
        names = ", ".join(bundle.about["targets"])
        hint = f"\nremedy: sh {bundle.file.name}, which brings a Python" if brought else ""
        raise Damaged(f"this Python is {python}...{cpu}, but the bundle is for {names}{hint}")
    if venv.exists():
        raise Damaged(f"{venv} is there already: remove it, or name another with --venv")
    with tempfile.TemporaryDirectory(prefix="scalems-client-") as name, _removed(venv):
        wheels = Path(name)
        tell = _progress("unpacking")
        total = sum(part.size for part in bundle.below("wheels"))
        done = 0
        for part in (*bundle.below("wheels"), *bundle.below("client")):
            _provide(bundle, part, wheels / part.name)
            done += part.size
            tell(min(done, total), total)
        sys.stderr.write(f"installing scalems {bundle.about['scalems']} into {venv}\n")
        run = [sys.executable, "-I", "-m", "venv", "--without-pip", str(venv)]
        subprocess.run(run, check=True)
        (pip,) = wheels.glob("pip-[0-9]*.whl")
        run = [str(venv / "bin" / "python"), "-I", f"{pip}/pip", "install", "--no-index"]
        run += ["--find-links", str(wheels), "--require-hashes", "--no-deps", "--no-compile"]
        run += ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-input"]
        run += ["--requirement", str(wheels / f"{fitting[0]}.txt")]
        settings = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        subprocess.run(run, check=True, env={**settings, "PIP_CONFIG_FILE": os.devnull}, cwd="/")


def _provide(bundle: Bundle, part: Part, target: Path) -> None:
    """Unpack a part, or take it from where `env sync --bundle` has kept it."""
    if not part.omitted:
        bundle.extract(part, target)
        return
    home = os.environ.get("SCALEMS_HOME")
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    root = Path(home or f"{data}/scalems").expanduser()
    kept = root / "wheelhouse" / "files" / part.sha256 / part.name
    hashed = hashlib.sha256()
    with contextlib.suppress(OSError):
        for block in _read(kept):
            hashed.update(block)
    if hashed.hexdigest() != part.sha256:
        raise Damaged(f"{part.name} is neither in this bundle, which is a delta, nor in {root}")
    shutil.copyfile(kept, target)


@contextlib.contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Take a folder away if what makes it does not come to its end."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _progress(doing: str) -> Tell:
    """Tell of bytes: in place on a terminal, else once at the end."""
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        text = f"{doing}: {done / 1e6:.1f} of {total / 1e6:.1f} MB"
        if not sys.stderr.isatty():
            if done == total:
                sys.stderr.write(f"{text}\n")
        elif done == total or time.monotonic() > last + 0.1:
            last = time.monotonic()
            sys.stderr.write(f"\r{text}" + ("\n" if done == total else ""))

    return tell


if __name__ == "__main__":
    sys.exit(main())
