from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import default_environment
from packaging.utils import canonicalize_name

from scalems import probe

json_objects = st.dictionaries(
    st.text(), st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5)
)
noise = st.text().filter(lambda text: not any(mark in text for mark in probe.FRAME))


@given(noise, json_objects, noise)
def test_a_description_is_found_in_what_a_site_hook_printed(before, described, after):
    text = f"{before}\n{probe.FRAME[0]}{json.dumps(described)}{probe.FRAME[1]}\n{after}"
    assert probe.parse(text) == described


@given(
    st.text()
    | st.lists(st.sampled_from([*probe.FRAME, "{", "}", "[]", "1", "x", "{}"])).map("".join)
)
def test_anything_else_is_refused(text):
    try:
        found = probe.parse(text)
    except ValueError:
        found = {}
    assert isinstance(found, dict)


def test_this_interpreter_describes_itself():
    done = subprocess.run(
        [sys.executable, "-I", probe.__file__], capture_output=True, text=True, check=True
    )
    found = probe.parse(done.stdout)
    here = probe.describe()
    for key in ("python", "interpreter", "markers", "host", "versions", "input_digest"):
        assert found[key] == here[key], key
    assert found["python"] == platform.python_version()
    assert found["executable"] == sys.executable
    assert found["input_digest"] == ""  # the client's venv is not a build
    assert json.loads(json.dumps(here)) == here


def test_versions_are_those_of_the_metadata():
    expected = {
        probe.normalize(dist.metadata["Name"]): dist.version
        for dist in importlib.metadata.distributions()
    }
    assert probe.versions(sys.path) == expected


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", fullmatch=True))
def test_names_are_normalized_as_the_standard_says(name):
    assert probe.normalize(name) == canonicalize_name(name)


def test_markers_are_those_of_the_standard():
    ours = probe.markers()
    assert {key: default_environment()[key] for key in ours} == ours


def test_the_first_folder_wins(tmp_path):
    for folder, version in (("one", "1"), ("two", "2")):
        (tmp_path / folder / f"My.Dist-{version}.dist-info").mkdir(parents=True)
    found = probe.versions([tmp_path / "none", tmp_path / "one", tmp_path / "two"])
    assert found == {"my-dist": "1"}


@pytest.mark.parametrize("text", [None, "", "not json", "[]", "3"])
def test_only_a_manifest_is_taken_as_one(tmp_path, text):
    if text is not None:
        (tmp_path / probe.MANIFEST).write_text(text)
    assert probe.manifest_of(tmp_path / "venv") == {}


def test_a_folder_without_packages_is_no_venv(tmp_path):
    with pytest.raises(FileNotFoundError):
        probe.site_packages(tmp_path)
