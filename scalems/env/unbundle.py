"""`env sync --bundle`: from a bundle to a project and a wheelhouse, with no network."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scalems import probe
from scalems.env import bundlefile, layout, tag, target, wheelhouse
from scalems.env.bundle import BundleError
from scalems.env.bundlefile import Bundle, Damaged
from scalems.env.layout import Layout
from scalems.env.locking import Notify
from scalems.env.wheelhouse import Sdist, Wheel, Wheelhouse
from scalems.errors import UsageError
from scalems.host.files import write_atomic
from scalems.resource.config import NAME, Project

_PROJECT = re.compile(
    r"project/((envs|resource-configs)/[\w-]+(\.toml|\.lock\.txt)|envs/bundled\.json)", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What a bundle brought.

    :param house: its wheels, in a folder that ends with :func:`opened`.
    :param written: the project's files that are new or have changed.
    """

    label: str
    project: Project
    house: Wheelhouse
    written: tuple[Path, ...]


@contextmanager
def opened(
    file: Path, folder: Path, *, replace: bool = False, dry_run: bool = False, notify: Notify
) -> Iterator[Unpacked]:
    """Verify a bundle, then put its project and its wheels in place.

    :param folder: where the specs, locks and resource configs go.
    :param replace: overwrite files there that somebody has edited.
    :param dry_run: say what would be written, and write no file of the project.
    :raises BundleError: it is damaged, or a delta whose other files are not here; nothing was
        written.
    :raises UsageError: files of the project were edited, and ``replace`` is not set.
    """
    place = layout.default()
    bundle = _verified(file, notify)
    label = _label(bundle)
    _for_this_python(bundle)
    _same_scalems(bundle, notify)
    changed = _changed(bundle, folder, place, label, replace=replace)
    kept = _packages(bundle, place, notify)
    here = place.root / "bundles" / f"{label}-{wheelhouse.sha256(file)[:16]}"
    try:
        for one in kept.files:
            wheelhouse.place(one.path, here / one.filename)
        if not dry_run:
            _write_project(bundle, folder, place, label)
        house = dataclasses.replace(kept, folder=here)
        yield Unpacked(label=label, project=Project(folder), house=house, written=tuple(changed))
    finally:
        shutil.rmtree(here, ignore_errors=True)


def _verified(file: Path, notify: Notify) -> Bundle:
    notify(f"verifying {file}")

    def tell(done: int, total: int) -> None:
        notify(f"verified {done / 1e6:.1f} of {total / 1e6:.1f} MB", detail=True)

    try:
        return bundlefile.read(file, tell)
    except Damaged as error:
        raise BundleError(
            str(error),
            remedy="copy it again and compare `sha256sum` of both; nothing of it was used",
        ) from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error


def _label(bundle: Bundle) -> str:
    """Return the resource of a bundle, if all that it would write has its place in a project.

    :raises BundleError: it is not one of ours, whatever its digests say.
    """
    label = str(bundle.about.get("resource"))
    domain, _, name = label.partition(".")
    for part in bundle.below("project"):
        if not _PROJECT.fullmatch(part.path):
            raise BundleError(f"{bundle.file} is none of scalems: it has a file {part.path}")
    if not (NAME.fullmatch(domain) and NAME.fullmatch(name)):
        raise BundleError(f"{bundle.file} is none of scalems: it is for {label!r}")
    return label


def _for_this_python(bundle: Bundle) -> None:
    """Refuse a bundle that is for other machines than this, or another Python.

    :raises BundleError: it is; nothing was written.
    """
    here = tag.of(probe.interpreter())
    targets = [str(one) for one in bundle.about.get("targets", ())]
    if not any(one.startswith(f"{here.abi}-") and one.endswith(f"_{here.cpu}") for one in targets):
        raise BundleError(
            f"{bundle.file} is for {', '.join(targets) or 'nothing'}, "
            f"and this scalems runs on {here}",
            remedy=f"make it with --target {here}, or install the scalems that it brings with such "
            f"a Python: pythonX.Y {bundle.file.name} --venv FOLDER",
        )


def _same_scalems(bundle: Bundle, notify: Notify) -> None:
    """Tell if the running scalems is not the one of the bundle; environments get the running."""
    if bundle.about.get("scalems_digest") != target.client().scalems_digest:
        notify(
            f"the bundle has another scalems than this: {bundle.about.get('scalems')}; "
            f"`python3 {bundle.file} --venv FOLDER` installs that one"
        )


def _packages(bundle: Bundle, place: Layout, notify: Notify) -> Wheelhouse:
    """Keep the packages of a bundle; return them and, of a delta, those that are here already."""
    text = bundle.text(f"wheels/{wheelhouse.INDEX}")
    listed = {part.sha256: part for part in bundle.below("wheels")}
    files = place.wheelhouse / "files"
    missing: list[str] = []
    total = sum(part.size for part in listed.values())
    done = 0

    def keep(one: Wheel | Sdist) -> Path:
        nonlocal done
        part = listed.get(one.sha256)
        path = files / one.sha256 / one.filename
        if not wheelhouse.intact(path, one):
            if part is None or part.omitted:
                missing.append(one.filename)
                return path
            bundle.extract(part, path)
        done += one.size
        notify(f"unpacked {done / 1e6:.1f} of {total / 1e6:.1f} MB", detail=True)
        return path

    house = wheelhouse.parse(text, folder=files)
    wheels = tuple(dataclasses.replace(one, path=keep(one)) for one in house.wheels)
    sources = tuple(dataclasses.replace(one, path=keep(one)) for one in house.sources)
    if missing:
        raise BundleError(
            f"{bundle.file} is a delta, and what it leaves out is not here: {', '.join(missing)}",
            remedy="sync the former bundle first, or make this one from what is here "
            "(`scalems env bundle --have > have.json`, then --since have.json there)",
        )
    return Wheelhouse(wheels, sources=sources)


def _changed(
    bundle: Bundle, folder: Path, place: Layout, label: str, *, replace: bool
) -> list[Path]:
    """Return the files of the project that the bundle would change.

    :raises UsageError: somebody has edited one since the last bundle.
    """
    former = _former(place, label)
    changed, edited = [], []
    for part in bundle.below("project"):
        path = folder / part.path.removeprefix("project/")
        now = wheelhouse.sha256(path) if path.is_file() else ""
        if now == part.sha256:
            continue
        changed.append(path)
        if now and now != former.get(str(path)) and not replace:
            edited.append(path)
    if edited:
        raise UsageError(
            f"{bundle.file} has other versions of files that are here, and would overwrite them: "
            f"{', '.join(map(str, edited))}",
            remedy="use another folder (--project FOLDER), or --replace if those of the bundle are "
            "the right ones",
        )
    return changed


def _write_project(bundle: Bundle, folder: Path, place: Layout, label: str) -> None:
    written = {}
    for part in bundle.below("project"):
        path = folder / part.path.removeprefix("project/")
        bundle.extract(part, path)
        written[str(path)] = part.sha256
    write_atomic(_record(place, label), json.dumps(written, indent=1) + "\n", mode=0o600)


def _former(place: Layout, label: str) -> dict[str, str]:
    """Return what the last bundle of a resource wrote: digests by path."""
    try:
        data = json.loads(_record(place, label).read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in data.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _record(place: Layout, label: str) -> Path:
    return place.root / "bundles" / f"{label}.json"
