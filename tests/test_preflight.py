"""What calls need is looked at before there is a pilot: in a real process of a real venv."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import types

import pytest
from homes import REPO

from scalems import probe
from scalems.env.finding import Policy
from scalems.env.role import Role
from scalems.env.verification import Build
from scalems.errors import EnvironmentNotReady
from scalems.radical.preflight import Preflight
from scalems.workflow import argument, inspection, shipping
from scalems.workflow.block import encoded
from scalems.workflow.call import Call, encode, encode_apart
from scalems.workflow.needs import Needs

LIMIT = 60  # seconds


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A Task venv with scalems and cloudpickle, and nothing else."""
    folder = tmp_path_factory.mktemp("task")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = probe.site_packages(venv)
    import cloudpickle

    (site / "here.pth").write_text(f"{REPO}\n")
    (site / "cloudpickle").symlink_to(next(iter(cloudpickle.__path__)))
    return Build(
        name="task",
        role=Role.TASK,
        folder=folder,
        input_digest="",
        content_digest="",
        scalems_digest="",
        versions={},
    )


@pytest.fixture(autouse=True)
def _far_side():
    """The Task venv has little, so the modules of this folder travel by value."""
    shipping.far_side_has(["cloudpickle"])
    yield
    shipping.far_side_has(None)


class Looked:
    """What became of calls that a preflight was offered."""

    def __init__(self, build, policy=Policy.ERROR):
        self.notes, self.errors = [], []
        self.event = threading.Event()
        self.preflight = Preflight(build, "lab.cluster", policy, notify=self.note)
        self.preflight.refuse = self.error

    def note(self, text):
        self.notes.append(text)
        self.event.set()

    def error(self, error):
        self.errors.append(error)
        self.event.set()

    def at(self, function, *args, expect=True, **options):
        payload, apart = encode_apart(function, args, {})
        name = getattr(function, "__name__", "f")
        call = Call(id=1, name=name, payload=payload, function=apart, **options)
        self.preflight.offer(call)
        if expect:
            assert self.event.wait(LIMIT)
        else:
            self.preflight._waiting.put(None)
            self.preflight._thread.join(LIMIT)
        self.preflight.end()
        return self


def needs_numpy(x):
    import numpy

    return numpy.sqrt(x)


def may_need_numpy(x):
    if x > 3:
        import numpy

        return numpy.sqrt(x)
    return x


def tries_numpy(x):
    try:
        import numpy
    except ImportError:
        return x
    return numpy.sqrt(x)


def innocent(x):
    import json

    return json.dumps(x)


def helper(x):
    import numpy

    return numpy.sqrt(x)


def has_a_helper(x):
    return helper(x)


def local(function):
    """Return a function that travels by value, as those of a script do."""
    new = types.FunctionType(function.__code__, {**globals(), "__name__": "__main__"})
    new.__module__ = "__main__"
    return new


@pytest.mark.parametrize("function", [needs_numpy, has_a_helper])
def test_what_a_call_always_imports_must_be_there(build, function):
    looked = Looked(build).at(local(function), 4)
    (error,) = looked.errors
    assert isinstance(error, EnvironmentNotReady)
    assert "needs the module 'numpy', which the Task venv 'task' does not have" in error.cause
    assert "add numpy to the dependencies in envs/task.toml" in error.remedy
    assert "scalems env sync --resource lab.cluster" in error.remedy


@pytest.mark.parametrize("function", [may_need_numpy, tries_numpy])
def test_what_it_may_import_is_a_warning(build, function):
    looked = Looked(build).at(local(function), 4)
    assert looked.errors == []
    assert "may need the module 'numpy'" in looked.notes[0]


def test_a_policy_lets_it_pass(build):
    looked = Looked(build, Policy.WARN).at(local(needs_numpy), 4)
    assert looked.errors == []
    assert "warning: needs_numpy needs the module 'numpy'" in looked.notes[0]
    off = Looked(build, Policy.OFF)
    off.preflight.offer(Call(id=1, name="f", payload=b""))
    assert off.preflight._thread is None


def test_a_good_call_is_not_talked_about(build):
    looked = Looked(build).at(local(innocent), {"x": (1, 2.0)}, expect=False)
    assert (looked.notes, looked.errors) == ([], [])


def test_values_and_functions_of_a_missing_package_are_found(build):
    import numpy

    looked = Looked(build).at(local(innocent), numpy.zeros(3))
    assert "needs the module 'numpy'" in looked.errors[0].cause
    import yaml

    looked = Looked(build).at(yaml.safe_load, "a: 1")
    assert "needs the module 'yaml'" in looked.errors[0].cause
    assert "add PyYAML to the dependencies" in looked.errors[0].remedy


def test_an_item_of_a_block_is_looked_at_as_a_call(build):
    for function, items, expected in (
        (local(innocent), [(1,), (2,)], []),
        (local(innocent), [([1, {2: 3}],)], []),
        (local(needs_numpy), [(4,), (9,)], ["numpy"]),
    ):
        ((count, payload),) = encoded(function, items)
        block = Call(id=1, name="f", payload=payload, items=tuple(range(count)))
        looked = Looked(build)
        looked.preflight.offer(block)
        looked.preflight._waiting.put(None)
        looked.preflight._thread.join(LIMIT)
        looked.preflight.end()
        assert looked.notes == []
        assert [name for name in ("numpy",) if name in str(looked.errors)] == expected


def test_ranks_need_mpi4py(build):
    looked = Looked(build).at(local(innocent), 1, needs=Needs(ranks=2))
    assert "needs the module 'mpi4py'" in looked.errors[0].cause


def test_the_parts_of_a_call_that_waited_for_others_are_looked_at():
    template = encode(local(needs_numpy), (argument.Slot(0),), {})
    payload = encode(argument.apply, (template, [argument.Packed(b"\x80\x05K\x01.")]), {})
    found = inspection.examine(payload)
    assert found["missing"] == {}  # numpy is here
    assert found["by_value"]
    functions = list(inspection._functions(payload, inspection._Found()))
    assert dict(inspection.imports(functions[0])) == {"numpy": True}


def test_versions_of_packages_that_are_referred_to_are_told():
    import yaml

    found = inspection.examine(encode(yaml.safe_load, ("a",), {}))
    assert found["packages"] == {"PyYAML": [yaml.__version__, True]} or found["packages"] == {
        "PyYAML": (yaml.__version__, True)
    }
    found = inspection.examine(encode(functools.partial(local(innocent), 1), (), {}))
    assert found["packages"] == {}


def test_a_function_of_another_version_is_refused_and_a_value_is_a_warning(build):
    looked = Looked(build)
    call = Call(id=1, name="f", payload=b"")
    answer = {"packages": {"numpy": ("0.1", True), "PyYAML": ("0.2", False)}}
    faults = list(looked.preflight._faults(call, answer))
    assert [(certain, "0." in text) for certain, text, _ in faults] == [(True, True), (False, True)]
    assert "f is of numpy, which is" in faults[0][1]
    assert "f gets values of PyYAML" in faults[1][1]


def test_bytecode_needs_the_same_python_and_a_reference_does_not(build):
    looked = Looked(build)
    call = Call(id=1, name="f", payload=b"")
    by_value = {"by_value": True, "python": "3.2.1"}
    assert "travels as bytecode" in next(looked.preflight._faults(call, by_value))[1]
    assert list(looked.preflight._faults(call, {**by_value, "by_value": False})) == []


# --- what travels by value ------------------------------------------------------------------


@pytest.fixture
def loose(tmp_path, monkeypatch):
    """A module of a folder that somebody has put on the path."""
    (tmp_path / "loose_things.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import loose_things

    yield loose_things
    del sys.modules["loose_things"]


def modules_in(payload):
    found = inspection._Found()
    list(inspection._functions(payload, found))
    return found.modules - set(sys.stdlib_module_names)


def test_a_module_that_the_far_side_has_not_travels_by_value_and_is_told(loose, caplog):
    with caplog.at_level("INFO", "scalems"):
        assert modules_in(encode(loose.twice, (1,), {})) == set()
    assert any("the module loose_things" in record.message for record in caplog.records)


def test_one_that_it_has_does_not_nor_one_that_is_here_too(loose):
    import yaml

    shipping.far_side_has(["cloudpickle", "loose_things.py"])
    assert modules_in(encode(loose.twice, (1,), {})) == {"loose_things"}
    assert modules_in(encode(yaml.safe_load, ("1",), {})) == {"yaml"}
    shipping.far_side_has(None)  # the calls run in this Python, which has them all
    assert modules_in(encode(loose.twice, (1,), {})) == {"loose_things"}
