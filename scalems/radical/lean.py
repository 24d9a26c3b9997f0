"""A shorter start of RADICAL-Pilot: its configuration without what nothing uses.

RP starts a process for each of its message bridges, one after the other, and some of them have
no user. Which ones there are is a matter of its config files; it looks for a user's in one
folder, which ``RADICAL_CONFIG_USER_DIR`` can name. A session gets a folder of its own, where all
that the user has is linked, and a few files are added. No file of the user's is touched, and what
the user has set stays in force.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

from scalems.radical import nursery

VARIABLE = "RADICAL_CONFIG_USER_DIR"
NAME = "scalems"
"""Name of the agent's configuration."""

KNOWN = ("1.103.",)
"""Versions of RP whose use of bridges is known; others keep all that they have."""

_UNUSED = {
    "session": ("client_pubsub", "client_queue", "log_pubsub"),
    "agent": ("agent_schedule_pubsub", "client_pubsub", "client_queue", "raptor_scheduling_queue"),
}
# RP's bootstrapper asks the network for a time server, and goes on if there is none: on nodes that
# see no network after many seconds.
_QUICK = ("ping() { false; }", "dig() { false; }")
# What the bootstrapper starts the agent with; the Pilot venv is entered by then.
_LAUNCHER = f"LAUNCHER='python3 -m {nursery.__name__}'"

log = logging.getLogger(__name__)


_SESSION = "session_default.json"


def prepare(folder: Path, label: str) -> dict[str, Any] | None:
    """Have RP, in this process and those that it starts, read the configuration of a new folder.

    :param folder: is made, and private to the session.
    :param label: RP's label of the resource.
    :return: what ``radical.pilot.Session`` is to be given as its configuration.
    """
    if not metadata.version("radical.pilot").startswith(KNOWN):
        return None
    former = os.environ.get(VARIABLE)
    try:
        bridges = _fill(folder, Path(former or Path.home()), label, former)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("RADICAL-Pilot starts with all that it has by default: %r", error)
        return None
    os.environ[VARIABLE] = str(folder)
    return {"bridges": bridges}


def _fill(folder: Path, home: Path, label: str, former: str | None) -> dict[str, Any]:
    """Fill the folder; return the bridges of the session."""
    domain, _, host = label.partition(".")
    resource = f"resource_{domain}.json"
    user = home / ".radical"
    configs = folder / ".radical" / "pilot" / "configs"
    configs.mkdir(parents=True)
    _link(user, folder / ".radical", but=("pilot",))
    _link(user / "pilot", folder / ".radical" / "pilot", but=("configs",))
    _link(user / "pilot" / "configs", configs, but=(resource, _SESSION))

    whole = _config("resource", domain)[host]
    definitions = _read(user / "pilot" / "configs" / resource)
    # What the pilot starts reads the files of the host that it runs on.
    back = f"export {VARIABLE}={shlex.quote(former)}" if former else f"unset {VARIABLE}"
    own = dict(definitions.get(host, {}))
    quick: tuple[str, ...] = _QUICK
    if (venv := _built(whole)) is not None:
        quick = (*_QUICK, _LAUNCHER)
        # The bootstrapper asks Python for its pip, which takes some 0.3 s where there is one.
        own["python_interpreter"] = whole.get("python_interpreter") or f"{venv}/bin/python3"
    definitions[host] = {
        **own,
        "agent_config": NAME,
        "pre_bootstrap_0": [
            *(whole.get("pre_bootstrap_0") or ()),
            *map(shlex.quote, (back, *quick)),  # they are echoed by a shell before they are run
        ],
    }
    _write(configs / resource, definitions)
    agent = _config("agent", whole.get("agent_config") or "default")
    agent["bridges"] = _used("agent", agent["bridges"])
    _write(configs / f"agent_{NAME}.json", agent)
    # RP lays a user's file over its own, key by key, and what it is given over both: so this
    # takes all bridges out, and those that are used are given.
    bridges = _used("session", _config("session", "default")["bridges"])
    _write(configs / _SESSION, {**_read(user / "pilot" / "configs" / _SESSION), "bridges": None})
    return bridges


def _built(definition: dict[str, Any]) -> Path | None:
    """Return the Pilot venv if it is known to have what forks the agent's processes."""
    if definition.get("virtenv_mode") != "use" or definition.get("rp_version") != "installed":
        return None
    venv = Path(str(definition.get("virtenv") or "/"))
    code = venv.glob("lib/python3*/site-packages/scalems/radical/nursery.py")
    return venv if any(code) else None


def _used(kind: str, bridges: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in bridges.items() if name not in _UNUSED[kind]}


def _config(kind: str, name: str) -> dict[str, Any]:
    """Return a configuration as RP and the user make it."""
    import radical.utils as ru

    config: dict[str, Any] = ru.Config(
        "radical.pilot", category=kind, name=name, expand=False
    ).as_dict()
    return config


def _read(path: Path) -> dict[str, Any]:
    import radical.utils as ru

    return dict(ru.read_json(str(path))) if path.is_file() else {}


def _link(source: Path, target: Path, *, but: tuple[str, ...]) -> None:
    """Link all that is in a folder, but some entries."""
    if source.is_dir():
        for entry in source.iterdir():
            if entry.name not in but:
                (target / entry.name).symlink_to(entry.absolute())


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
