"""Why two input fingerprints differ, and that nothing but the software is in one."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from homes import LABEL, Scalems, make_scalems
from hypothesis import given
from hypothesis import strategies as st

from scalems.env import fingerprint, keys
from scalems.env.keys import Key
from scalems.env.lock import Pin
from scalems.errors import ExitCode

names = st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True)
pins = st.lists(
    st.builds(
        lambda name, version, hashed: Pin(
            name=name, version=version, marker=None, hashes=(f"sha256:{hashed}",)
        ),
        names,
        st.sampled_from(["1", "2"]),
        st.sampled_from(["a" * 64, "b" * 64]),
    ),
    max_size=4,
    unique_by=lambda pin: pin.name,
)
facts = st.fixed_dictionaries({"version": st.sampled_from(["3.11.7", "3.12.1"])})
scalems_digests = st.sampled_from(["c" * 64, "d" * 64])


def key(pinned, interpreter, scalems_digest) -> Key:
    items = keys._common(interpreter, scalems_digest, fingerprint.pin_items(pinned))
    found = fingerprint.input_digest(pinned, interpreter=interpreter, scalems_digest=scalems_digest)
    return Key(name="x", digest=found, items=items)


@given(pins, facts, scalems_digests, pins, facts, scalems_digests)
def test_fingerprints_differ_if_and_only_if_an_item_does(a, b, c, x, y, z):
    difference = keys.compare(key(a, b, c), key(x, y, z))
    assert difference.same == (not difference.items)


@given(pins, facts, scalems_digests, st.data())
def test_exactly_what_was_changed_is_named(pinned, interpreter, scalems_digest, data):
    if not pinned:
        return
    at = data.draw(st.integers(0, len(pinned) - 1))
    other = Pin(name=pinned[at].name, version="3", marker=None, hashes=pinned[at].hashes)
    changed = [*pinned[:at], other, *pinned[at + 1 :]]
    difference = keys.compare(
        key(pinned, interpreter, scalems_digest), key(changed, interpreter, scalems_digest)
    )
    assert difference.items == {f"distribution {other.name}": (pinned[at].version, "3")}
    assert not keys.compare(
        key(pinned, interpreter, scalems_digest),
        key(list(reversed(pinned)), interpreter, scalems_digest),
    ).items


def planned(made: Scalems, **env: str) -> str:
    """Return the folder name of the build that a sync would make."""
    result = made.sync("--dry-run", "--frozen", **env)
    return result["envs"][0]["folder"].rpartition("/")[2]


def test_two_projects_of_two_users_have_the_same_fingerprint(tmp_path):
    one = make_scalems(tmp_path / "one")
    time.sleep(0.01)
    two = make_scalems(tmp_path / "another folder" / "two")
    other = {"USER": "somebody", "LOGNAME": "somebody", "TZ": "Pacific/Auckland", "LANG": "C"}
    moved = {"SCALEMS_HOME": str(tmp_path / "state"), "PYTHONHASHSEED": "7", "UMASK": "077"}
    assert planned(one) == planned(two, **other, **moved)


@pytest.mark.network
def test_a_change_of_the_lock_is_named(small_home: Scalems, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(small_home.project, project)
    made = Scalems(home=small_home.home, project=project, env=small_home.env)
    assert made.json("env", "explain-key", "pilot")["same"]
    lock = project / "envs" / "pilot.lock.txt"
    lock.write_text(lock.read_text().replace("idna==3.20 \\", "idna==3.19 \\"))
    found = made.json("env", "explain-key", "pilot", code=1)
    assert found["items"] == {"distribution idna": ["3.20", "3.19"]}
    assert found["complete"]
    assert found["scalems_files"] == []
    digest = found["sides"][0]["input_digest"]
    again = made.json("env", "explain-key", digest[:8], f"{LABEL}/pilot#1")
    assert again["same"]
    shown = made.run("env", "explain-key", "pilot", "lock:pilot", code=1).stdout
    assert "idna" in shown
    made.run("env", "explain-key", "pilto", code=2)
    made.run("env", "explain-key", "pilot", "pilot", "pilot", code=2)


@pytest.mark.network
def test_a_spec_that_changed_after_its_lock_is_told(small_home: Scalems, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(small_home.project, project)
    spec = project / "envs" / "pilot.toml"
    asked = ("env", "explain-key", f"{LABEL}/pilot", "--project", str(project))
    assert small_home.json(*asked)["same"]
    spec.write_text(spec.read_text().replace("dependencies = [", 'dependencies = ["six", ', 1))
    found = small_home.json(*asked, code=ExitCode.FAILED)
    assert (found["same"], found["items"]) == (False, {})
    assert "pilot.toml changed" in found["sides"][1]["stale"]
    told = small_home.run(*asked, code=ExitCode.FAILED).stdout
    assert "scalems env lock pilot" in told
    assert "the same fingerprint" in told


def test_changed_files_of_scalems_are_named(small_home: Scalems, tmp_path):
    """An older build, as a build whose manifest was made for other files of scalems."""
    folder = small_home.build("pilot")
    data = json.loads((folder / "manifest.json").read_text())
    assert data["pins"]["idna"].startswith("3.20 ")
    built = keys.find(str(folder), notify=lambda step, *, detail=False: None)
    assert built.files["scalems/__init__.py"]
    other = Key(
        name="other",
        digest="0" * 64,
        items={**built.items, "scalems": "other"},
        files={**built.files, "scalems/__init__.py": "other"},
    )
    assert keys.compare(built, other).files == ("scalems/__init__.py",)
