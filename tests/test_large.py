"""Large values: in one piece after any way, not copied more than needed, and gone afterwards."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalems.errors import TaskError
from scalems.radical import channel
from scalems.store import objects
from scalems.workflow import large
from scalems.workflow.large import LARGE, Blob, Large, dumps, loads

LIMIT = 120


@dataclass
class Box:
    content: bytes
    others: list[Any]


def memory_files() -> int:
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            names.append(entry.readlink().name)
    return sum("scalems-value" in name for name in names)


def test_what_is_large_is_beside_the_pickle():
    array = np.arange(LARGE, dtype="f8")
    content = os.urandom(LARGE)
    value = {"array": array, "boxes": [Box(content, [content, array[:3]])], "text": "x" * LARGE}
    payload = dumps(value)
    assert isinstance(payload, Large)
    assert len(payload.blobs) == 3  # the pickle itself is large, by its text
    found = loads(payload)
    assert np.array_equal(found["array"], array)
    assert found["boxes"] == [Box(content, [content, pytest.approx(array[:3])])]
    assert found["boxes"][0].content is found["boxes"][0].others[0]
    assert found["text"] == value["text"]
    assert type(dumps([1, array[:10]])) is bytes


def test_what_a_value_is_changed_to_changes_no_other():
    array = np.zeros(LARGE)
    payload = dumps(array)
    array += 1
    one, other = loads(payload), loads(payload)
    one += 2
    assert (one.min(), other.max(), array.max()) == (2, 0, 1)
    frozen = np.zeros(LARGE)
    frozen.flags.writeable = False
    assert not loads(dumps(frozen)).flags.writeable


def test_data_frames_keep_their_columns_beside():
    frame = pandas.DataFrame({"a": np.arange(LARGE), "b": np.ones(LARGE)})
    payload = dumps(frame)
    assert isinstance(payload, Large)
    assert len(payload.stream) < LARGE
    assert loads(payload).equals(frame)


@given(
    st.lists(st.tuples(st.sampled_from("bau"), st.integers(0, 5), st.integers(-2, 2)), max_size=6)
)
def test_any_mixture_comes_back(parts):
    """Of bytes, arrays and texts, some of them the same, with sizes about the limit."""
    made = {
        (kind, seed, more): _part(kind, seed, LARGE + more if seed % 2 else 3 + more)
        for kind, seed, more in parts
    }
    value = [made[part] for part in parts]
    payload = dumps(value)
    for sent in (payload, pickle.loads(pickle.dumps(payload)), channel.load(channel.dump(payload))):
        for one, other in zip(loads(sent), value, strict=True):
            assert type(one) is type(other)
            assert np.array_equal(one, other)


def _part(kind: str, seed: int, size: int) -> Any:
    content = bytes([seed]) * size
    if kind == "b":
        return content
    return np.frombuffer(content, dtype="u1") if kind == "a" else content.decode("ascii")


def test_over_the_channel_it_is_frames_of_their_own():
    array = np.ones(LARGE)
    frames = channel.dump(("word", dumps(array)))
    assert sorted(memoryview(frame).nbytes > LARGE for frame in frames) == [False, True]
    word, payload = channel.load([bytes(frame) for frame in frames])
    assert word == "word"
    found = loads(payload)
    found += 1
    assert found.sum() == 2 * LARGE


def test_memory_goes_with_the_value():
    before = memory_files()
    gc.disable()  # nothing waits for it
    try:
        content = os.urandom(LARGE)
        value = loads(dumps([np.ones(LARGE), content]))
        assert value[0].sum() == LARGE
        assert memory_files() > before
        del value
        assert memory_files() == before
        assert sys.getrefcount(content) == 2
    finally:
        gc.enable()


def test_few_files_are_open_however_many_values_there_are(monkeypatch):
    before = memory_files()
    monkeypatch.setattr(large, "_most_open", lambda most=Blob._open + 2: most)
    payloads = [dumps(np.full(LARGE, number)) for number in range(6)]
    assert memory_files() <= before + 2
    values = [loads(payload) for payload in payloads]
    assert [value[-1] for value in values] == [*range(6)]


def test_a_kept_value_is_read_when_it_is_asked_for(tmp_path):
    before = memory_files()
    payload = dumps(np.ones(LARGE))
    assert isinstance(payload, Large)
    assert memory_files() == before + 1
    name = objects.keep(tmp_path, payload.blobs[0])
    assert memory_files() == before  # it is a file now
    assert loads(payload).sum() == LARGE
    found = objects.find(tmp_path, name)
    assert found is not None
    assert found.content() == np.ones(LARGE).tobytes()
    path = Path(found.path)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert objects.find(tmp_path, name) is None  # damaged
    path.unlink()
    assert objects.find(tmp_path, name) is None
    with pytest.raises(TaskError, match="cannot be read"):
        found.content()


SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
import scalems

N = 12_500_000  # float64: 100 MB

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024

def forget():
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, proc(5)
    return peak()

def make(value):
    return np.full(N, float(value))

def double(array):
    array *= 2
    return array

def content(array):
    return array.tobytes()

def first(value):
    return value[0]

@scalems.app
def main():
    scalems.submit(abs, 1).result()
    array, found = np.ones(N), {}

    start = forget()
    future = scalems.submit(double, array)
    chained = scalems.submit(first, scalems.submit(double, future))
    made = scalems.map(make, range(3))
    assert chained.result() == 4.0
    scalems.wait(made)
    found["passed on"] = peak() - start

    start = forget()
    assert future.result()[-1] == 2.0
    found["asked for"] = peak() - start

    start = forget()
    assert scalems.submit(content, made[1]).result() == made[1].result().tobytes()
    found["bytes"] = peak() - start
    print(json.dumps(found))
"""


@pytest.mark.parametrize("kept", [False, True], ids=["no store", "store"])
def test_the_client_never_holds_a_large_value_more_than_once(tmp_path, kept):
    """Bytes, not time: the peak of its resident memory (VmHWM), for values of 100 MB."""
    (tmp_path / "script.py").write_text(SCRIPT)
    options = [] if kept else ["--no-store"]
    command = [sys.executable, "-m", "scalems.local", "-q", "-j", "1", *options, "script.py"]
    for _ in range(2 if kept else 1):  # the second time all is taken from the store
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["passed on"] < 30e6, found  # six values of 100 MB
        assert found["asked for"] < 130e6, found
        assert found["bytes"] < 430e6, found  # the bytes, the array, and its bytes to compare
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".scalems-")] == []
