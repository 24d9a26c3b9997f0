"""Services and routed calls as tasks of RADICAL-Pilot's own: what there are cores for."""

from __future__ import annotations

import pytest

from scalems.errors import TaskError
from scalems.radical.owntasks import OwnTasks, apart
from scalems.radical.session import TaskEvent
from scalems.radical.wire import call_row, outcome_of
from scalems.workflow.call import Call, failure_in, result
from scalems.workflow.needs import Needs


class Session:
    """Takes tasks as RADICAL-Pilot's session does, and starts none."""

    spare = 2
    per_node = 0
    local = True

    def __init__(self, folder):
        self.folder = folder
        self.launched = []

    def sandbox(self):
        return self.folder

    def hosts(self):
        return []

    def launch(self, name, words, variables, **fields):
        self.launched.append(name)

    def cancel(self, name):
        self.launched.remove(name)


class Clients:
    def __init__(self):
        self.told = []

    def tell(self, client, *message):
        self.told.append(message)


@pytest.fixture
def own(tmp_path):
    session, clients = Session(tmp_path), Clients()
    made = OwnTasks(session, clients)
    made.session, made.clients = session, clients
    return made


def call(ident, cores=1):
    needs = Needs(route="rp", cores_per_rank=cores)
    return call_row(Call(id=ident, name=f"call-{ident}", payload=b"", needs=needs))


def ended(name):
    return TaskEvent(uid=name, state="FAILED", value=None, error="it fell")


def wanted(cores):
    keys = ("argv", "env", "pre_exec")
    return {**{key: [] for key in keys}, "cores": cores, "restarts": 0, "name": "web"}


def test_calls_wait_for_the_pilot_and_for_free_cores(own):
    for ident in range(4):
        own.call(0, call(ident))
    assert own.session.launched == []
    own.begin()
    assert len(own.session.launched) == 2
    first = own.session.launched[0]
    own.on_task(ended(first))
    assert len(own.session.launched) == 3
    kind, (row,) = own.clients.told[0]
    assert kind == "outcomes"
    assert "call-0 ended without an outcome" in failure_in(outcome_of(row)).message
    assert own.begun(0) == [1, 2]


def test_what_there_are_never_cores_for_is_refused(own):
    own.begin()
    own.serve(0, 7, wanted(1))
    own.call(0, call(1, cores=2))
    (kind, (row,)) = own.clients.told[0]
    assert kind == "outcomes"
    message = failure_in(outcome_of(row)).message
    assert "there are 2, and services have 1" in message
    with pytest.raises(TaskError) as raised:
        result(outcome_of(row))
    assert raised.value.remedy == "start it with --spare-cores 3"
    own.serve(0, 8, wanted(9))
    kind, ident, state = own.clients.told[1]
    assert (kind, ident, state["state"]) == ("serving", 8, "ended")
    assert "--spare-cores 10" in state["remedy"]
    own.call(0, call(2))
    assert len(own.session.launched) == 2


def test_what_no_node_has_together_is_refused(own):
    own.begin()
    own.session.spare, own.session.per_node = 8, 4
    own.call(0, call(1, cores=6))
    own.serve(0, 2, wanted(5))
    (_, (row,)), (_, _, state) = own.clients.told
    assert "needs 6 cores on one node, which has 4" in failure_in(outcome_of(row)).message
    assert "needs 5 cores on one node" in state["how"]
    own.call(0, call(3, cores=4))
    assert len(own.session.launched) == 1


def test_one_that_waits_is_cancelled_and_others_are_not_here(own):
    own.call(0, call(1))
    own.serve(0, 2, wanted(1))
    assert own.cancel(0, [1, 2, 3]) == [3]
    own.begin()
    assert own.session.launched == []
    assert len(own.clients.told) == 2


def test_only_what_says_so_goes_to_rp():
    plain = call_row(Call(id=1, name="f", payload=b""))
    worker = call_row(Call(id=2, name="f", payload=b"", needs=Needs(route="worker")))
    assert apart([plain, worker, call(3)]) == ([plain, worker], [call(3)])
