"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import LABEL, Scalems, clean_environment, copy_project, make_scalems
from hypothesis import settings

settings.register_profile("dev", deadline=None, max_examples=80)
settings.register_profile("ci", deadline=None, max_examples=80, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background so, and all children would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: none of them is to run alone at the end."""
    names = ("radical", "slurm", "ssh", "slow")
    long = {item.path for item in items if any(map(item.get_closest_marker, names))}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def graph(tmp_path_factory: pytest.TempPathFactory):
    """The graph of a running workflow, on two processes of this machine."""
    from scalems.local.backend import LocalBackend
    from scalems.workflow import file
    from scalems.workflow.current import activated
    from scalems.workflow.graph import Graph

    with file.area(tmp_path_factory.mktemp("store")) as area:
        running = Graph(LocalBackend(workers=2), area=area)
        with activated(running):
            yield running
        running.close(abort=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private, empty home for this process and its children; caches are the user's."""
    folder = tmp_path / "home"
    folder.mkdir()
    clean = clean_environment()
    for name in os.environ.keys() - clean.keys():
        monkeypatch.delenv(name)
    for name, value in {**clean, "HOME": str(folder)}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the repository's own specs, locks and configs."""
    return copy_project(tmp_path / "project")


@pytest.fixture
def scalems(tmp_path: Path) -> Scalems:
    """A private home where nothing was synced, and a project with a Pilot venv only."""
    return make_scalems(tmp_path)


@pytest.fixture(scope="session")
def synced_home(tmp_path_factory: pytest.TempPathFactory) -> Scalems:
    """A home in which the repository's own specs were synced. No test may change it."""
    made = make_scalems(tmp_path_factory.mktemp("synced"), copy_project)
    made.run("env", "sync", "--resource", LABEL)
    return made


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scalems]:
    """A home in which a Pilot venv was synced. A test that changes it must sync it again."""
    made = make_scalems(tmp_path_factory.mktemp("small"))
    made.sync()
    yield made
    assert made.check("--deep")["ok"], "a test has left the shared home changed"
