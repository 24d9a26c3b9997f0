"""scalems itself as a wheel: exactly the code that the client runs, however it is installed.

The wheel is written from the files of the imported package, so a checkout, an editable
install and an installed wheel all give what is running now, without a build tool or a
network. The same files give the same bytes. Format:
https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import scalems
from scalems import probe
from scalems.env.canonical import digest
from scalems.errors import EnvironmentNotReady
from scalems.host.process import mark

FAR_SIDE = ("cloudpickle", "radical-pilot")
"""The only dependencies that the far side of scalems has; the rest is the client's."""

SCRIPTS = b"""[console_scripts]
scalems = scalems.__main__:main
scalems-local = scalems.cli.backend:local
scalems-radical = scalems.cli.backend:radical
"""
"""The commands, as pyproject.toml has them."""


def source_files(root: Path | None = None) -> dict[str, bytes]:
    """Return the files of the running package, or of another one, by their path in a wheel."""
    root = root or Path(scalems.__file__).parent
    return {
        path.relative_to(root.parent).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def source_digest(root: Path | None = None, of: str | None = None) -> str:
    """Return the digest of the running package's files; no paths, no times.

    :param root: folder of another scalems.
    :param of: version of that one.
    """
    files = source_files(root)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return digest("scalems source 1", {"version": of or version(), "files": hashes})


def version() -> str:
    """Return the version of the running package.

    :raises EnvironmentNotReady: scalems is imported but not installed.
    """
    found = probe.versions(sys.path).get("scalems")
    if found is None:
        raise EnvironmentNotReady(
            "scalems is imported from a folder but is not installed in this Python",
            remedy="pip install -e FOLDER_OF_THE_CHECKOUT",
        )
    return found


def pack(folder: Path, *, client: bool = False) -> Path:
    """Write the wheel into a folder named after its digest, unless it is there; return its path.

    :param client: for another client, with all that scalems depends on in its metadata.
    :raises OSError: it cannot be written.
    """
    files = source_files()
    info = f"scalems-{version()}.dist-info"
    files[f"{info}/METADATA"] = _metadata(client=client)
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: scalems\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = SCRIPTS
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    data = archive(files)
    place = folder / hashlib.sha256(data).hexdigest()[:16]
    path = place / f"scalems-{version()}-py3-none-any.whl"
    if not path.is_file() or path.read_bytes() != data:
        place.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{mark()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
    return path


def dependencies() -> list[str]:
    """Return the requirements of the client, as its metadata has them, without extras."""
    import importlib.metadata

    return [one for one in importlib.metadata.requires("scalems") or () if "extra ==" not in one]


def _metadata(*, client: bool) -> bytes:
    """Return the client's metadata, for the far side with what it does not need left out.

    So `pip check` is content in a Task venv, which has neither rich nor virtualenv.
    """
    import importlib.metadata
    from email.message import Message

    own = importlib.metadata.metadata("scalems")
    message = Message()
    for key in ("Metadata-Version", "Name", "Version", "Summary", "Requires-Python"):
        if key in own:
            message[key] = own[key]
    for name in dependencies() if client else FAR_SIDE:
        message["Requires-Dist"] = name
    return message.as_bytes()


def _record(files: Mapping[str, bytes], own_path: str) -> bytes:
    import base64

    lines = []
    for name, data in sorted(files.items()):
        hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={hashed},{len(data)}\n")
    return "".join([*lines, f"{own_path},,\n"]).encode()


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of files; the same files give the same bytes."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
