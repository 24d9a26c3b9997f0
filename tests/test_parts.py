"""Blocks of calls in parts: each item ends once, whatever becomes of the parts."""

from __future__ import annotations

import pickle
import time
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.radical.parts import FIRST, LONG, MOST, SHOWN, Gathering, Parts
from scalems.workflow.answers import INT, Answers, Stretch
from scalems.workflow.block import encoded
from scalems.workflow.call import CANCELLED, Call, Failure, Outcome, failed, result


def answers(call, items, took=0.0):
    """Return what items of a block have given that have returned their positions."""
    count = len(items)
    clock = array("d", [1.0 + took * (n + 1) for n in range(count)])
    stretch = Stretch(INT, 0, count, 1.0, 0)
    words = array("q", items)
    return Answers(call.id, items[0], [stretch], words, clock, 0.0, b"", 0, {}, "h", 7, "")


class Workers:
    """Takes calls, and plays what Workers tell of them."""

    def __init__(self, takes=0.0):
        self.calls = []
        self.takes = takes
        self.told = {}

    def send(self, call, done):
        self.calls.append((call, done))

    def block(self, ident, count):
        ((size, payload),) = encoded(abs, [(n,) for n in range(count)])
        assert size == count
        return Call(id=ident, name="abs", payload=payload, items=range(count))

    def note(self, one):
        several = one.outcomes() if isinstance(one, Answers) else [one]
        for outcome in several:
            key = outcome.id, outcome.item
            assert key not in self.told, "an item has ended twice"
            self.told[key] = outcome

    def outcome(self, call, value):
        return Outcome(
            id=call.id, item=call.item, ok=True, payload=pickle.dumps(value), host="h", pid=7,
            started=1.0, ended=1.0 + self.takes,
        )  # fmt: skip

    def halfway(self, call, done, how, parts):
        """Tell what a part's first item has given, give others back, or lose it after that."""
        now = time.monotonic()
        gathering = Gathering(call, done)
        gathering.add(replace(self.outcome(call, "first"), item=call.items[0]))
        gathering.ahead(now + 60, done)
        self.calls.remove((call, done))
        if len(call.items) == 1:
            return
        if how == "b":
            gathering.give_back(call.items[2:], done)
            gathering.add(replace(self.outcome(call, "second"), item=call.items[1]))
        elif how == "l":
            self.calls += parts.rest(call.id)[0]
            done(failed(call, Failure(type="TaskLost", message="too late")))
        else:
            self.calls.append((call, done))  # its items run again: it is told twice

    def run(self, count=None):
        """End calls; a part in two halves, the last item as one that has printed something."""
        now, self.calls = self.calls[:count], self.calls[count or len(self.calls) :]
        for call, done in now:
            if call.items is None:
                done(self.outcome(call, "alone"))
                continue
            whole = Gathering(call, done)
            *most, last = call.items
            if most:
                whole.add(answers(call, most, self.takes / len(most)))
            whole.add(replace(self.outcome(call, last), item=last, stdout="hello"))


def test_items_of_short_calls_travel_together_once_it_is_known():
    workers = Workers(takes=0.0001)
    parts = Parts(workers.send)
    parts.submit(workers.block(1, 1000), workers.note)
    assert len(workers.calls) == FIRST
    assert len({call.id for call, _ in workers.calls}) == FIRST
    workers.run(1)
    assert {len(call.items) for call, _ in workers.calls if call.items} == {200, 184}
    while workers.calls:
        workers.run()
    assert sorted(workers.told) == [(1, item) for item in range(1000)]
    assert result(workers.told[1, 500]) == 500
    assert workers.told[1, 999].stdout == "hello"
    parts.submit(workers.block(2, 2000), workers.note)
    assert max(len(call.items) for call, _ in workers.calls) <= MOST
    workers.run()
    assert len(workers.told) == 3000


def test_items_of_long_calls_go_alone():
    workers = Workers(takes=5.0)
    parts = Parts(workers.send)
    parts.submit(workers.block(1, 100), workers.note)
    workers.run(1)
    assert all(call.items is None for call, _ in workers.calls)
    workers.run()
    assert len(workers.told) == 100


def test_a_part_that_is_lost_is_a_failure_of_each_of_its_items():
    workers = Workers()
    parts = Parts(workers.send)
    parts.submit(workers.block(1, 100), workers.note)
    workers.run(FIRST)
    for call, done in workers.calls:
        done(failed(call, Failure(type="TaskLost", message="its Worker")))
    assert len(workers.told) == 100
    assert sum(outcome.ok for outcome in workers.told.values()) == FIRST


def part_of(workers, count):
    """Send a block whose items seem to be short; return the parts, and the call of one of them."""
    parts = Parts(workers.send)
    parts.submit(workers.block(1, FIRST + count), workers.note)
    workers.run()
    assert len(workers.told) == FIRST
    ((call, done),) = workers.calls
    assert len(call.items) == count
    return parts, call, done


def test_what_items_give_goes_ahead_of_a_long_one_and_the_rest_comes_back():
    workers = Workers(takes=0.0001)
    _, call, done = part_of(workers, 100)
    gathering = Gathering(call, done)
    now = time.monotonic()
    gathering.add(answers(call, call.items[:10], workers.takes / 10))
    gathering.ahead(now, done)
    assert len(workers.told) == FIRST
    gathering.ahead(now + SHOWN * 2, done)
    assert len(workers.told) == FIRST + 10
    assert not gathering.is_long(now)
    assert gathering.is_long(now + LONG * 2)
    workers.calls = []
    gathering.give_back(call.items[11:], done)
    assert len(workers.calls) == 89  # one by one
    assert all(one.items is None for one, _ in workers.calls)
    workers.run()
    assert len(workers.told) == FIRST + 99
    gathering.add(replace(workers.outcome(call, "long"), item=call.items[10]))
    assert len(workers.told) == FIRST + 100


def test_of_a_lost_part_only_what_was_not_told_runs_again():
    workers = Workers(takes=0.0001)
    parts, call, done = part_of(workers, 10)
    assert parts.rest(call.id) is None  # as it is
    gathering = Gathering(call, done)
    for item in (call.items[0], call.items[4]):
        gathering.add(replace(workers.outcome(call, "early"), item=item))
    gathering.ahead(time.monotonic() + SHOWN * 2, done)
    left, _ = parts.rest(call.id)
    assert [one.items for one, _ in left] == [call.items[1:4], call.items[5:]]
    assert parts.rest(call.id) is None
    workers.calls = left
    workers.run()
    assert len(workers.told) == FIRST + 10


def test_an_item_is_found_in_whatever_part_it_went():
    workers = Workers(takes=0.0001)
    parts, call, _ = part_of(workers, 10)
    assert parts.cancel(1, call.items[3]) == (call.id, True, None)
    assert parts.cancel(1, 0) == (0, False, None)  # it has ended


@given(st.lists(st.sampled_from("scrfxhbl"), max_size=40), st.sampled_from([0.0, 0.003, 9.0]))
def test_each_item_ends_once(steps, takes):
    workers = Workers(takes)
    parts = Parts(workers.send)
    blocks = 0
    cancelled = Failure(type=CANCELLED, message="cancelled")
    for number, step in enumerate(steps):
        if step == "s":
            blocks += 1
            parts.submit(workers.block(blocks, 40), workers.note)
        elif step == "r":
            workers.run(2)
        elif step == "f" and workers.calls:  # before it ran
            call, done = workers.calls.pop(0)
            done(failed(call, cancelled))
        elif step == "c" and blocks:
            sent, _, unsent = parts.cancel(blocks, number % 40)
            assert sent == 0 or unsent is None
            if unsent is not None:
                unsent[1](failed(unsent[0], cancelled))
        elif step in "hbl" and (away := [one for one in workers.calls if one[0].items]):
            workers.halfway(*away[number % len(away)], step, parts)
        elif step == "x" and number % 3 == 0:
            for call, done in parts.take_held():
                done(failed(call, cancelled))
    while workers.calls:
        workers.run()
    for call, done in parts.take_held():
        done(failed(call, cancelled))
    assert sorted(workers.told) == [(n, item) for n in range(1, blocks + 1) for item in range(40)]


@pytest.mark.parametrize("count", [1, FIRST, FIRST + 1])
def test_what_waits_is_not_forgotten_if_all_that_should_show_it_are_cancelled(count):
    workers = Workers()
    parts = Parts(workers.send)
    parts.submit(workers.block(1, count), workers.note)
    while workers.calls:
        call, done = workers.calls.pop()
        done(failed(call, Failure(type=CANCELLED, message="")))
    assert len(workers.told) == count
