"""Files between a client and the host where its tasks run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalems
from scalems.env.layout import Layout
from scalems.errors import BackendError, ScalemsError, UsageError
from scalems.host.process import mark
from scalems.radical.farfiles import Files
from scalems.radical.staging import Staging, referred
from scalems.workflow import file
from scalems.workflow.call import Call, encode

LIMIT = 60.0
NOWHERE = Layout(Path("/nowhere"))


class Host:
    """The far side, with what is between taken out: its own code, called directly."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)
        self.sent: list[tuple[str, int]] = []
        self.lost = False

    def send(self, message, data=b""):
        self._data = data

    def ask(self, verb, **args):
        if self.lost:
            raise BackendError("the connection is lost")
        self._data = b""
        verbs = {"lacks_files": self.files.lacks, "read_file": self.files.read}
        return verbs[verb](NOWHERE, self, **args), self._data

    def post(self, message, data=b""):
        if self.lost:
            raise BackendError("the connection is lost")
        self.sent.append((message["piece"]["digest"], len(data)))
        self.files.receive(io.BytesIO(data), message["piece"])


@pytest.fixture
def area(tmp_path):
    with file.area(tmp_path / "store") as area:
        yield area


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "far")


@pytest.fixture
def staging(area, host):
    made = Staging("lab", print)
    made.connected(host)
    yield made
    made.finish(abort=True)


class Told(dict):
    """Calls that are ready, or why they are not."""

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.changed = threading.Condition()

    def __call__(self, call_id, error):
        with self.changed:
            assert self.staging.forget(call_id)
            self[call_id] = error
            self.changed.notify()

    def wait(self, call_id):
        with self.changed:
            assert self.changed.wait_for(lambda: call_id in self, LIMIT)
            return self[call_id]


def call_with(number, *values):
    return Call(id=number, name="f", payload=encode(print, values, {}))


def make(folder: Path, name: str, content: bytes = b"content") -> scalems.File:
    path = folder / name
    path.write_bytes(content)
    return scalems.file(path)


def test_a_file_is_there_before_its_call_and_is_sent_once(staging, host, tmp_path):
    told = Told(staging)
    large = make(tmp_path, "large", b"x" * (9 << 20))
    empty, script = make(tmp_path, "empty", b""), tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    values = ([large], {"deep": (empty,)}, scalems.file(script))
    assert staging.needs(call_with(1, *values), told)
    assert told.wait(1) is None
    count = len(host.sent)
    assert count == 5  # three pieces of the large one
    assert not staging.needs(call_with(2, large), told)
    assert not staging.needs(call_with(3, "no file", "0" * 64), told)
    again = Staging("lab", print)  # of another run
    again.connected(host)
    told.staging = again
    assert again.needs(call_with(4, large), told)
    assert told.wait(4) is None
    assert len(host.sent) == count
    again.finish()
    kept = {path.parent.name + path.name for path in (tmp_path / "far" / "objects").glob("*/*")}
    assert kept == {large.digest, empty.digest, scalems.file(script).digest}
    executable = file.object_path(tmp_path / "far" / "objects", scalems.file(script).digest)
    assert executable.stat().st_mode & 0o777 == 0o555


def test_a_file_that_has_changed_fails_its_call_only(staging, tmp_path):
    told = Told(staging)
    given = make(tmp_path, "in.txt")
    assert staging.needs(call_with(1, given), told)
    assert told.wait(1) is None
    (tmp_path / "new.txt").write_text("one")
    changed = scalems.file(tmp_path / "new.txt")
    (tmp_path / "new.txt").write_text("other")
    assert staging.needs(call_with(2, changed), told)
    assert isinstance(told.wait(2), scalems.FileError)


def test_what_was_spoilt_there_is_sent_again(staging, host, tmp_path):
    given = make(tmp_path, "in.txt")
    target = file.object_path(tmp_path / "far" / "objects", given.digest)
    target.parent.mkdir(parents=True)
    target.write_text("CONTENT")
    told = Told(staging)
    assert staging.needs(call_with(1, given), told)
    assert told.wait(1) is None
    assert target.read_text() == "content"


def test_a_full_disk_there_is_told_with_its_remedy(staging, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "parts").write_text("in the way")
    told = Told(staging)
    assert staging.needs(call_with(1, make(tmp_path, "in.txt")), told)
    error = told.wait(1)
    assert isinstance(error, ScalemsError)
    assert "could not be written" in str(error)
    assert "make room" in str(error.remedy)


def test_a_call_waits_for_another_connection(staging, host, tmp_path):
    told = Told(staging)
    host.lost = True
    assert staging.needs(call_with(1, make(tmp_path, "in.txt")), told)
    assert staging.waits(1)
    with staging._changed:  # the lost connection must not be taken for the next one
        assert staging._changed.wait_for(lambda: staging._carrier is None, 60)
    host.lost = False
    staging.connected(host)
    assert told.wait(1) is None


def test_results_come_by_themselves_when_they_are_to_be_kept(staging, host, tmp_path):
    digest = sent_by_a_task(host, b"result")
    staging.made([digest])
    staging.finish()
    assert file.File("made", digest, 6).read_bytes() == b"result"


def test_results_come_when_they_are_asked_for(staging, host, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_kept_on", False)
    digest = sent_by_a_task(host, b"result")
    staging.made([digest])
    made = file.File("made", digest, 6)
    path = file.object_path(tmp_path / "store" / "objects", digest)
    assert not path.exists()
    assert made.copy_to(tmp_path / "copy").read_bytes() == b"result"
    assert path.exists()


def test_what_comes_and_is_something_else_is_not_kept(staging, host, tmp_path):
    digest = sent_by_a_task(host, b"result")
    target = file.object_path(tmp_path / "far" / "objects", digest)
    target.chmod(0o644)
    target.write_bytes(b"RESULT")
    staging.made([digest])
    staging.finish()
    with pytest.raises(scalems.FileError):
        file.File("made", digest, 6).read_bytes()
    assert not [one for one in (tmp_path / "store").rglob("*") if one.is_file()]


def sent_by_a_task(host: Host, content: bytes) -> str:
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    piece = {"digest": digest, "size": len(content), "mode": 0, "offset": 0, "count": len(content)}
    host.files.receive(io.BytesIO(content), piece)
    return digest


@given(st.recursive(st.text() | st.binary(), lambda inner: st.lists(inner) | st.tuples(inner)))
def test_digests_are_found_at_any_depth_and_nothing_else_is(value):
    digest = "0123456789abcdef" * 4
    inner = pickle.dumps([value, file.File("a", digest, 1)], protocol=5)
    assert referred(pickle.dumps((value, inner), protocol=5)) == {digest}
    assert referred(pickle.dumps(value, protocol=5)) <= {digest}


def test_digests_are_found_in_what_is_large(area, tmp_path):
    given = make(tmp_path, "in.txt")
    many = [f"{number:1000}" for number in range(1000)]
    for values in ([given, b"x" * (1 << 20)], [*many, given], [pickle.dumps([*many, given])]):
        payload = encode(print, values, {})
        assert not isinstance(payload, bytes)
        assert given.digest in referred(payload)


@given(st.text(max_size=70))
def test_no_name_of_a_file_leads_out_of_its_folder(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("far")
    files = Files(folder / "files")
    files.receive(io.BytesIO(b"x"), {"digest": name, "size": 1, "mode": 0, "offset": 0, "count": 1})
    with pytest.raises(UsageError):
        files.lacks(NOWHERE, print, digests=[name])
    assert list(folder.rglob("*")) == []


def test_files_there_are_kept_for_a_week_after_their_last_use(tmp_path: Path):
    files = Files(tmp_path)
    data = b"content"
    digest = hashlib.sha256(data).hexdigest()
    piece = {"digest": digest, "size": len(data), "mode": 0, "offset": 0, "count": len(data)}
    files.receive(io.BytesIO(data), piece)
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    parts = tmp_path / "parts"
    ours, dead, elsewhere = mark(), mark().replace(f"-{os.getpid()}", f"-{2**22 + 1}"), "other-1-1"
    for owner in (ours, dead, elsewhere):
        (parts / f"{owner}.{digest}").touch()
    day = 86400
    for age, there in ((6, True), (8, False)):
        then = time.time() - age * day
        os.utime(kept, (then, then))
        files.prune()
        assert kept.exists() is there
    # What comes just now, and what may come on another host, is not taken away.
    assert {path.name for path in parts.iterdir()} == {f"{ours}.{digest}", f"other-1-1.{digest}"}
