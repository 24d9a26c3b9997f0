"""When lost Workers are replaced, and what is told when they are not."""

from __future__ import annotations

import pytest

from scalems.errors import BackendError
from scalems.radical.staffing import Staffing


class Session:
    """Notes what it is told to do, as RP's side does."""

    def __init__(self, *workers):
        self.staff = {name: f"Worker {name}" for name in workers} | {"m": "raptor master"}

    @property
    def workers(self):
        return len(self.staff) - ("m" in self.staff)

    def replace_worker(self, uid):
        return self.staff[uid]

    def renew_master(self, uid):
        pass

    def dismiss(self, uid):
        del self.staff[uid]


class Plane:
    def lose(self, uid, how):
        pass

    def lively(self):
        return True


def lost(uid):
    return BackendError(f"The {uid} has ended.\n  a.log: Killed", remedy="the logs are there")


def test_what_is_lost_too_often_is_not_replaced_and_the_last_one_ends_the_run():
    staffing = Staffing(Session("a", "b"), Plane())  # type: ignore[arg-type]
    for _ in range(5):
        assert "takes its place" in staffing.replace("a", lost("a"))
    assert "It is not replaced: 5 were, in 10 minutes" in staffing.replace("a", lost("a"))
    for uid in ("b", "m"):
        with pytest.raises(BackendError, match="is not replaced: 5 were") as raised:
            staffing.replace(uid, lost(uid))
        assert raised.value.cause.splitlines()[1:] == ["  a.log: Killed"]
        assert raised.value.remedy == (
            "find what ends them, such as a call that takes all memory; the logs are there"
        )


def test_a_master_that_all_calls_need_is_not_replaced():
    plane = Plane()
    plane.lively = lambda: False  # type: ignore[method-assign]
    error = lost("m")
    with pytest.raises(BackendError) as raised:
        Staffing(Session("a"), plane).replace("m", error)  # type: ignore[arg-type]
    assert raised.value is error
