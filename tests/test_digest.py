"""Digests of values and functions: equal for equal content, in every process."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import os
import re
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.store import digest

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(leaves)
    ),
    max_leaves=20,
)


@given(values)
def test_a_copy_has_the_same_digest(value):
    assert digest.of(copy.deepcopy(value)) == digest.of(value)


@given(values, values)
def test_equal_digests_mean_equal_values(one, other):
    if digest.of(one) == digest.of(other):
        assert one == other


@given(st.dictionaries(st.text(), leaves), st.randoms())
def test_the_order_of_a_dict_does_not_count(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert digest.of(dict(items)) == digest.of(value)


def test_kinds_of_numbers_and_texts_are_told_apart():
    alike = [1, 1.0, True, "1", b"1", (1,), [1], {1}, 1 + 0j, frozenset({1}), {1: 1}]
    found = {digest.of(value) for value in alike}
    assert len(found) == len(alike)


def test_sharing_does_not_count_and_loops_end():
    part = [1, 2]
    assert digest.of([part, part]) == digest.of([[1, 2], [1, 2]])
    loop: list[object] = [1]
    loop.append(loop)
    other: list[object] = [2]
    other.append(other)
    assert digest.of(loop) == digest.of(copy.deepcopy(loop)) != digest.of(other)


IN_A_PROCESS = """
from scalems.store import digest
import numpy as np

THING = {"b", "a", "c"}

class Point:
    def __init__(self, x): self.x = x
    def norm(self): return abs(self.x) + helper(0)

def helper(x): return x in {"q", "r", "s"}, THING

def function(x, *, y={"k": {1, 2, 3}}): return helper(x), Point(y)

print(digest.of([{"x", "y", "z"}, Point({"u", "v"}), np.arange(5.0), {"f": helper}]))
print(digest.of_function(function).digest)
"""


def test_processes_agree_whatever_their_hash_seed():
    printed = {
        subprocess.run(
            [sys.executable, "-c", IN_A_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(printed) == 1


def test_arrays_count_by_content():
    one = numpy.arange(12.0).reshape(3, 4)
    assert digest.of(one) == digest.of(one.copy()) == digest.of(numpy.asfortranarray(one))
    others = [one.T, one.reshape(4, 3), one.astype("f4"), one + 1, list(one.ravel())]
    assert len({digest.of(value) for value in [one, *others]}) == 6
    assert digest.of(one[0, 0]) != digest.of(0.0)
    mixed = [numpy.array([{}, "x"], dtype=object) for _ in range(2)]
    assert digest.of(mixed[0]) == digest.of(mixed[1])


@dataclasses.dataclass(frozen=True)
class Pair:
    x: int
    y: object = None


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


Named = namedtuple("Named", "a b")


def test_objects_count_by_what_they_hold():
    binary = functools.partial(int, base=2)
    for value in (Pair(1, [2]), Named(1, 2), Colour.RED, OrderedDict(a=1), binary):
        assert digest.of(value) == digest.of(copy.deepcopy(value))
    assert digest.of(Pair(1)) != digest.of(Pair(2))
    assert digest.of(Colour.RED) != digest.of(Colour.BLUE)
    assert digest.of(Named(1, 2)) != digest.of((1, 2))


def test_what_pickles_by_copyreg_has_a_digest_too():
    def masked(place):
        return numpy.ma.array([1, 2], mask=[place == 0, place == 1])

    for value in (re.compile("a+", re.I), numpy.add, int | None, masked(0)):
        assert digest.of(value) == digest.of(copy.deepcopy(value))
    assert digest.of(re.compile("a")) != digest.of(re.compile("b"))
    assert digest.of(numpy.add) != digest.of(numpy.subtract)
    assert digest.of(masked(0)) != digest.of(masked(1))


def test_the_order_counts_where_it_counts_in_a_comparison():
    assert digest.of(OrderedDict(a=1, b=2)) != digest.of(OrderedDict(b=2, a=1))
    assert digest.of({"a": 1, "b": 2}) == digest.of({"b": 2, "a": 1})


def test_a_file_counts_by_its_content(tmp_path):
    path = tmp_path / "data"
    before = digest.of(path)
    path.write_text("a")
    with_a = digest.of([path])
    path.write_text("b")
    assert digest.of([path]) != with_a
    path.write_text("a")
    assert digest.of([path]) == with_a
    path.unlink()
    assert digest.of(path) == before
    assert digest.of(str(path)) != before


def test_what_has_no_digest_is_named():
    with pytest.raises(digest.Unstable, match="lock"):
        digest.of([threading.Lock()])


BASE = """
LIMIT = 3
import math
class Tool:
    factor = 2
    def use(self, x): return x * self.factor
def helper(x): return math.sqrt(x) + LIMIT
def unused(): return 1
def main(x, scale=1):
    '''A docstring.'''
    def inner(y): return helper(y) + Tool().use(y)
    return inner(x) * scale
"""


def code_of(source: str) -> digest.Code:
    space: dict[str, object] = {"__name__": "__main__"}
    exec(source, space)
    return digest.of_function(space["main"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A docstring.", "Another one."),
        ("return 1\n", "return 2\n"),
        ("LIMIT = 3", "LIMIT = 3  # a comment\n\n"),
        ("import math", "import math, json"),
    ],
)
def test_what_does_not_change_what_it_does_does_not_count(before, after):
    assert before in BASE
    assert code_of(BASE.replace(before, after)).digest == code_of(BASE).digest


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("LIMIT = 3", "LIMIT = 4", {"LIMIT"}),
        ("math.sqrt", "math.exp", {"helper"}),
        ("factor = 2", "factor = 3", {"Tool"}),
        ("x * self", "x + self", {"Tool.use"}),
        ("scale=1", "scale=2", {"main(scale=…)"}),
        ("return inner(x)", "return -inner(x)", {"main"}),
    ],
)
def test_what_changes_it_counts_and_is_named(before, after, named):
    assert before in BASE
    one, other = code_of(BASE), code_of(BASE.replace(before, after))
    assert one.digest != other.digest
    names = one.parts | other.parts
    assert {name for name in names if one.parts.get(name) != other.parts.get(name)} == named


def test_a_global_that_changes_is_seen():
    space: dict[str, object] = {"__name__": "__main__"}
    exec("N = 1\nL = [1]\ndef f(): return N\ndef g(): return L", space)
    number, listed = digest.of_function(space["f"]).digest, digest.of_function(space["g"]).digest
    assert digest.of_function(space["f"]).digest == number
    space["N"] = 2
    space["L"].append(2)
    assert digest.of_function(space["f"]).digest != number
    assert digest.of_function(space["g"]).digest != listed


PARTS = """
import functools
LIMIT = {0}
TABLE = dict(a={1})
@functools.cache
def cached(x):
    'docstring {99}'
    return x + {2}
def closing(n):
    def inner(x):
        'another {99}'
        return x * n  # {99}
    return inner
inner = closing({3})
class Tool:
    'of a class {99}'
    factor = {4}
    def use(self, x): return x - {5}
    @staticmethod
    def plain(x): return x + {6}
    @functools.cached_property
    def slow(self): return {7}
    @property
    def quick(self): return {8}
def unused(): return {99}
def main(x, *, scale={9}):
    tool = Tool()
    both = [one + {10} for one in (inner(x), cached(x))]
    return LIMIT, TABLE, both, tool.use(x), tool.plain(x), tool.slow, tool.quick, main.step
main.step = {11}
"""
NAMED = (
    *("LIMIT", "TABLE", "cached", "n of closing.<locals>.inner", "Tool", "Tool.use", "Tool.plain"),
    *("Tool.slow", "Tool.quick", "main(scale=…)", "main", "main.step"),
)


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12), st.data())
def test_exactly_what_has_changed_is_told(numbers, data):
    changed = data.draw(st.sets(st.integers(0, 11)))
    after = [n + 1 if i in changed else n for i, n in enumerate(numbers)]
    one = code_of(PARTS.format(*numbers, *[0] * 88))
    other = code_of(PARTS.format(*after, *[1] * 88))
    told = {
        name for name in one.parts | other.parts if one.parts.get(name) != other.parts.get(name)
    }
    # What reads a property or a cached property is its class.
    expected = {NAMED[i] for i in changed} | {"Tool" for i in changed if i in (7, 8)}
    assert (one.digest != other.digest, told) == (bool(changed), expected)


CHANGES = {
    "an attribute of a class": "class C: n = 1\ndef main(): return C.n\n",
    "an attribute of a function": "def main(): return main.n\nmain.n = 1\nC = main\n",
    "a new attribute of a function": "def main(): return vars(main)\nC = main\n",
    "a default": "def main(x=[1]): return x\nclass C:\n"
    " def __setattr__(s, n, v): main.__defaults__[0][0] = v\nC = C()\n",
}


@pytest.mark.parametrize("source", CHANGES.values(), ids=CHANGES.keys())
def test_what_changes_in_a_process_is_seen(source):
    space: dict[str, object] = {"__name__": "__main__"}
    exec(source, space)
    before = [digest.of_function(space["main"]).digest for _ in range(2)]
    space["C"].n = 2
    after = digest.of_function(space["main"]).digest
    assert before[0] == before[1] != after


def test_modules_that_are_imported_in_a_function_count_with_what_they_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "one_of_mine.py").write_text("import two_of_mine, json\n")
    (tmp_path / "two_of_mine").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "two_of_mine" / f"{name}.py").write_text("N = 1\n")
    source = "def main():\n    import one_of_mine, numpy\n"
    before = code_of(source)
    assert set(before.parts) == {"main", "module one_of_mine", "module two_of_mine"}
    assert code_of(source) == before
    (tmp_path / "two_of_mine" / "part.py").write_text("N = 1234\n")
    assert code_of(source).digest != before.digest


def test_functions_that_call_each_other_have_a_digest():
    source = "def main(x): return other(x)\ndef other(x): return main(x - {}) if x else 0"
    assert code_of(source.format(1)).digest == code_of(source.format(1)).digest
    assert code_of(source.format(1)).digest != code_of(source.format(2)).digest


def test_installed_functions_count_by_name():
    assert digest.of(Path.exists) == digest.of(Path.exists) != digest.of(Path.is_file)
