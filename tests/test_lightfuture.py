"""Futures without a lock of their own do what those of the standard library do."""

import concurrent.futures
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.workflow.lightfuture import LightFuture

STEPS = {
    "cancel": lambda future, seen: future.cancel(),
    "begin": lambda future, seen: future.set_running_or_notify_cancel(),
    "end": lambda future, seen: future.set_result(7),
    "fail": lambda future, seen: future.set_exception(KeyError("x")),
    "callback": lambda future, seen: future.add_done_callback(lambda one: seen.append(one.done())),
    "wait": lambda future, seen: [
        len(part) for part in concurrent.futures.wait([future], timeout=0)
    ],
    "result": lambda future, seen: future.result(timeout=0),
    "exception": lambda future, seen: repr(future.exception(timeout=0)),
    "state": lambda future, seen: (future.cancelled(), future.running(), future.done()),
}


def told(future, steps):
    """Return what each step gave or raised, and what callbacks saw."""
    seen = []
    found = []
    for step in steps:
        try:
            found.append(STEPS[step](future, seen))
        except (Exception, concurrent.futures.CancelledError) as error:
            # The text of some names the future.
            found.append(type(error).__name__)
    return found, seen


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=8))
@pytest.mark.filterwarnings("ignore")
def test_every_order_of_steps_gives_the_same(steps):
    assert told(LightFuture(), steps) == told(Future(), steps)


def test_one_that_nobody_waits_for_is_cancelled_without_a_condition():
    future = LightFuture()
    assert future.cancel()
    assert future.cancel()
    assert not future.set_running_or_notify_cancel()
    assert future._own is None
