"""RP resource definitions: what scalems sets in them, and how it gets there safely.

RP merges ``$HOME/.radical/pilot/configs/resource_DOMAIN.json`` over its own files, key by
key (``radical.utils.Config``). For a resource that RP has itself only the fields that
scalems decides are written; for a new one, all of it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalems.errors import ScalemsError, UsageError
from scalems.failpoint import failpoint
from scalems.host.files import write_atomic
from scalems.resource import jsontext
from scalems.tomlfile import near

if TYPE_CHECKING:
    from scalems.resource.config import ResourceConfig


class DefinitionError(ScalemsError):
    """RADICAL-Pilot does not accept a resource definition, or it cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What writing a resource definition would do.

    :param path: RP's resource file of the domain, in the user's configuration folder.
    :param before: its text now, empty if there is none.
    """

    label: str
    path: Path
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change as a unified diff; empty if there is none."""
        import difflib  # only now: a launch reads

        name = str(self.path)
        return "".join(
            difflib.unified_diff(
                self.before.splitlines(keepends=True),
                self.after.splitlines(keepends=True),
                fromfile=name if self.before else "/dev/null",
                tofile=name,
            )
        )


def user_folder() -> Path:
    """Return the folder of the user's RP configuration (as ``radical.utils.Config`` finds it)."""
    base = os.environ.get("RADICAL_CONFIG_USER_DIR") or os.environ.get("HOME") or str(Path.home())
    return Path(base) / ".radical" / "pilot" / "configs"


def shipped(domain: str) -> dict[str, Any]:
    """Return RP's own definitions of a domain; none if it has no such domain.

    RP is found but not imported, which would take most of a second.
    """
    path = _shipped_folder() / f"resource_{domain}.json"
    return _read(path)[1] if path.is_file() else {}


def shipped_labels() -> list[str]:
    """Return the labels of all resources that the installed RP defines."""
    found = []
    for path in sorted(_shipped_folder().glob("resource_*.json")):
        domain = path.stem.removeprefix("resource_")
        found += [f"{domain}.{name}" for name in shipped(domain)]
    return found


def effective(label: str) -> dict[str, Any]:
    """Return a definition as RP would read it: the user's merged over RP's own.

    :raises UsageError: the user's file is not valid; there is no such resource.
    """
    domain, _, name = label.partition(".")
    user = _read(user_folder() / f"resource_{domain}.json")[1]
    own = shipped(domain)
    if name not in own and name not in user:
        known = shipped_labels() + [f"{domain}.{key}" for key in user]
        raise UsageError(
            f"RADICAL-Pilot knows no resource {label!r}{near(label, known)}",
            remedy="correct `extends` in the resource config",
        )
    return dict(_merge(own.get(name, {}), user.get(name, {})))


def endpoint(label: str) -> str:
    """Return the URL by which RP submits pilots to a resource; empty if it names none.

    :raises UsageError: there is no such resource, or the user's file is not valid.
    """
    fields = effective(label)
    schema = (fields.get("schemas") or {}).get(fields.get("default_schema")) or {}
    return str({**fields, **schema}.get("job_manager_endpoint") or "")


def plan(config: ResourceConfig, *, virtenv: Path) -> Change:
    """Work out what to write for a resource whose pilot runs in a venv.

    :raises UsageError: unknown resource to extend, a user's file that RP could not read
        either, or a value that RP would stumble over.
    """
    return restore(config.label, fields_for(config, virtenv=virtenv))


def fields_for(config: ResourceConfig, *, virtenv: Path) -> dict[str, Any]:
    """Return the fields that a resource gets whose pilot runs in a venv; see :func:`plan`."""
    domain, _, name = config.label.partition(".")
    user = _read(user_folder() / f"resource_{domain}.json")[1]
    base = effective(config.extends) if config.extends else {}
    fields = {
        **config.definition,
        "virtenv_mode": "use",
        "virtenv": str(virtenv),
        "rp_version": "installed",
    }
    if config.label != config.extends or name not in shipped(domain):
        fields = _merge(base, _merge(user.get(name, {}), fields))
    _refuse_percent(config, fields)
    return fields


def restore(label: str, fields: Mapping[str, Any]) -> Change:
    """Work out how to set fields of a resource to what was written for it before.

    :raises UsageError: RP could not read the user's file.
    """
    domain, _, name = label.partition(".")
    path = user_folder() / f"resource_{domain}.json"
    before, _ = _read(path)
    after = jsontext.merge_members(before if before.strip() else "{}\n", [name], fields)
    return Change(label=label, path=path, before=before, after=after)


def fields_of(label: str) -> dict[str, Any]:
    """Return what the user's own file sets for a resource; nothing if there is no file."""
    domain, _, name = label.partition(".")
    found = user_entries(domain).get(name, {})
    return found if isinstance(found, dict) else {}


def user_entries(domain: str) -> dict[str, Any]:
    """Return what the user's own file says of each resource of a domain.

    :raises UsageError: the file is not valid.
    """
    return _read(user_folder() / f"resource_{domain}.json")[1]


def validate(change: Change, *, python: Path | None = None) -> None:
    """Let RP itself read the new text and check it against its schema.

    :param python: interpreter that has RP; by default the one that runs this.
    :raises DefinitionError: RP refuses it; nothing was written.
    """
    from scalems.host.local import CommandFailed, run
    from scalems.host.scratch import scratch  # only now: a launch reads

    with scratch("rp") as base:
        folder = base / ".radical" / "pilot" / "configs"
        folder.mkdir(parents=True)
        (folder / change.path.name).write_text(change.after, encoding="utf-8")
        try:
            run(
                [python or sys.executable, "-I", "-c", _VALIDATE, change.label],
                env={"RADICAL_CONFIG_USER_DIR": str(base), "HOME": str(base)},
                cwd=base,
            )
        except CommandFailed as error:
            printed = error.completed.stderr.strip().splitlines() if error.completed else []
            what = printed[-1] if printed else error.cause
            raise DefinitionError(
                f"RADICAL-Pilot refuses the definition of {change.label}: {what}",
                remedy="correct [definition] in the resource config; the fields and their types "
                "are those of radical.pilot.resource_config.ResourceConfig",
            ) from error


_VALIDATE = """
import sys
import radical.utils as ru
from radical.pilot.resource_config import ResourceConfig
from radical.pilot.utils.misc import get_resource_configs

site, name = sys.argv[1].split(".", 1)
config = ResourceConfig(from_dict=get_resource_configs()[site][name])
schema = config["default_schema"]
if schema:
    ru.dict_merge(config, config["schemas"][schema], ru.OVERWRITE)
config.verify()
"""


def write(
    change: Change, *, backups: Path, python: Path | None = None, accepted: Change | None = None
) -> Path | None:
    """Put a change in place atomically, after RP has accepted it.

    :param backups: folder that the former text is kept in.
    :param python: see :func:`validate`.
    :param accepted: what RP has accepted just now: the same text is not shown to it again.
    :return: the backup, if there was a file before.
    :raises DefinitionError: RP refuses it, somebody else changed the file meanwhile, or it
        cannot be written. The file is as it was.
    """
    if accepted is None or (accepted.path, accepted.after) != (change.path, change.after):
        validate(change, python=python)
    backup = None
    try:
        current = _text(change.path)
        if current != change.before:
            raise DefinitionError(
                f"{change.path} was changed by somebody else just now", remedy="run it again"
            )
        if change.before:
            mark = hashlib.sha256(change.before.encode()).hexdigest()[:12]
            backup = backups / f"{change.path.name}.{mark}"
            backups.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(backup, change.before, mode=0o600)
            failpoint("definition.backup")
        target = change.path.resolve()  # a link stays a link
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        write_atomic(target, change.after, mode=mode)
        failpoint("definition.written")
    except OSError as error:
        raise DefinitionError(
            f"{change.path} cannot be written: {error.strerror or error}",
            remedy=f"make {change.path.parent} writable, or name another base folder "
            "with RADICAL_CONFIG_USER_DIR",
        ) from error
    return backup


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text and the value of a resource file, both empty if there is none."""
    text = _text(path)
    if not text.strip():
        return text, {}
    try:
        value = jsontext.parse(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}. RADICAL-Pilot "
            "could not read it either, and no session would start.",
            remedy="correct that line; only whole lines may be comments (#), and the last item "
            "of a list has no comma after it. Nothing was changed.",
        ) from error
    faults = (
        [f"{key!r}" for key, entry in value.items() if not isinstance(entry, dict)]
        if isinstance(value, dict)
        else ["the top"]
    )
    if faults:
        raise UsageError(
            f"{path}: {', '.join(faults)} must be a JSON object; RADICAL-Pilot would fail on it",
            remedy="correct the file by hand. Nothing was changed.",
        )
    return text, value


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="correct it by hand") from error


def _merge(base: Any, over: Any) -> Any:
    """Merge as ``radical.utils.dict_merge`` does: objects key by key, all else replaced."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return copy.deepcopy(over)
    merged = dict(copy.deepcopy(dict(base)))
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if key in merged else copy.deepcopy(value)
    return merged


def _refuse_percent(config: ResourceConfig, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if key != "default_remote_workdir" and "%" in json.dumps(value):
            raise UsageError(
                f"{config.path}: {key} = {value!r}: a '%' in a resource definition keeps "
                "RADICAL-Pilot from launching a pilot",
                remedy="use a value without '%'",
            )


def _shipped_folder() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("radical.pilot")
    if spec is None or spec.origin is None:
        raise UsageError("radical.pilot is not installed", remedy="pip install radical.pilot")
    return Path(spec.origin).parent / "configs"
