"""Packages that the Task venv does not have: they travel whole, with their data files."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from homes import LABEL

from scalems.store import digest
from scalems.workflow import file, packages, shipping
from scalems.workflow.pickling import decode, encode, encode_apart

INIT = """
from importlib import metadata
__version__ = metadata.version("ours-of-lab")
"""
FIELD = """
from importlib import resources
from pathlib import Path


class Field:
    def __init__(self, name):
        self.name = name

    def energy(self):
        from ours.deep import tools  # when it runs

        text = resources.files("ours").joinpath("data/fields.txt").read_text()
        beside = Path(__file__).with_name("data").joinpath("fields.txt").read_text()
        assert text == beside
        return tools.lookup(text, self.name)


def energy(field):
    return field.energy()
"""
TOOLS = """
def lookup(text, name):
    return float(dict(line.split() for line in text.splitlines())[name])
"""


def lay(folder: Path) -> Path:
    package = folder / "src" / "ours"
    (package / "deep").mkdir(parents=True)
    (package / "data").mkdir()
    (package / "__init__.py").write_text(INIT)
    (package / "field.py").write_text(FIELD)
    (package / "deep" / "__init__.py").touch()
    (package / "deep" / "tools.py").write_text(TOOLS)
    (package / "data" / "fields.txt").write_text("amber 1.5\ncharmm 2.5\n")
    told = folder / "site" / "ours_of_lab-3.1.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: ours-of-lab\nVersion: 3.1\n")
    (told / "direct_url.json").write_text(
        f'{{"url": "{folder.as_uri()}", "dir_info": {{"editable": true}}}}'
    )
    return package


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """A package that is installed here as editable, and that the far side does not have."""
    folder = tmp_path / "it's ours"
    package = lay(folder)
    monkeypatch.syspath_prepend(folder / "src")
    monkeypatch.syspath_prepend(folder / "site")
    shipping.far_side_has(["cloudpickle"])
    yield package
    shipping.far_side_has(None)
    for name in [one for one in sys.modules if one.partition(".")[0] == "ours"]:
        del sys.modules[name]


FAR = """
import sys
from pathlib import Path
from scalems.workflow import file
from scalems.workflow.pickling import decode, encode, loads
with file.using(sys.argv[1]):
    for name in sys.argv[2:]:
        function, args, kwargs = decode(Path(name).read_bytes())
        print(function(*args, **kwargs), sys.modules["ours"].__version__)
        again = encode(function, args, kwargs)  # a task that submits others
        assert b"ours.zip" in again
        assert decode(again)[0](*args, **kwargs) == function(*args, **kwargs)
"""


def far(area: str, *payloads: Path) -> list[str]:
    """Do calls in another Python that has the package nowhere; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", FAR, area, *map(str, payloads)],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_package_travels_whole_and_a_changed_one_takes_its_place(ours, tmp_path, caplog):
    from ours import field

    with file.area(tmp_path / "store") as area:
        with caplog.at_level("INFO", "scalems"):
            first = tmp_path / "first"
            first.write_bytes(encode(field.energy, (field.Field("amber"),), {}))
        assert "the package ours" in caplog.text
        (ours / "data" / "fields.txt").write_text("amber 7.5\n")
        shipping.far_side_has(None)
        shipping.far_side_has(["cloudpickle"])  # as the next run does
        kept = next((Path(area) / "packages").glob("*.zip"))
        kept.rename(tmp_path / "old.zip")
        second = tmp_path / "second"
        second.write_bytes(encode(field.energy, (field.Field("amber"),), {}))
        assert far(area, second) == ["7.5 3.1"]
        new = kept.rename(tmp_path / "new.zip")
        (tmp_path / "old.zip").rename(kept)
        assert far(area, first) == ["1.5 3.1"]
        # One process after the other: what has come is found without the archive.
        new.replace(kept)
        assert far(area, first, second, first) == ["1.5 3.1", "7.5 3.1", "1.5 3.1"]
    assert not Path(area).exists()


def test_its_data_files_count_and_its_code_counts_as_what_is_used(ours, tmp_path):
    from ours import field

    def now():
        shipping.far_side_has(None)
        shipping.far_side_has(["cloudpickle"])
        digest._codes.clear()
        return digest.of_function(field.energy)

    with file.area(tmp_path / "store"):
        before = now()
        (ours / "deep" / "unused.py").write_text("x = 1\n")
        assert now() == before
        (ours / "data" / "fields.txt").write_text("amber 7.5\n")
        after = now()
    changed = {name for name in after.parts if after.parts[name] != before.parts.get(name)}
    assert changed == {"files of ours"}


def test_the_next_run_of_a_client_sends_it_again(ours, tmp_path):
    from ours import field

    for name in ("a", "b"):
        with file.area(tmp_path / name) as area:
            for function in (field.energy, lambda value: field.energy(value)):
                payload = tmp_path / f"{name}.call"
                payload.write_bytes(encode(function, (field.Field("amber"),), {}))
                assert far(area, payload) == ["1.5 3.1"]
            assert area.encode() in encode_apart(field.energy, (), {}).function


def test_one_content_gives_one_archive(ours, tmp_path):
    found = set()
    for name in ("a", "b"):
        with file.area(tmp_path / name) as area:
            packages.add("ours", ours)
            archive = Path(area) / "packages" / "ours.zip"
            found.add(hashlib.sha256(archive.read_bytes()).hexdigest())
            (ours / "__pycache__").mkdir(exist_ok=True)
            (ours / "__pycache__" / "x.pyc").touch()
    assert len(found) == 1


def test_one_that_is_too_large_travels_by_value_as_single_modules_do(
    ours, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(packages, "LARGEST", 10)
    from ours import field

    with file.area(tmp_path / "store"), caplog.at_level("INFO", "scalems"):
        payload = encode(field.energy, (1,), {})
    assert "cannot travel whole: it has more than" in caplog.text
    assert b"ours.zip" not in payload
    assert decode(payload)[0] is not field.energy


SCRIPT = """
import sys
sys.path.insert(0, "src")
import scalems
from ours import field

@scalems.task
def outer(name):
    inner = scalems.submit(field.energy, field.Field(name))
    return inner, field.Field(name)

@scalems.app
def main():
    outcome = outer("amber")
    value, made = outcome[0], outcome[1]
    print(scalems.gather([value])[0], made.result().name)
    print(scalems.map(field.energy, [field.Field("amber")] * 2)[1].result())
    print(scalems.submit(field.energy, outer("charmm")[1]).result())
"""


@pytest.mark.parametrize(
    "options",
    [
        ["local", "--venv", "task"],
        pytest.param(
            ["radical", "--resource", LABEL, "--venv", "task", "--pilot", "new"],
            marks=pytest.mark.radical,
        ),
    ],
    ids=["local", "radical"],
)
def test_a_script_uses_a_package_that_the_task_venv_has_not(synced_home, tmp_path, options):
    package = lay(tmp_path)
    (package / "__init__.py").write_text("")
    (tmp_path / "script.py").write_text(SCRIPT)
    command, *more = options
    done = subprocess.run(
        [sys.executable, "-m", f"scalems.{command}", "-v", "-j", "2", *more, "script.py"],
        cwd=tmp_path,
        env=synced_home.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.5", "amber", "1.5", "2.5"]
    assert "the package ours" in done.stderr
    assert "warning" not in done.stderr
    assert not [*tmp_path.rglob("packages")]
