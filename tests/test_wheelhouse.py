"""Wheels collected from a lock for this machine and others, and the index of a wheelhouse."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from pathlib import Path

import pytest
from homes import REPO
from hypothesis import given
from hypothesis import strategies as st
from indexes import closed_index
from packaging.tags import sys_tags

from scalems import probe
from scalems.env import collect as collecting
from scalems.env import lock, tag, wheelbuild, wheelhouse
from scalems.env.collect import collect
from scalems.env.engine import InstallError
from scalems.env.lock import Pin
from scalems.env.tag import Tag
from scalems.env.wheelhouse import Collected, Sdist, Wheel, Wheelhouse, WheelhouseError
from scalems.errors import EnvironmentNotReady, UsageError

HERE = tag.of(probe.interpreter())
ARM = tag.parse("cp312-manylinux_2_28_aarch64")
NAMES = ("idna", "msgpack", "netifaces", "rc-process")
"""A pure wheel, a compiled one, a source that is compiled, and a pure source."""

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
wheels = st.builds(
    lambda name, version, sha256, size, sdist: Wheel(
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256=sha256,
        size=size,
        path=Path("house", f"{name}-{version}-py3-none-any.whl"),
        sdist=sdist,
    ),
    st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
    st.from_regex(r"[0-9]\.[0-9]{1,2}", fullmatch=True),
    hexes,
    st.integers(0, 10**9),
    st.one_of(st.just(""), hexes),
)
sources = st.builds(
    lambda name, sha256, size, needs: Sdist(
        name=name,
        version="1",
        filename=f"{name}-1.tar.gz",
        sha256=sha256,
        size=size,
        path=Path("house", f"{name}-1.tar.gz"),
        needs=needs,
    ),
    st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
    hexes,
    st.integers(0, 10**9),
    st.text(max_size=30),
)
houses = st.builds(
    lambda wheels, sources: Wheelhouse(
        tuple(sorted(wheels, key=lambda wheel: wheel.filename)),
        sources=tuple(sorted(sources, key=lambda one: one.filename)),
    ),
    st.lists(wheels, max_size=5, unique_by=lambda wheel: wheel.filename),
    st.lists(sources, max_size=2, unique_by=lambda one: one.filename),
)


def pins_of(markers: dict[str, str]) -> list[Pin]:
    pins = lock.load(REPO / "envs" / "pilot.lock.txt").select(markers)
    return [pin for pin in pins if pin.name in NAMES]


def quiet(step: str, *, detail: bool = False) -> None:
    """Tell nobody."""


# --- tags -------------------------------------------------------------------------------------


def test_an_interpreter_takes_the_wheels_that_pip_would():
    ours = {str(one) for one in HERE.wheels()}
    pips = {str(one) for one in sys_tags()}
    assert ours == pips, "the machine that runs this is the target"


def test_the_tag_of_an_interpreter_that_no_wheel_is_for_is_refused():
    with pytest.raises(UsageError, match="C library"):
        tag.of({**probe.interpreter(), "libc": ""})
    with pytest.raises(UsageError, match="pypy"):
        tag.of({**probe.interpreter(), "implementation": "pypy"})


def test_the_markers_of_a_tag_are_those_that_a_lock_may_ask_for():
    assert ARM.markers().keys() == probe.markers().keys()
    assert lock.load(REPO / "envs" / "task.lock.txt").select(ARM.markers())


# --- index ------------------------------------------------------------------------------------


@given(houses)
def test_an_index_is_read_back(house):
    assert wheelhouse.parse(wheelhouse.index(house), folder=Path("house")).files == house.files


@given(houses, st.data())
def test_an_index_that_was_changed_is_refused(house, data):
    text = wheelhouse.index(house)
    at = data.draw(st.integers(0, len(text) - 2))
    changed = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    if changed == text[at]:
        return
    try:
        same = wheelhouse.parse(text[:at] + changed + text[at + 1 :], folder=Path("house"))
    except WheelhouseError:
        return
    assert same.files == house.files, "only what means nothing may change"


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text):
    with pytest.raises(WheelhouseError, match="not one, or was changed"):
        wheelhouse.parse(text, folder=Path("house"))


@pytest.mark.parametrize("name", ["../evil.whl", "/etc/evil.whl", "a/b.whl", "notes.txt"])
def test_an_index_names_no_file_elsewhere(name):
    wheel = Wheel(name="a", version="1", filename=name, sha256="0" * 64, size=1, path=Path(name))
    with pytest.raises(WheelhouseError, match="not the name of a wheel"):
        wheelhouse.parse(wheelhouse.index(Wheelhouse((wheel,))), folder=Path("house"))
    source = Sdist(name="a", version="1", filename=name, sha256="0" * 64, size=1, path=Path(name))
    with pytest.raises(WheelhouseError, match="not the name of a source"):
        wheelhouse.parse(wheelhouse.index(Wheelhouse((), sources=(source,))), folder=Path("house"))


def test_a_wheel_is_used_only_if_the_lock_vouches_for_it_or_its_source():
    pin = Pin(name="a", version="1", marker=None, hashes=("sha256:" + "1" * 64,))
    made = Wheel(
        name="a", version="1", filename="a.whl", sha256="2" * 64, size=1, path=Path("a.whl")
    )
    built = dataclasses.replace(made, sdist="1" * 64)
    assert Wheelhouse((built,)).requirements([pin]) == (
        "a==1 \\\n    --hash=sha256:" + "2" * 64 + "\n"
    )
    for other in (
        made,
        dataclasses.replace(built, version="2"),
        dataclasses.replace(built, sdist="3" * 64),
    ):
        with pytest.raises(WheelhouseError, match=r"a==1"):
            Wheelhouse((other,)).requirements([pin])


# --- building ---------------------------------------------------------------------------------


def a_wheel(folder: Path, tags: str, content: bytes = b"") -> Path:
    path = folder / f"a-1-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/_a.so", content)
    return path


def test_a_compiled_wheel_serves_no_machine_with_an_older_glibc(tmp_path):
    here = f"cp{HERE.python.replace('.', '')}"
    path = a_wheel(tmp_path, f"{here}-{here}-linux_{HERE.cpu}", b"GLIBC_2.4 GLIBC_2.34")
    old = Tag(python=HERE.python, libc="manylinux_2_28", cpu=HERE.cpu)
    assert wheelbuild.unfit(path, old) == "needs glibc 2.34"
    assert wheelbuild.unfit(path, dataclasses.replace(old, libc="manylinux_2_34")) == ""
    assert "only" in wheelbuild.unfit(path, ARM)
    assert wheelbuild.unfit(a_wheel(tmp_path, "py3-none-any", b"GLIBC_2.34"), old) == ""


# --- collecting -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(scope="module")
def collected(store: Path) -> Collected:
    return collect(pins_of(probe.markers()), HERE, store=store, notify=quiet)


@pytest.mark.network
def test_wheels_are_fetched_or_built_for_this_machine(collected, tmp_path):
    found = {wheel.name: wheel for wheel in collected.require("pilot")}
    assert found.keys() == set(NAMES)
    assert all(wheelhouse.intact(wheel.path, wheel) for wheel in found.values())
    assert found["netifaces"].sdist
    assert found["rc-process"].sdist
    assert not found["msgpack"].sdist
    house = Wheelhouse(collected.wheels)
    wheelhouse.write(tmp_path / "house", house)
    again = wheelhouse.read(tmp_path / "house")
    assert again.requirements(pins_of(probe.markers())).count("--hash") == len(NAMES)
    (tmp_path / "house" / found["idna"].filename).unlink()
    with pytest.raises(WheelhouseError, match="idna"):
        wheelhouse.read(tmp_path / "house")


@pytest.mark.network
def test_what_was_collected_is_not_fetched_again(collected, store, monkeypatch):
    monkeypatch.setattr(collecting, "run", None)
    again = collect(pins_of(probe.markers()), HERE, store=store, notify=quiet)
    assert again == collected


@pytest.mark.network
def test_what_cannot_be_had_for_a_target_is_named_with_the_reason(collected, store):
    pins = pins_of(ARM.markers())
    lacking = {
        one.name for one in collect(pins, ARM, store=store, offline=True, notify=quiet).missing
    }
    assert lacking == set(NAMES) - {"rc-process"}  # which was built here, and serves any machine
    found = collect(pins, ARM, store=store, notify=quiet)
    assert {wheel.name for wheel in found.wheels} == set(NAMES) - {"netifaces"}
    assert "aarch64" in next(w.filename for w in found.wheels if w.name == "msgpack")
    (missing,) = found.missing
    assert missing.name == "netifaces"
    assert str(ARM) in missing.reason
    with pytest.raises(EnvironmentNotReady, match=r"netifaces==0\.11\.0: there is no wheel"):
        found.require("pilot")


@pytest.mark.network
def test_a_file_with_another_hash_is_refused(tmp_path):
    pin = next(pin for pin in pins_of(probe.markers()) if pin.name == "idna")
    wrong = dataclasses.replace(pin, hashes=("sha256:" + "0" * 64,))
    with pytest.raises(InstallError, match="does not have the hash that the lock demands"):
        collect([wrong], HERE, store=tmp_path, notify=quiet)
    assert not (tmp_path / "files").exists()


def test_an_index_that_does_not_answer_is_an_error_and_not_a_missing_package(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = {"CONFIG_FILE": os.devnull, "INDEX_URL": closed_index(), "RETRIES": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    pins = pins_of(probe.markers())
    with pytest.raises(InstallError, match="index cannot be reached"):
        collect(pins, HERE, store=tmp_path, notify=quiet)


@pytest.mark.network
def test_a_wheel_of_the_store_that_was_changed_is_fetched_again(collected, store):
    idna = next(wheel for wheel in collected.wheels if wheel.name == "idna")
    idna.path.write_bytes(b"changed")
    pins = [pin for pin in pins_of(probe.markers()) if pin.name == "idna"]
    (again,) = collect(pins, HERE, store=store, notify=quiet).wheels
    assert wheelhouse.intact(again.path, idna)
