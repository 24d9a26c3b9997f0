"""`env export`: a lock in the formats of other tools."""

from __future__ import annotations

import json
from typing import Any

from scalems.env import lock, spec, target
from scalems.env.engine import explain
from scalems.env.engine.uv import find_uv
from scalems.env.lock import Pin
from scalems.env.spec import EnvSpec
from scalems.errors import ScalemsError, UsageError
from scalems.host.local import CommandFailed, run
from scalems.host.scratch import scratch
from scalems.probe import normalize
from scalems.resource.config import Project


class ExportError(ScalemsError):
    """A lock could not be written in another format."""


def export(project: Project, name: str, form: str) -> str:
    """Return a lock as text for another tool. scalems itself is never in it.

    :param form: ``requirements`` (hashed, for pip and uv), ``pylock`` (PEP 751), ``conda``
        (an environment file), ``cyclonedx`` (an SBOM,
        https://cyclonedx.org/docs/1.6/json/).
    :raises UsageError: no such spec, or it has no lock yet.
    :raises ExportError: PEP 751 names files, and the index that has them cannot be asked.
    """
    one = spec.load(project.env_path(name))
    if not one.lock_path.is_file():
        raise UsageError(f"{name!r} has no lock yet", remedy=f"scalems env lock {name}")
    if form == "requirements":
        return one.lock_path.read_text(encoding="utf-8")
    if form == "pylock":
        return _pylock(one)
    interpreter = target.find_interpreter(one)
    pins = lock.load(one.lock_path).select(interpreter.markers)
    if form == "conda":
        return _conda(one, pins, interpreter.markers["python_version"])
    return json.dumps(_cyclonedx(one, pins), indent=2) + "\n"


def _pylock(one: EnvSpec) -> str:
    """Let uv ask the index where the files of each pin are."""
    uv = find_uv()
    if uv is None:
        raise UsageError("the format pylock needs uv", remedy="pip install uv")
    with scratch("export") as folder:
        (folder / "requirements.txt").write_text(one.lock_path.read_text(encoding="utf-8"))
        argv = ["pip", "compile", "--universal", "--no-deps", "--no-header", "--generate-hashes"]
        argv += ["--python-version", _lowest(one), "--format", "pylock.toml"]
        argv += ["--output-file", "pylock.toml", "--no-progress", "requirements.txt"]
        try:
            run([uv, *argv], cwd=folder)
        except CommandFailed as error:
            cause, remedy = explain(error, doing=f"exporting the lock of {one.name!r}")
            raise ExportError(cause, remedy=remedy) from error
        return (folder / "pylock.toml").read_text(encoding="utf-8")


def _lowest(one: EnvSpec) -> str:
    limits = lock.load(one.lock_path).python
    return next(spec.version for spec in limits if spec.operator == ">=")


def _conda(one: EnvSpec, pins: list[Pin], python: str) -> str:
    # The names, versions and ranges of a lock need no quotes in YAML.
    lines = [f"name: {one.name}", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - python={python}", "  - pip", "  - pip:"]
    lines += [f"      - {pin.name}=={pin.version}" for pin in pins]
    return "\n".join(lines) + "\n"


def _cyclonedx(one: EnvSpec, pins: list[Pin]) -> dict[str, Any]:
    root = f"env:{one.name}"
    refs = {pin.name: f"pkg:pypi/{pin.name}@{pin.version}" for pin in pins}
    # A package that several extras or specs ask for is named once: the schema wants them unique.
    needs: dict[str, set[str]] = {root: set(), **{ref: set() for ref in refs.values()}}
    for name, above in lock.parents(one.lock_path.read_text(encoding="utf-8")).items():
        for parent in above if name in refs else ():
            by = root if parent.endswith(".in") else refs.get(normalize(parent))
            if by:
                needs[by].add(refs[name])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": root, "name": one.name}},
        "components": [
            {
                "type": "library",
                "bom-ref": refs[pin.name],
                "name": pin.name,
                "version": pin.version,
                "purl": refs[pin.name],
            }
            for pin in pins
        ],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(found)} for ref, found in sorted(needs.items())
        ],
    }
