from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.errors import SerializationError, TaskError, TaskLost
from scalems.workflow.call import (
    CANCELLED,
    LOST,
    Call,
    Failure,
    RemoteTraceback,
    decode,
    encode,
    encode_apart,
    execute,
    failed,
    failure_in,
    result,
    running,
)

LOCK = threading.Lock()


def call_of(function, *args, **kwargs):
    return Call(id=7, name=function.__name__, payload=encode(function, args, kwargs))


def run(function, *args, **kwargs):
    return execute(call_of(function, *args, **kwargs))


def test_a_value_comes_back_as_itself():
    outcome = run(lambda a, *, b: {(a, 1): {b}}, "x", b=3 + 4j)
    assert outcome.ok
    assert outcome.id == 7
    assert outcome.started <= outcome.ended
    assert result(outcome) == {("x", 1): {3 + 4j}}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text() | st.binary(), inner)
        ),
    )
)
def test_any_plain_value_survives(value):
    assert result(run(lambda x: x, value)) == value


def test_a_call_can_be_seen_while_it_runs():
    assert result(run(lambda: running().name)) == "<lambda>"
    assert running() is None


def test_an_exception_comes_back_with_its_remote_traceback():
    class Mine(ValueError):
        def __init__(self, text):
            super().__init__(text)
            self.detail = {"text": text}

    def fail():
        raise Mine("no such residue")

    with pytest.raises(Mine, match="no such residue") as caught:
        result(run(fail))
    assert caught.value.detail == {"text": "no such residue"}
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    text = str(caught.value.__cause__)
    assert "in fail" in text
    assert "in execute" not in text


def test_an_exception_comes_back_as_itself_whatever_its_class_asks_for():
    class Awkward(Exception):
        def __init__(self, first, *, second):
            super().__init__(f"{first} and {second}", threading.Lock())
            self.first, self.lock = first, threading.Lock()

        def __str__(self):
            return self.args[0]

    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        def __reduce__(self):
            raise RuntimeError("no pickle")

    def fail(broken):
        raise Broken if broken else Awkward(1, second=2)

    with pytest.raises(Awkward, match=r"^1 and 2$") as caught:
        result(run(fail, broken=False))
    assert caught.value.first == 1
    assert "lock" in caught.value.args[1]
    assert not hasattr(caught.value, "lock")
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(Broken):
        result(run(fail, broken=True))


def test_an_exception_whose_class_cannot_travel_is_told_by_name():
    def fail():
        raise type("Stuck", (Exception,), {"lock": threading.Lock()})("here")

    with pytest.raises(TaskError, match="Stuck: here") as caught:
        result(run(fail))
    assert "in fail" in str(caught.value.__cause__)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_the_process_fails_the_call_only(error):
    def fail():
        raise error

    with pytest.raises(TaskError, match=type(error).__name__):
        result(run(fail))


def test_a_result_that_cannot_travel_is_named():
    def make():
        return {"fine": 1, "inner": [threading.Lock()]}

    with pytest.raises(SerializationError, match=r"make: the result\['inner'\]\[0\] \(lock\)"):
        result(run(make))


def test_a_value_that_cannot_be_rebuilt_here_says_so():
    outcome = run(int)
    broken = pickle.dumps(RemoteTraceback).replace(b"RemoteTraceback", b"AbsentTraceback")
    with pytest.raises(TaskError, match="cannot be rebuilt here: AttributeError"):
        result(type(outcome)(**{**vars(outcome), "payload": broken}))


def test_lost_and_cancelled_calls_raise_as_such():
    call = call_of(int)
    lost = failed(call, Failure(type=LOST, message="was killed"))
    assert failure_in(lost).message == "was killed"
    with pytest.raises(TaskLost, match="was killed"):
        result(lost)
    with pytest.raises(CancelledError):
        result(failed(call, Failure(type=CANCELLED, message="")))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: encode(print, (1, {"a": LOCK}), {}), r"argument .*\['a'\] \(lock\)"),
        (lambda: encode(lambda *, lock: 0, (), {"lock": LOCK}), "argument 'lock'"),
        (lambda: encode(lambda first, second: 0, (1, LOCK), {}), "argument 'second'"),
        (lambda: encode(uses_global, (), {}), "global variable 'held'"),
        (lambda: encode(encloses(threading.Lock()), (), {}), "enclosing variable 'lock'"),
        (lambda: encode(print, (nested(5000),), {}), r"argument .* \(list\) .*nested too deeply"),
    ],
)
def test_what_cannot_be_sent_is_named(make, expected):
    with pytest.raises(SerializationError, match=f"(?s){expected}") as caught:
        make()
    assert caught.value.remedy


def nested(depth):
    return functools.reduce(lambda value, _: [value], range(depth), [])


def uses_global():  # by value, as it would be in a script
    return held  # noqa: F821


uses_global = type(uses_global)(
    uses_global.__code__, {"held": LOCK, "__name__": "__main__"}, "uses_global"
)


def encloses(lock):
    def inner():
        return lock

    return inner


def test_modules_beside_the_script_travel_by_value(tmp_path):
    (tmp_path / "beside.py").write_text(
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "def double(point): return Point(2 * point.x)\n"
    )
    (tmp_path / "script.py").write_text(
        "import sys, beside\n"
        "from scalems.workflow.call import Call, Outcome, encode, result\n"
        "if sys.argv[1] == 'encode':\n"
        "    sys.stdout.buffer.write(encode(beside.double, (beside.Point(21),), {}))\n"
        "else:\n"
        "    raise SystemExit('unexpected')\n"
    )
    script = [sys.executable, str(tmp_path / "script.py"), "encode"]
    payload = subprocess.run(script, check=True, capture_output=True).stdout
    point = result(execute(Call(id=1, name="double", payload=payload)))
    assert point.x == 42
    assert "beside" not in sys.modules


def test_the_far_side_needs_only_the_standard_library_and_cloudpickle():
    code = (
        "import sys; import scalems.workflow.pool, scalems.workflow.child;"
        "print(sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert run.stdout.strip() == "['__main__', 'cloudpickle', 'scalems']"


def test_objects_keep_their_slots_in_another_process():
    far = (
        "import pickle, sys; from scalems.workflow.pickler import dumps;"
        "values = pickle.load(sys.stdin.buffer);"
        "assert [hasattr(value, '__dict__') for value in values] == [False, True];"
        "sys.stdout.buffer.write(dumps(values))"
    )
    code = f"""
import dataclasses, pickle, subprocess, sys
from scalems.workflow.pickler import dumps

@dataclasses.dataclass(slots=True)
class Point:
    x: int
    y: int = 2

class Named(Point):
    __slots__ = ("name", "__dict__")

named = Named(3)
named.name, named.more = "a", 4
far = [sys.executable, "-c", {far!r}]
sent = subprocess.run(far, input=dumps([Point(1), named]), stdout=subprocess.PIPE)
point, back = pickle.loads(sent.stdout)
print(point == Point(1), type(back) is Named, back.x, back.y, back.name, back.more)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "True True 3 2 a 4\n", run.stderr


def test_what_functools_makes_of_functions_travels():
    code = """
import functools, subprocess, sys
from scalems.store import digest
from scalems.workflow.pickler import dumps

@functools.lru_cache(maxsize=7)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

@functools.singledispatch
def kind(value):
    return "any"

@kind.register
def _(value: int):
    return [kind("x")]

class Cell:
    @functools.cached_property
    def length(self):
        return 3

def use():
    cell = Cell()
    return fib(50), fib.cache_info().maxsize, kind(1), cell.length, vars(cell)

far = "import pickle, sys; print(pickle.load(sys.stdin.buffer)())"
subprocess.run([sys.executable, "-c", far], input=dumps(use), check=True)
before = digest.of_function(use)
kind.register(str, len)
assert digest.of_function(use).digest != before.digest
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "(12586269025, 7, ['any'], 3, {'length': 3})\n", run.stderr


def test_calls_share_the_bytes_of_their_function():
    text = "a long one" * 200

    def big(x, *, more=0):
        return len(text) + x + more

    one, other = (encode_apart(big, (number,), {"more": 4}) for number in (1, 2))
    assert one.function is other.function
    assert len(one.function) > 1000 > len(one.payload)
    outcome = execute(Call(id=1, name="big", payload=one.payload, function=one.function))
    assert result(outcome) == 2005
    made, args, kwargs = decode(*other)
    assert made(*args, **kwargs) == 2006
    made, args, kwargs = decode(encode(big, (3,), {}))
    assert (made(*args), kwargs) == (2003, {})


def test_a_call_process_loads_only_what_every_call_needs():
    seldom = ["hashlib", "random", "shutil", "subprocess", "tempfile", "difflib", "html"]
    code = (
        "import sys, cloudpickle; before = {*sys.modules}; import scalems.workflow.child;"
        f"print({{*{seldom}}} & {{*sys.modules}} - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
