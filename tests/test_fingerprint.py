"""Fingerprints: the same for the same software, another for anything else."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from homes import Scalems, make_scalems
from hypothesis import given, settings
from hypothesis import strategies as st

from scalems import probe
from scalems.env import bytecode, check, fingerprint, lock, manifest
from scalems.env.check import Depth
from scalems.env.lock import Pin

FACTS = {"implementation": "cpython", "version": "3.11.7", "platform": "linux-x86_64"}

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
versions = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,2}", fullmatch=True)
hashes = st.lists(
    st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    min_size=1,
    max_size=3,
    unique=True,
)
facts = st.dictionaries(names, st.text(max_size=8), max_size=4)
pinned = st.dictionaries(names, st.tuples(versions, hashes), max_size=6)
inputs = st.tuples(pinned, facts, st.text(max_size=8))


def digest_of(entries, interpreter, scalems_digest):
    """The digest of a lock that was written, in this order, and read again."""
    body = "".join(
        f"{name}=={version} {' '.join(f'--hash={one}' for one in listed)}\n"
        for name, (version, listed) in entries.items()
    )
    text = f"# python: >=3.10\n# inputs: x\n{body}"
    pins = lock.parse(text, source="x").pins
    return fingerprint.input_digest(pins, interpreter=interpreter, scalems_digest=scalems_digest)


@given(inputs, st.randoms(use_true_random=False))
def test_the_inputs_have_no_order(given_inputs, random):
    entries, interpreter, scalems_digest = given_inputs

    def shuffled(mapping):
        return {key: mapping[key] for key in random.sample(sorted(mapping), len(mapping))}

    other = {
        name: (version, random.sample(listed, len(listed)))
        for name, (version, listed) in shuffled(entries).items()
    }
    assert digest_of(other, shuffled(interpreter), scalems_digest) == digest_of(*given_inputs)


@given(inputs, inputs)
def test_other_inputs_have_another_digest(one, other):
    def meaning(entries, interpreter, scalems_digest):
        pins = {name: (version, frozenset(listed)) for name, (version, listed) in entries.items()}
        return pins, interpreter, scalems_digest

    assert (digest_of(*one) == digest_of(*other)) == (meaning(*one) == meaning(*other))


PINS = [Pin(name=n, version="1", marker=None, hashes=(f"sha256:{n}", "sha256:x")) for n in "abc"]


def changed_pins():
    (one, *rest) = PINS
    yield rest
    yield [*PINS, Pin(name="d", version="1", marker=None, hashes=("sha256:d",))]
    for fields in (
        {"name": "aa"},
        {"version": "1.0"},
        {"hashes": ("sha256:a",)},
        {"hashes": ("sha256:b", "sha256:x")},
        {"hashes": (*one.hashes, "sha256:y")},
    ):
        known = {"name": one.name, "version": one.version, "marker": None, "hashes": one.hashes}
        yield [Pin(**{**known, **fields}), *rest]


def test_every_input_counts():
    def digest(pins=PINS, facts=FACTS, scalems_digest="s"):
        return fingerprint.input_digest(pins, interpreter=facts, scalems_digest=scalems_digest)

    found = [digest(), digest(scalems_digest="t")]
    found += [digest(pins) for pins in changed_pins()]
    found += [digest(facts={**FACTS, key: "other"}) for key in FACTS]
    found += [digest(facts={k: v for k, v in FACTS.items() if k != key}) for key in FACTS]
    assert len(found) == len(set(found)) == 15


def test_the_real_facts_of_an_interpreter_count_and_hold_no_path():
    described = probe.interpreter()
    assert described.keys() >= {"implementation", "version", "soabi", "platform", "libc"}
    assert not [value for value in described.values() if "/" in value]


def test_the_same_project_elsewhere_has_the_same_build(tmp_path):
    homes = [make_scalems(tmp_path / name) for name in ("here", "there/deeper")]
    os.utime(homes[1].project / "envs" / "pilot.lock.txt", ns=(0, 0))
    folders = [Path(env["folder"]) for made in homes for env in made.sync("--dry-run")["envs"]]
    assert [folder.parent.parent for folder in folders] == [made.root for made in homes]
    assert len({folder.name for folder in folders}) == 1


# --- what is installed ----------------------------------------------------------------------

RECORD = "thing-1.dist-info/RECORD"
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
files = st.dictionaries(paths, st.binary(max_size=20), min_size=1, max_size=5).filter(
    lambda found: (
        not any(
            f"{path}/".startswith(f"{other}/") for path in found for other in found if path != other
        )
    )
)


def make_venv(folder: Path, contents, *, record: str = "", mtime: int = 10**18) -> Path:
    site = folder / "lib" / "python3.11" / "site-packages"
    for path, body in {**contents, RECORD: record.encode()}.items():
        full = site / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(body)
        os.utime(full, ns=(mtime, mtime))
    (folder / "bin").mkdir()
    return folder


def digest_below(venv: Path) -> str:
    return fingerprint.content_digest(venv, fingerprint.scan(venv))


@given(files, files)
@settings(max_examples=40)
def test_content_is_what_the_files_hold_wherever_they_are(tmp_path_factory, one, other):
    root = tmp_path_factory.mktemp("venvs")
    first = digest_below(make_venv(root / "a", one))
    again = digest_below(make_venv(root / "b" / "deeper", one, record="how", mtime=5 * 10**17))
    assert again == first
    assert (digest_below(make_venv(root / "c", other)) == first) == (one == other)


def test_what_does_not_count_as_content(tmp_path):
    venv = make_venv(tmp_path / "venv", {"a/b.py": b"x = 1\n"})
    before = digest_below(venv)
    site = probe.site_packages(venv)
    (site / "a" / "__pycache__").mkdir()
    for name in (
        "a/__pycache__/b.cpython-311.pyc",
        *(f"thing-1.dist-info/{name}" for name in fingerprint.BOOKKEEPING),
        "_virtualenv.py",
        "_virtualenv.pth",
    ):
        (site / name).write_bytes(b"noise")
        assert digest_below(venv) == before, name
    (venv / "pyvenv.cfg").write_text("home = /somewhere\n")
    (venv / "bin" / "activate").write_text("VIRTUAL_ENV=/somewhere\n")
    assert digest_below(venv) == before
    for name in (
        "_virtualenvs.py",
        "thing-1.dist-info/METADATA",
        "sitecustomize.py",
        "x.pth",
        "a/b.pyc",
    ):
        (site / name).write_bytes(b"")
        changed = digest_below(venv)
        assert changed != before, name
        before = changed


def test_links_and_other_things_are_told_apart(tmp_path):
    venv = make_venv(tmp_path / "venv", {"a.py": b"-> b.py"})
    site = probe.site_packages(venv)
    digests = [digest_below(venv)]
    (site / "a.py").unlink()
    (site / "a.py").symlink_to("b.py")
    digests.append(digest_below(venv))
    (site / "a.py").unlink()
    (site / "a.py").symlink_to("c.py")
    digests.append(digest_below(venv))
    (site / "a.py").unlink()
    os.mkfifo(site / "a.py")
    digests.append(digest_below(venv))
    assert len(set(digests)) == 4


@pytest.fixture
def build(small_home: Scalems, tmp_path: Path) -> Path:
    """A copy of a build at another place, with other times."""
    source = small_home.build("pilot")
    copied = shutil.copytree(
        source, tmp_path / "elsewhere" / source.name, symlinks=True, copy_function=shutil.copyfile
    )
    return Path(copied)


@pytest.mark.network
def test_a_copied_build_has_the_same_content(build):
    known = manifest.read(build)
    found = fingerprint.scan(build / "venv")
    found.update(fingerprint.scan_compiled(build / "venv"))
    # Python may have compiled more since: other tests use the same home.
    entries = {path: found[path] for path in manifest.read_files(build, known) or {}}
    assert all("__pycache__" in path for path in found.keys() - entries.keys())
    assert len(entries) == known.files
    assert sum(entry.size for entry in entries.values()) == known.bytes
    assert fingerprint.content_digest(build / "venv", entries) == known.content_digest
    kinds = {finding.kind for finding in check.inspect("pilot", build, depth=Depth.DEEP)}
    # A copy is not the build that was verified, though it has the same content: it differs
    # in the times of what was installed and in permissions, and in nothing else.
    assert kinds == {"reinstalled distribution", "changed permissions"}


@pytest.mark.network
def test_one_byte_of_a_real_package_counts(build):
    venv = build / "venv"
    before = digest_below(venv)
    assert fingerprint.spoilt(venv, fingerprint.scan(venv)) == []
    path = probe.site_packages(venv) / "radical" / "utils" / "__init__.py"
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert digest_below(venv) != before
    assert fingerprint.spoilt(venv, fingerprint.scan(venv)) == ["radical-utils"]
    path.write_bytes(body)
    assert digest_below(venv) == before


@pytest.mark.network
def test_of_a_script_all_counts_but_its_interpreter(build):
    venv = build / "venv"
    before = digest_below(venv)
    script = venv / "bin" / "radical-pilot-agent_0"
    first, _, rest = script.read_bytes().partition(b"\n")
    assert first.startswith(b"#!")
    script.write_bytes(b"#!/elsewhere/python\n" + rest)
    assert digest_below(venv) == before
    script.write_bytes(first + b"\n" + rest + b"#")
    assert digest_below(venv) != before
    script.unlink()
    assert digest_below(venv) != before
    # A generated entry point names the venv that it is in.
    script.write_bytes(first + b"\n" + rest)
    (venv / "bin" / "scalems").write_text("#!/bin/sh\n")
    assert digest_below(venv) == before


@pytest.mark.network
def test_the_table_of_files_is_what_is_there(small_home: Scalems):
    folder = small_home.build("pilot")
    known = manifest.read(folder)
    table = manifest.read_files(folder, known)
    venv = folder / "venv"
    there = {
        path.relative_to(venv).as_posix()
        for path in venv.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    assert table.keys() <= there
    # What Python has compiled since.
    assert {path for path in there - table.keys() if not bytecode.is_cached(path)} == set()
    for path, entry in table.items():
        full = venv / path
        if full.is_symlink():
            assert entry.sha256 == f"-> {full.readlink()}"
        else:
            assert entry.sha256 == hashlib.sha256(full.read_bytes()).hexdigest()
    assert small_home.check()["envs"][0]["content_digest"] == known.content_digest
