from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import textwrap

import cloudpickle
import pytest

import scalems
from scalems.errors import SerializationError, UsageError
from scalems.workflow.app import App
from scalems.workflow.task import Task

LIMIT = 120


@scalems.task
def scaled(x: int, factor: float = 2.0, *, shift: int = 0) -> float:
    """Scale a number."""
    return x * factor + shift


@scalems.task()
def with_parentheses():
    return "called"


@scalems.task
def countdown(n):
    return [n, *countdown(n - 1)] if n else []


@scalems.task
def kind_of_call(n):
    return type(scaled(n)).__name__


@scalems.task
def same(x):
    return x


@scalems.task
def no_result():
    return (i for i in ())


class Simulation:
    def __init__(self, seed):
        self.seed = seed

    @scalems.task
    def run(self, steps):
        return self.seed * steps


def test_keeps_the_face_of_the_function():
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Scale a number."
    assert list(inspect.signature(scaled).parameters) == ["x", "factor", "shift"]
    assert scaled.function(3) == 6.0
    assert repr(scaled) == "<Task test_task.scaled>"


def test_calls_run_elsewhere(graph):
    assert scaled(3, shift=1).result(LIMIT) == 7.0
    assert with_parentheses().result(LIMIT) == "called"


def test_futures_are_arguments_at_any_depth(graph):
    one = scaled(1)
    two = same({"list": [one, (one, {"deep": one})], "set": {one}})
    assert two.result(LIMIT) == {"list": [2.0, (2.0, {"deep": 2.0})], "set": {2.0}}
    assert scaled(one, factor=one, shift=one).result(LIMIT) == 6.0


def test_argument_is_taken_as_it_is_at_the_call(graph):
    settings = {}
    first = scaled(1)
    results = []
    for i in range(3):
        settings["i"], settings["first"] = i, first
        results.append(same(settings))
    assert [r["i"] for r in scalems.gather(results)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"colour": 1}), ((1,), {"x": 1}), ((), {"factor": 1})],
)
def test_wrong_arguments_fail_at_the_call_in_python_s_words(graph, args, kwargs):
    with pytest.raises(TypeError) as expected:
        scaled.function(*args, **kwargs)
    with pytest.raises(TypeError) as caught:
        scaled(*args, **kwargs)
    assert str(caught.value) == str(expected.value)
    assert graph.counts().total == 0


def test_a_task_within_a_task_is_a_plain_call(graph):
    assert countdown(3).result(LIMIT) == [3, 2, 1]
    assert kind_of_call(1).result(LIMIT) == "float"


def test_methods(graph):
    assert Simulation(3).run(5).result(LIMIT) == 15
    assert Simulation(3).run(scaled(2)).result(LIMIT) == 12.0


def test_without_a_workflow():
    with pytest.raises(UsageError, match="no workflow is running") as caught:
        scaled(1)
    assert "python -m scalems.local" in str(caught.value)


@pytest.mark.parametrize("thing", [3, Simulation, staticmethod(len), "text"])
def test_refuses_what_is_no_function(thing):
    with pytest.raises(UsageError, match="marks functions"):
        scalems.task(thing)


def test_refuses_functions_that_do_not_return_their_value():
    async def coroutine():
        pass

    def generator():
        yield 1

    with pytest.raises(UsageError, match="async function"):
        scalems.task(coroutine)
    with pytest.raises(UsageError, match="generator function"):
        scalems.task(generator)


def test_refuses_an_app():
    @scalems.app
    def main():
        pass

    with pytest.raises(UsageError, match="of type App"):
        scalems.task(main)
    with pytest.raises(UsageError, match="of type Task"):
        scalems.app(scaled)
    assert isinstance(main, App)


def test_twice_is_once():
    assert scalems.task(scaled) is scaled


def test_unsendable_argument_is_named_at_the_call(graph):
    with pytest.raises(SerializationError, match=r"argument 'x'\['deep'\]\[0\] \(gen"):
        same({"deep": [(i for i in ())]})
    with pytest.raises(SerializationError, match=r"argument 'x'.*generator"):
        same([scaled(1), (i for i in ())])
    assert graph.counts().total <= 1


def test_unsendable_result_is_named(graph):
    with pytest.raises(SerializationError, match=r"no_result: the result \(generator\)"):
        no_result().result(LIMIT)


def test_importable_task_travels_by_name():
    assert pickle.loads(pickle.dumps(scaled)) is scaled
    assert len(pickle.dumps(scaled)) < 100
    assert pickle.loads(pickle.dumps(Simulation.run)) is Simulation.run


def test_task_of_a_script_travels_by_value(tmp_path):
    """Its globals hold the task itself, a class and a function; none of it can be imported."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, cloudpickle, scalems

            FACTOR = 3

            def helper(n):
                return FACTOR * n

            @scalems.task
            def recursive(n):
                return helper(n) + (recursive(n - 1) if n else 0)

            sys.stdout.buffer.write(cloudpickle.dumps([recursive, recursive.function]))
            """
        )
    )
    data = subprocess.run([sys.executable, script], check=True, capture_output=True).stdout
    task, function = cloudpickle.loads(data)
    assert isinstance(task, Task)
    assert task.function.__globals__["recursive"].function is not None
    assert function.__globals__["helper"](2) == 6
