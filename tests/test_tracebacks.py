from __future__ import annotations

import pytest

from scalems import tracebacks
from scalems.workflow.call import RemoteTraceback
from scalems.workflow.future import Future

REMOTE = 'Traceback (most recent call last):\n  File "far.py", line 1, in far\nValueError: far\n'


def caught(raise_it):
    try:
        raise_it()
    except Exception as error:
        return error
    return pytest.fail("nothing was raised")


def through_ours(error):
    future = Future(task_id=1, name="f")
    future.set_exception(error)
    return caught(lambda: future.result())


def test_frames_of_ours_are_hidden():
    error = through_ours(ValueError("x"))
    told = tracebacks.text(error, whole=False)
    assert "scalems/workflow" not in told
    assert "test_tracebacks.py" in told
    assert told.endswith("ValueError: x\n")
    assert "scalems/workflow/future.py" in tracebacks.text(error, whole=True)
    assert tracebacks.place(error).endswith("lambda: future.result())")


def test_far_traceback_comes_first():
    error = ValueError("far")
    error.__cause__ = RemoteTraceback(REMOTE)
    told = tracebacks.text(through_ours(error), whole=False)
    assert told.startswith(REMOTE + "\nThe above exception was the direct cause")
    assert "RemoteTraceback" not in told


def test_far_traceback_without_frames_is_left_out():
    error = ValueError("far")
    error.__cause__ = RemoteTraceback("ValueError: far\n")
    assert tracebacks.text(through_ours(error), whole=False).count("far") == 1


def test_error_that_was_never_raised_here_is_not_repeated():
    root = ValueError("far")
    root.__cause__ = RemoteTraceback(REMOTE)
    error = KeyError("near")
    error.__cause__ = root
    told = tracebacks.text(through_ours(error), whole=False)
    assert told.count("ValueError: far") == 1
    assert told.index("ValueError: far") < told.index("KeyError: 'near'")


def test_context_and_its_suppression():
    def chained(suppress):
        try:
            raise ValueError("first")
        except ValueError:
            if suppress:
                raise KeyError("second") from None
            raise KeyError("second")  # noqa: B904 - this is what is tested

    told = tracebacks.text(caught(lambda: chained(False)), whole=False)
    assert told.index("first") < told.index("During handling") < told.index("'second'")
    told = tracebacks.text(caught(lambda: chained(True)), whole=False)
    assert "ValueError: first" not in told


def test_circle_of_causes_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "second" in tracebacks.text(first, whole=False)


def test_no_place_without_a_frame():
    assert tracebacks.place(ValueError("never raised")) is None
