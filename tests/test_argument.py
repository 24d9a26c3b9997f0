from __future__ import annotations

import collections
import dataclasses
import pickle
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.errors import UsageError
from scalems.workflow.argument import Packed, apply, futures_in, with_slots

Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: object


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    value: object


@dataclasses.dataclass
class Fancy:
    value: object
    made: list = dataclasses.field(default_factory=list, init=False)

    def __post_init__(self):
        self.made.append("once")


class Mine(list):
    pass


def collect(*args, **kwargs):
    return args, kwargs


def far_side(args, kwargs):
    """Send a call as the graph does, and return what its function got."""
    futures = futures_in(*args, *kwargs.values())
    template = pickle.dumps((collect, *with_slots((args, kwargs), futures)))
    values = [Packed(pickle.dumps(future.result())) for future in futures]
    return apply(pickle.loads(pickle.dumps(template)), pickle.loads(pickle.dumps(values)))


def future_of(value):
    future = Future()
    future.set_result(value)
    return future


numbers = st.integers(0, 9)


def containers(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.tuples(inner, inner).map(lambda two: Pair(*two)),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        inner.map(Frozen),
        inner.map(Slotted),
        inner.map(Fancy),
        st.lists(inner, max_size=3).map(Mine),
    )


@dataclasses.dataclass(frozen=True)
class Later:
    """A value that one side of the comparison puts into a future."""

    value: int


trees = st.recursive(numbers | numbers.map(Later), containers, max_leaves=20)


def put(tree, make):
    """Return a tree with each `Later` replaced by what `make` gives."""
    if isinstance(tree, Later):
        return make(tree.value)
    if isinstance(tree, dict):
        return {key: put(item, make) for key, item in tree.items()}
    if isinstance(tree, Pair):
        return Pair(*(put(item, make) for item in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)([put(item, make) for item in tree])
    if dataclasses.is_dataclass(tree):
        return type(tree)(put(tree.value, make))
    return tree


@given(st.lists(trees, max_size=3), st.dictionaries(st.sampled_from("abc"), trees, max_size=2))
def test_far_side_gets_values_in_place_of_futures(args, kwargs):
    args = tuple(args)
    expected = (put(args, lambda value: value), put(kwargs, lambda value: value))
    assert far_side(put(args, future_of), put(kwargs, future_of)) == expected


@given(trees)
def test_what_has_no_future_is_not_copied(tree):
    tree = put(tree, lambda value: value)
    other = future_of(1)
    kept, slot = with_slots([tree, other], [other])
    assert kept is tree
    assert slot is not other


@pytest.mark.parametrize(
    "make",
    [
        lambda f: {f},
        lambda f: frozenset([f]),
        lambda f: {f: 1},
        lambda f: collections.OrderedDict(x=f),
        lambda f: collections.defaultdict(list, x=f),
    ],
)
def test_hashed_and_special_containers(make):
    (got,), _ = far_side((make(future_of(3)),), {})
    assert got == make(3)
    assert type(got) is type(make(3))


def test_default_factory_is_kept():
    (got,), _ = far_side((collections.defaultdict(list, x=future_of(3)),), {})
    assert got["new"] == []


def test_post_init_does_not_run_again():
    (got,), _ = far_side((Fancy(future_of(3)),), {})
    assert got == Fancy(3)
    assert got.made == ["once"]


def test_shared_containers_stay_shared():
    shared = [future_of(1)]
    (got,), _ = far_side(([shared, shared],), {})
    assert got[0] is got[1]


def test_one_future_is_one_value():
    future = future_of([1])
    (first, second), _ = far_side((future, [future]), {})
    assert first is second[0]


def test_arguments_are_taken_as_they_are_at_the_call():
    original = {"n": 1, "f": future_of(2)}
    taken = with_slots(original, futures_in(original))
    original["n"] = 5
    assert taken["n"] == 1


def test_deep_and_wide():
    future = future_of(1)
    deep = future
    for _ in range(100):
        deep = [deep]
    assert futures_in(deep) == [future]
    assert futures_in([0] * 1_000_000, deep) == [future]
    many = [future_of(i) for i in range(10_000)]
    assert futures_in(many) == many


def test_loop_without_a_future_is_no_problem():
    loop = [1]
    loop.append(loop)
    assert futures_in(loop, future := future_of(1)) == [future]


def test_loop_with_a_future_is_refused():
    loop = [future_of(1)]
    loop.append(loop)
    with pytest.raises(UsageError, match="holds itself"):
        with_slots(loop, futures_in(loop))
