"""RP's resource files: what scalems writes in them, and what RP makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from homes import LABEL, Scalems, configure

from scalems.errors import ExitCode, UsageError
from scalems.resource import definition
from scalems.resource.config import ResourceConfig
from scalems.resource.definition import DefinitionError

VENV = Path("/scalems/builds/pilot-0/venv")


def config_of(label=LABEL, *, extends=LABEL, **fields):
    return ResourceConfig(
        label=label,
        path=Path("local.toml"),
        extends=extends,
        pilot="pilot",
        tasks=(),
        definition=fields,
    )


def file_of(home, domain="local"):
    return home / ".radical" / "pilot" / "configs" / f"resource_{domain}.json"


def put(home, text, domain="local"):
    path = file_of(home, domain)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def read_by_rp(label):
    """Return a definition as RP itself reads it, in a process of its own."""
    code = (
        "import sys, json, radical.pilot.utils.misc as misc\n"
        "found = misc.get_resource_config(sys.argv[1])\n"
        "print('RESULT' + json.dumps(found.as_dict() if found else None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, label], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.partition("RESULT")[2])


def write(config, backups):
    change = definition.plan(config, virtenv=VENV)
    return change, definition.write(change, backups=backups)


# --- what is written ------------------------------------------------------------------------


def test_only_our_fields_are_written_for_a_resource_that_rp_has(home, tmp_path):
    before = read_by_rp(LABEL)
    _, backup = write(config_of(), tmp_path)
    ours = {"virtenv_mode": "use", "virtenv": str(VENV), "rp_version": "installed"}
    assert backup is None
    assert json.loads(file_of(home).read_text()) == {"localhost": ours}
    assert read_by_rp(LABEL) == {**before, **ours}
    assert definition.plan(config_of(), virtenv=VENV).diff == ""


def test_a_new_resource_is_complete_and_accepted_by_rp(home, tmp_path):
    config = config_of(
        "lab.cluster", cores_per_node=12, schemas={"local": {"filesystem_endpoint": "file://mine/"}}
    )
    write(config, tmp_path)
    base, found = read_by_rp(LABEL), read_by_rp("lab.cluster")
    assert found["virtenv"] == str(VENV)
    assert found["cores_per_node"] == 12
    assert found["schemas"]["local"].pop("filesystem_endpoint") == "file://mine/"
    for key in base.keys() - {"virtenv", "virtenv_mode", "rp_version", "cores_per_node", "schemas"}:
        assert found[key] == base[key], key
    del base["schemas"]["local"]["filesystem_endpoint"]
    assert found["schemas"] == base["schemas"]
    assert definition.plan(config, virtenv=VENV).diff == ""


HAND_WRITTEN = (
    "# My machines.\n"
    "{\n"
    '    "other":     {"x_theirs": [1,2 , 3]},\n'
    "    # this one\n"
    '\t"localhost": {\r\n'
    "        # a note in the entry\n"
    '        "cores_per_node": 8,  \n'
    '        "schemas": {\n'
    "            # a nested note\n"
    '            "local": {"job_manager_endpoint": "fork://kept/"}\n'
    "        },\n"
    '        "virtenv": "/old"\n'
    "    }\n"
    "}\n"
    "# The end, without a line end."
)


def test_what_a_person_wrote_is_kept_byte_for_byte(home, tmp_path):
    path = put(home, HAND_WRITTEN)
    path.chmod(0o640)
    change, backup = write(
        config_of(schemas={"local": {"filesystem_endpoint": "file://ours/"}}, cores_per_node=4),
        tmp_path / "backups",
    )
    expected = (
        HAND_WRITTEN.replace('"cores_per_node": 8', '"cores_per_node": 4')
        .replace('kept/"}', 'kept/",\n            "filesystem_endpoint": "file://ours/"}')
        .replace(
            '"/old"',
            f'"{VENV}",\n        "virtenv_mode": "use",\n        "rp_version": "installed"',
        )
    )
    assert path.read_bytes().decode() == expected == change.after
    assert backup is not None
    assert backup.read_bytes().decode() == HAND_WRITTEN
    assert path.stat().st_mode & 0o777 == 0o640
    assert [child.name for child in path.parent.iterdir()] == [path.name]
    found = read_by_rp(LABEL)
    assert found["schemas"]["local"]["job_manager_endpoint"] == "fork://kept/"
    assert found["schemas"]["local"]["filesystem_endpoint"] == "file://ours/"
    assert read_by_rp("local.other")["x_theirs"] == [1, 2, 3]


def test_the_diff_is_what_is_written(home, tmp_path):
    path = put(home, HAND_WRITTEN)
    change = definition.plan(config_of(), virtenv=VENV)
    assert path.read_bytes().decode() == HAND_WRITTEN
    assert f'-        "virtenv": "/old"\n+        "virtenv": "{VENV}",\n' in change.diff
    assert change.diff.startswith(f"--- {path}\n+++ {path}\n")
    assert [line for line in change.diff.splitlines()[2:] if line.startswith("-")] == [
        '-        "virtenv": "/old"'
    ]


def test_a_link_stays_a_link(home, tmp_path):
    real = tmp_path / "dotfiles.json"
    real.write_text("{}\n")
    path = file_of(home)
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    write(config_of(), tmp_path / "backups")
    assert path.is_symlink()
    assert json.loads(real.read_text())["localhost"]["virtenv"] == str(VENV)


@pytest.mark.parametrize(
    "text", ["", "\n", "{}", "{ }", '{"localhost": {}}', '{"localhost":{\n}\n}']
)
def test_an_empty_file_is_filled(home, tmp_path, text):
    path = put(home, text)
    write(config_of(), tmp_path)
    assert json.loads(path.read_text())["localhost"]["virtenv"] == str(VENV)


def test_the_base_folder_is_the_one_that_rp_reads(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RADICAL_CONFIG_USER_DIR", str(tmp_path / "elsewhere"))
    write(config_of(), tmp_path / "backups")
    assert file_of(tmp_path / "elsewhere").is_file()
    assert read_by_rp(LABEL)["virtenv"] == str(VENV)


# --- what is refused, and leaves the file as it was -----------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"localhost": {"a": 1,}}', r":1:\d+: not valid JSON"),
        ('{\n"localhost": {}\n} // end', ":3:3: not valid JSON"),
        ('{"a": {} # no whole line\n}', ":1:10: not valid JSON"),
        ("localhost = 1", ":1:1: not valid JSON"),
        ("[" * 3000, "not valid JSON"),
        ('{"a": ' + "1" * 5000 + "}", "not valid JSON"),
        ("[1]", "the top must be a JSON object"),
        ('{"localhost": "x", "other": {}}', "'localhost' must be a JSON object"),
    ],
)
def test_a_file_that_rp_could_not_read_is_left_alone(home, text, what):
    path = put(home, text)
    with pytest.raises(UsageError, match=what) as caught:
        definition.plan(config_of(), virtenv=VENV)
    assert str(path) in caught.value.cause
    assert "Nothing was changed" in caught.value.remedy
    assert path.read_text() == text


def test_a_file_of_other_bytes_is_left_alone(home):
    path = put(home, "")
    path.write_bytes(b'{"\xff": {}}')
    with pytest.raises(UsageError, match="cannot be read"):
        definition.plan(config_of(), virtenv=VENV)
    assert path.read_bytes() == b'{"\xff": {}}'


@pytest.mark.parametrize(
    "fields",
    [{"cores_per_node": "many"}, {"launch_methods": ["FORK"]}, {"default_schema": "nowhere"}],
)
def test_a_field_of_the_wrong_type_is_refused_by_rp_itself(home, tmp_path, fields):
    path = put(home, HAND_WRITTEN)
    change = definition.plan(config_of(**fields), virtenv=VENV)
    with pytest.raises(
        DefinitionError, match=r"RADICAL-Pilot refuses .*local\.localhost"
    ) as caught:
        definition.write(change, backups=tmp_path / "backups")
    assert "Traceback" not in str(caught.value)
    assert path.read_bytes().decode() == HAND_WRITTEN
    assert not (tmp_path / "backups").exists()


@pytest.mark.parametrize("fields", [{"pre_bootstrap_0": ["date +%F"]}, {"project": "100%"}])
def test_a_percent_sign_is_refused(home, fields):
    with pytest.raises(UsageError, match="'%'"):
        definition.plan(config_of(**fields), virtenv=VENV)
    assert not file_of(home).exists()


def test_an_unknown_resource_to_extend_gets_near_names(home):
    with pytest.raises(UsageError, match=r"knows no resource.*did you mean 'local\.localhost'"):
        definition.plan(config_of(extends="local.locahost"), virtenv=VENV)


def test_somebody_else_was_faster(home, tmp_path):
    change = definition.plan(config_of(), virtenv=VENV)
    put(home, '{"theirs": {}}')
    with pytest.raises(DefinitionError, match="changed by somebody else"):
        definition.write(change, backups=tmp_path)
    assert file_of(home).read_text() == '{"theirs": {}}'


def test_a_folder_that_cannot_be_written(home, tmp_path):
    (home / ".radical").symlink_to("/proc/none")
    change = definition.plan(config_of(), virtenv=VENV)
    with pytest.raises(DefinitionError, match="cannot be written") as caught:
        definition.write(change, backups=tmp_path)
    assert "RADICAL_CONFIG_USER_DIR" in caught.value.remedy


# --- through the command line ---------------------------------------------------------------


def test_a_dry_run_refuses_what_the_sync_would(scalems: Scalems):
    scalems.definition.parent.mkdir(parents=True)
    scalems.definition.write_text("{oops")
    for words in (["--dry-run"], []):
        done = scalems.run("env", "sync", "--resource", LABEL, *words, code=ExitCode.USAGE)
        assert f"{scalems.definition}:1:2: not valid JSON" in done.stderr
    assert scalems.definition.read_text() == "{oops"
    assert not (scalems.root / "builds").exists() or not any(
        path.is_dir() for path in (scalems.root / "builds").iterdir()
    )


@pytest.mark.network
def test_a_wrong_field_is_found_before_anything_is_built(scalems: Scalems):
    configure(scalems.project, '[localhost.definition]\ncores_per_node = "many"\n')
    done = scalems.run("env", "sync", "--resource", LABEL, code=ExitCode.FAILED)
    assert "RADICAL-Pilot refuses the definition" in done.stderr
    assert "cores_per_node" in done.stderr
    assert not scalems.definition.exists()
    assert not list((scalems.root / "builds").glob("[a-z]*"))


def test_rp_itself_is_not_asked_by_importing_it():
    code = (
        "import sys\n"
        "from scalems.resource import definition\n"
        "assert 'local.localhost' in definition.shipped_labels()\n"
        "assert 'radical.pilot' not in sys.modules"
    )
    environment = {**os.environ, "HOME": "/nonexistent"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
