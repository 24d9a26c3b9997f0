"""What is built from source: compiled packages of the index, with the MPI of the site."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from homes import add_task, make_scalems
from hypothesis import given
from hypothesis import strategies as st
from indexes import closed_index
from packaging.specifiers import SpecifierSet

from scalems import probe
from scalems.env import compile, mpi, prepare, spec, tag, target, wheelhouse
from scalems.env.engine import InstallError, choose
from scalems.env.layout import Layout
from scalems.env.lock import Lock, Pin
from scalems.env.locking import Options
from scalems.env.prepare import Workshop
from scalems.env.sdist import Shelf
from scalems.env.site import Site
from scalems.env.wheelhouse import WheelhouseError
from scalems.errors import ExitCode, UsageError

needs_mpi = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("mpicc.openmpi") and shutil.which("gcc")),
    reason="needs Debian's libopenmpi-dev and gcc, which scripts/test installs as root",
)

MARKUPSAFE = Pin(
    name="markupsafe",
    version="3.0.2",
    marker=None,
    hashes=("sha256:ee55d3edf80167e48ea11a923c7386f4669df67d7994554387f84e7d8b0a2bf0",),
)
"""A package with a small C extension; the hash is that of its source distribution."""


def load(folder: Path, text: str) -> spec.EnvSpec:
    path = folder / "task.toml"
    path.write_text(f'role = "task"\n{text}')
    return spec.load(path)


# --- specs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('no-binary = ["a b"]', "no-binary[0]: is not the name of a package"),
        ('no_binary = ["mpi4py"]', "did you mean 'no-binary'"),
        ('no-binary = ["scalems"]', "scalems is always installed as the code"),
        ("[build.mpi4py]\nenv = {A = 'b'}", "build.mpi4py: mpi4py is installed from a wheel"),
        ('no-binary = ["mpi4py"]\n[build.mpi4pi]', "did you mean 'mpi4py'"),
        ('no-binary = ["a"]\n[build.a]\nenv = {"A B" = "c"}', "A B"),
        ('no-binary = ["a"]\n[build.a]\nenv = {A = 1}', "build.a.env.A: must be a string"),
        ('no-binary = ["a"]\n[build.a]\nevn = {}', "did you mean 'env'"),
    ],
)
def test_mistakes_in_a_spec(tmp_path, text, told):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert told in caught.value.cause


def test_what_the_lock_has_not_cannot_be_built(tmp_path):
    loaded = load(tmp_path, 'no-binary = ["markupsaf"]')
    interpreter = target.find_interpreter(loaded)
    with pytest.raises(UsageError, match="did you mean 'markupsafe'"):
        compile.select(loaded, [MARKUPSAFE], interpreter, {})


# --- wheels -------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.parametrize("engine", ["uv", "pip"])
def test_each_engine_builds_once_for_equal_inputs(tmp_path, engine):
    told: list[str] = []

    def notify(step: str, *, detail: bool = False) -> None:
        if not detail:
            told.append(step)

    def build(shop: Workshop, env: str, **taken: str) -> Path:
        text = f'no-binary = ["MarkupSafe"]\n[build.markupsafe]\nenv = {env}'
        loaded = load(tmp_path, text)
        interpreter = target.find_interpreter(loaded)
        (one,) = compile.select(loaded, [MARKUPSAFE], interpreter, taken)
        return one.wheel(shop)

    place = Layout(tmp_path / "state")
    with prepare.workshop(place, choose(engine), Options(), notify=notify) as shop:
        first = build(shop, "{}")
        assert "-cp3" in first.name
        assert build(shop, "{}") == first
        assert told == ["building markupsafe 3.0.2 from its source"]
        with pytest.raises(InstallError) as caught:
            build(shop, '{CIBUILDWHEEL = "1", CC = "/nowhere/cc"}')
        assert "failed while building markupsafe" in caught.value.cause
        assert "[build.markupsafe]" in str(caught.value.remedy)
        assert build(shop, "{}", mpi="MPICH 4.0") != first
    assert len(list(place.packages.glob("[!.]*"))) == 2


@pytest.mark.network
@pytest.mark.parametrize("name", ["uv", "pip"])
def test_each_engine_builds_from_what_was_brought(tmp_path, name, monkeypatch):
    loaded = load(tmp_path, 'no-binary = ["markupsafe"]')
    interpreter = target.find_interpreter(loaded)
    there = tag.of(interpreter.facts)
    locked = Lock(inputs="", python=SpecifierSet(), pins=(MARKUPSAFE,))
    engine = choose(name)
    shelf = Shelf(store=tmp_path / "store", engine=engine, offline=False, notify=quiet)
    made = shelf.collect(loaded, locked, there, interpreter.markers)
    (source,) = made.sources
    assert source.serves(MARKUPSAFE)
    assert "setuptools==" in source.needs
    assert replace(shelf, offline=True).collect(loaded, locked, there, interpreter.markers) == made
    wheelhouse.write(tmp_path / "house", made)
    house = wheelhouse.read(tmp_path / "house")
    (one,) = compile.select(loaded, [MARKUPSAFE], interpreter, {}, house.sources)
    for variable in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        monkeypatch.setenv(variable, closed_index())
    with prepare.workshop(Layout(tmp_path / "state"), engine, Options(), notify=quiet) as shop:
        assert "-cp3" in one.wheel(shop, house).name
    with pytest.raises(WheelhouseError, match="setuptools=="):
        one.needs(replace(house, wheels=()))
    with pytest.raises(WheelhouseError, match=r"the source of markupsafe==3\.0\.2"):
        replace(one, source=None).needs(house)
    with (tmp_path / "house" / source.filename).open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(WheelhouseError, match=source.filename):
        wheelhouse.read(tmp_path / "house")


def quiet(step: str, *, detail: bool = False) -> None:
    pass


# --- MPI ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, May 26, 2022", "Open MPI 4.1.4"),
        ("mpirun (Open MPI) 5.0.7\n\nReport bugs to https://...", "Open MPI 5.0.7"),
        ("mpiexec (OpenRTE) 4.1.4\n", "Open MPI 4.1.4"),
        ("MPICH Version:      4.0.2\nMPICH Release date: x", "MPICH 4.0.2"),
        ("HYDRA build details:\n    Version:             4.0.2\n", "MPICH 4.0.2"),
        ("Intel(R) MPI Library 2021.5 for Linux* OS", "Intel MPI 2021.5"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.5 Build 20211102", "Intel MPI 2021.5"),
        ("MVAPICH2 Version      :  2.3.7", "MVAPICH 2.3.7"),
        ("slurm 22.05.8", ""),
    ],
)
def test_libraries_and_launchers_name_their_mpi(text, named):
    assert mpi.name(text) == named


@given(st.text())
def test_any_text_names_an_mpi_or_none(text):
    assert isinstance(mpi.name(text), str)


def test_another_family_is_an_error_and_another_version_a_warning(tmp_path):
    remedies = []

    def found(text: str, known: str, *, built_here: bool = False) -> list[str]:
        (tmp_path / "mpiexec").write_text(f"#!/bin/sh\necho '{text}'\n")
        (tmp_path / "mpiexec").chmod(0o755)
        taken = Site(shell=(f"PATH={tmp_path}:$PATH; unset SCALEMS_MPIEXEC",))
        told = mpi.check("task", taken, {"name": known, "file": ""}, built_here=built_here)
        findings = list(told)
        remedies.extend(one.remedy for one in findings)
        return [one.severity.value for one in findings]

    ours = "mpirun (Open MPI) 4.1.4"
    assert found(ours, "Open MPI 4.1.4") == []
    assert found(ours, "Open MPI 4.0.1") == ["warning"]
    assert found(ours, "Open MPI 5.0.1") == ["error"]
    assert found(ours, "MPICH 4.1.4") == ["error"]
    assert 'no-binary = ["mpi4py"]' in remedies[-1]
    assert found(ours, "MPICH 4.1.4", built_here=True) == ["error"]
    assert remedies[-1].endswith("or let a sync build mpi4py with that of Open MPI 4.1.4")
    assert found("srun 22", "MPICH 4.1.4") == []


@needs_mpi
@pytest.mark.mpi
@pytest.mark.network
@pytest.mark.slow
def test_mpi4py_is_built_with_the_mpi_of_the_site(tmp_path):
    made = make_scalems(tmp_path)
    add_task(made.project)
    path = made.project / "envs" / "task.toml"
    former = path.read_text().replace("dependencies = []", 'dependencies = ["mpi4py>=4"]')
    path.write_text(
        'no-binary = ["mpi4py"]\nshell = ["export MPICC=mpicc.openmpi"]\n'
        + former
        + '\n[build.mpi4py]\nenv = {CFLAGS = "-O0"}\n'
    )
    made.sync()
    assert [one["action"] for one in made.sync()["envs"]] == ["unchanged", "unchanged"]
    report = made.check("--deep")
    row = next(row for row in report["parity"]["rows"] if row["what"] == "MPI of mpi4py")
    assert row["values"]["task"].startswith("Open MPI ")
    shown = made.json("env", "show", "task")
    assert shown["built here"] == ["mpi4py"]
    assert "libmpi" in shown["MPI of mpi4py"]["file"]
    # It is linked with that library, not with one that it would look for when imported.
    site = probe.site_packages(made.build("task") / "venv")
    (module,) = site.glob("mpi4py/MPI*.so")
    linked = made.run("env", "run", "task", "--", "ldd", module).stdout
    assert "libmpi.so" in linked

    # An mpiexec of another MPI is found, here through a shell line of the spec.
    path.write_text(path.read_text().replace('"export MPICC', '"export X=1", "export MPICC'))
    findings = made.check("--fast", code=ExitCode.NOT_READY)["findings"]
    assert [one["kind"] for one in findings] == ["spec changed since the sync"]
    if shutil.which("mpiexec.mpich"):
        before = {**made.env}
        made.env["SCALEMS_MPIEXEC"] = "mpiexec.mpich"
        findings = made.check("--fast", code=ExitCode.NOT_READY)["findings"]
        assert mpi.DIFFERENT in [one["kind"] for one in findings]
        made.env.clear()
        made.env.update(before)
