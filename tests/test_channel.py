"""The data channel between a session server and its Workers: real sockets, real breaks."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from scalems.radical import channel, hub, uplink
from scalems.radical.channel import OUT_OF_BAND, Errands, Stream, apart, confirmation, dump, load
from scalems.radical.hub import Hub
from scalems.radical.uplink import NoRoute, Uplink

LIMIT = 30  # seconds: for things that must happen


class Proxy:
    """Passes bytes on to a port, until its connections are cut."""

    def __init__(self, address: str) -> None:
        self.target = int(address.rpartition(":")[2])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = (
                    self.listener.accept()[0],
                    socket.create_connection(("127.0.0.1", self.target)),
                )
                self.open += ends
                for a, b in (ends, ends[::-1]):
                    threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)

    def cut(self) -> None:
        """Break what is connected now."""
        ends, self.open = self.open, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self.listener.close()
        self.cut()


class Pair:
    """A server's end and a Worker's, which notes what comes and answers "echo"."""

    def __init__(self) -> None:
        self.events: queue.Queue[hub.WorkerEvent] = queue.Queue()
        self.arrived: queue.Queue[tuple[str, object]] = queue.Queue()
        self.refused = threading.Event()
        self.hub = Hub(self.events.put, ["127.0.0.1"])
        self.proxy = Proxy(self.hub.addresses[0])
        self.link = Uplink(self._take, on_sign=lambda: None, on_refused=self.refused.set)

    def _take(self, kind: str, value: object) -> None:
        self.arrived.put((kind, value))
        if kind == "echo":
            self.link.send("echo", value)

    def open(self, name: str = "w") -> None:
        self.link.connect([self.proxy.address], self.hub.key)
        self.hub.admit(name, self.link.key)
        assert self.event() == (name, "open", None)

    def event(self) -> hub.WorkerEvent:
        return self.events.get(timeout=LIMIT)


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.link.close()
    made.hub.close()
    made.proxy.close()


@given(st.recursive(st.none() | st.binary() | st.text(), st.lists, max_leaves=8))
def test_values_travel_as_frames(value):
    assert load(dump(value)) == value


def test_what_is_large_is_a_frame_of_its_own_and_not_copied():
    data = os.urandom(OUT_OF_BAND + 1)
    frames = dump(("call", apart(data), apart(b"small")))
    assert len(frames) == 2
    assert len(frames[0]) < 200
    frame = bytes(frames[1])
    _, back, small = load([frames[0], frame])
    assert back is frame
    assert (back, small) == (data, b"small")


def test_messages_go_both_ways(pair):
    pair.open()
    large = os.urandom(5_000_000)
    for value in ("x", large):
        pair.hub.send("w", "echo", apart(value) if value is large else value)
        assert pair.event() == ("w", "echo", value)


def test_each_message_arrives_once_and_in_order_whatever_breaks(pair):
    pair.open()
    count = 400
    for number in range(count):
        pair.hub.send("w", "echo", number)
        if number % 100 == 50:
            time.sleep(0.02)
            pair.proxy.cut()
    assert [pair.event().value for _ in range(count)] == list(range(count))
    assert [pair.arrived.get(timeout=LIMIT) for _ in range(count)] == [
        ("echo", number) for number in range(count)
    ]
    assert pair.events.empty()


def test_what_is_sent_before_a_worker_is_there_waits_for_it(pair):
    pair.hub.admit("w", pair.link.key)
    pair.hub.send("w", "calls", [1])
    pair.link.send("outcomes", [2])
    pair.link.connect(pair.hub.addresses, pair.hub.key)
    assert pair.event() == ("w", "open", None)
    assert pair.event() == ("w", "outcomes", [2])
    assert pair.arrived.get(timeout=LIMIT) == ("calls", [1])


def test_one_that_was_not_let_in_is_not_heard(pair):
    pair.link.connect(pair.hub.addresses, pair.hub.key)
    pair.link.send("outcomes", ["stolen"])
    other = Uplink(lambda *_: None, on_sign=lambda: None, on_refused=lambda: None)
    pair.hub.admit("w", other.key)
    other.connect(pair.hub.addresses, pair.hub.key)
    other.send("outcomes", ["mine"])
    assert pair.event() == ("w", "open", None)
    assert pair.event() == ("w", "outcomes", ["mine"])
    assert pair.events.empty()
    other.close()


def test_nobody_connects_without_the_keys(pair, monkeypatch):
    monkeypatch.setattr(uplink, "ROUTE_LIMIT", 0.5)
    wrong = zmq.curve_keypair()[0].decode()
    with pytest.raises(NoRoute):
        pair.link.connect(pair.hub.addresses, wrong)
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(pair.hub.addresses[0])
        plain.send(channel.KNOCK)
        assert not plain.poll(500)


def test_a_way_that_does_not_exist_is_told_in_time(pair, monkeypatch):
    monkeypatch.setattr(uplink, "ROUTE_LIMIT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoRoute, match="does not answer within"):
            pair.link.connect([nowhere, "tcp://127.0.0.1:1"], pair.hub.key)
        # The next address may do.
        found = pair.link.connect([nowhere, *pair.hub.addresses], pair.hub.key)
    assert found == pair.hub.addresses[0]


def test_without_curve_there_is_no_channel(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    with pytest.raises(OSError, match="CurveZMQ"):
        Hub(print, ["127.0.0.1"])
    link = Uplink(lambda *_: None, on_sign=lambda: None, on_refused=lambda: None)
    with pytest.raises(NoRoute, match="CurveZMQ"):
        link.connect(["tcp://127.0.0.1:1"], "")


def test_a_server_without_an_address_is_told(pair):
    with pytest.raises(NoRoute, match="does not listen"):
        pair.link.connect([], "")


def test_a_silent_worker_is_told_and_then_given_up(pair, monkeypatch):
    monkeypatch.setattr(hub, "SILENT", 0.3)
    monkeypatch.setattr(hub, "GONE", 1.0)
    monkeypatch.setattr(hub, "BEAT", 0.1)
    pair.open()
    pair.link._on_sign = lambda: time.sleep(3)  # its thread hangs
    kinds = [pair.event().kind]
    while kinds[-1] != "gone":
        kinds.append(pair.event().kind)
    assert kinds[-2] == "silent"
    assert pair.refused.wait(LIMIT)  # it is told when it is back


@given(st.data())
def test_a_stream_passes_each_message_once(data):
    """Over a line that loses, repeats, and is joined anew."""
    ours, theirs = Stream(), Stream()
    arrived: list[int] = []
    line: list[list[bytes]] = []
    sent = 0
    for step in [*data.draw(st.lists(st.sampled_from("srlj"), max_size=60)), "j", *("r" * 80)]:
        if step == "s":
            line.append(ours.outgoing([sent.to_bytes(2, "big")]))
            sent += 1
        elif step == "l":
            line.clear()  # the connection breaks
        elif step == "j":
            line = ours.again(confirmation(theirs.header()))
        elif line and theirs.incoming(line[0][1], line.pop(0)[2:]):
            arrived.append(sent)
            ours.confirmed(confirmation(theirs.header()))
    assert theirs.received == sent
    assert len(arrived) == sent


def test_errands_ring_for_everything_that_is_left():
    errands = Errands()
    count = 5000
    threads = [
        threading.Thread(target=lambda: [errands.put(n) for n in range(count)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    poller, taken = zmq.Poller(), []
    poller.register(errands, zmq.POLLIN)
    while len(taken) < 3 * count:
        assert poller.poll(LIMIT * 1000)
        taken += errands.take()
    assert errands.take() == []
    errands.close()
