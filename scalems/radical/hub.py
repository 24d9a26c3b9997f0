"""The session server's end of the data channel: one socket for all Workers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq
from zmq.utils import z85

from scalems.radical.channel import (
    BEAT,
    CONFIRM,
    DATA,
    JOIN,
    KNOCK,
    REFUSE,
    SILENT,
    Errands,
    Stream,
    confirmation,
    dump,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GONE = 60.0  # seconds of silence after which a Worker is given up

_AT_ONCE = 100  # messages that are read before others are looked after


class WorkerEvent(NamedTuple):
    """What a Worker says over the channel, or what is known of its connection."""

    worker: str
    kind: str
    """``open``, ``silent``, ``back``, ``gone``, or the kind of its message."""
    value: Any = None


class _Peer:
    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.stream = Stream()
        self.route: bytes | None = None
        self.heard = time.monotonic()
        self.told = self.heard
        self.silent = False


class Hub:
    """Takes connections of Workers, and passes messages between them and the server.

    :param emit: told :class:`WorkerEvent`, from a thread.
    :param hosts: addresses of this machine that Workers may reach it by, the best first. Only
        on loopback it listens there alone; else on all interfaces, as RP's own bridges do.
    :raises OSError: ZeroMQ has no CurveZMQ here, or nothing can listen there.
    """

    def __init__(self, emit: Callable[[WorkerEvent], None], hosts: Sequence[str]) -> None:
        if not zmq.has("curve"):
            raise OSError("this ZeroMQ was built without CurveZMQ")
        self._emit = emit
        self._errands = Errands()
        self._peers: dict[bytes, _Peer] = {}  # by public key
        self._workers: dict[str, _Peer] = {}
        self._keys: dict[bytes, bytes] = {}  # which key a connection has proved to have
        self._refused: set[bytes] = set()
        self._context = zmq.Context()
        public, secret = zmq.curve_keypair()
        self.key = public.decode()
        """The public key."""
        try:
            self._vouch = self._context.socket(zmq.REP)
            self._vouch.bind("inproc://zeromq.zap.01")
            self._socket = self._context.socket(zmq.ROUTER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.set_hwm(0)  # calls under way are bounded by the dispatcher
            self._socket.setsockopt(zmq.HANDSHAKE_IVL, 30_000)
            self._socket.curve_server = True
            self._socket.curve_secretkey = secret
            loopback = all(host.startswith("127.") for host in hosts)
            port = self._socket.bind_to_random_port(f"tcp://{hosts[0] if loopback else '*'}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(f"nothing can listen on {', '.join(hosts)}: {error}") from error
        self.addresses = [f"tcp://{host}:{port}" for host in hosts]
        """Where Workers find it."""
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="scalems-hub", daemon=True)
        self._thread.start()

    # --- from any thread ------------------------------------------------------------------

    def admit(self, worker: str, key: str) -> None:
        """Let in the Worker that has the secret key of this public one.

        Its event ``open`` tells when it is connected.
        """
        self._errands.put(("admit", worker, key.encode()))

    def send(self, worker: str, kind: str, value: object = None) -> None:
        """Send a message to a Worker that was let in; also while it is not connected."""
        self._errands.put(("send", worker, dump((kind, value))))

    def dismiss(self, worker: str) -> None:
        """Have nothing to do with a Worker any more."""
        self._errands.put(("dismiss", worker))

    def close(self) -> None:
        """End all connections."""
        if not self._ended:
            self._ended = True
            self._errands.put(("close",))
            self._thread.join()
            self._errands.close()

    # --- the thread of the socket ---------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._vouch, self._socket, self._errands):
            poller.register(source, zmq.POLLIN)
        looked = time.monotonic()
        while not self._ended:
            poller.poll(int(BEAT * 500))
            self._approve()
            self._read()
            for what, *details in self._errands.take():
                if what != "close":
                    getattr(self, f"_{what}")(*details)
            now = time.monotonic()
            if now - looked > BEAT / 2:
                looked = now
                self._look(now)
        self._context.destroy(linger=0)

    def _approve(self) -> None:
        """Answer requests of ZAP (https://rfc.zeromq.org/spec/27/).

        CurveZMQ has proved that a connection has the secret key of its public one. Whose key
        that is matters to :meth:`_read`: until it is known, a connection may only knock.
        """
        while True:
            try:
                version, number, *_, mechanism, key = self._vouch.recv_multipart(zmq.NOBLOCK)
            except (zmq.Again, ValueError):
                return
            good = mechanism == b"CURVE"
            answer = [b"200", b"OK", z85.encode(key)] if good else [b"400", b"No", b""]
            self._vouch.send_multipart([version, number, *answer, b""])

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            route = frames[0].bytes
            if route not in self._keys:
                self._keys[route] = str(frames[1].get("User-Id")).encode()
            self._on_message(route, self._keys[route], [frame.bytes for frame in frames[1:]])

    def _on_message(self, route: bytes, key: bytes, frames: list[bytes]) -> None:
        kind, peer = frames[0], self._peers.get(key)
        if kind == KNOCK:
            self._socket.send_multipart([route, KNOCK])
        elif key in self._refused:
            self._socket.send_multipart([route, REFUSE])
        elif peer is None or len(frames) < 2:
            return
        elif kind == JOIN:
            self._join(peer, route, frames[1])
        elif route == peer.route:
            peer.heard = time.monotonic()
            if kind == CONFIRM:
                peer.stream.confirmed(confirmation(frames[1]))
            elif kind == DATA and peer.stream.incoming(frames[1], frames[2:]):
                self._emit(WorkerEvent(peer.worker, *load(frames[2:])))
                if peer.stream.owes():
                    self._confirm(peer)

    def _join(self, peer: _Peer, route: bytes, header: bytes) -> None:
        first = peer.route is None
        if peer.route is not None and peer.route != route:
            self._keys.pop(peer.route, None)
        peer.route, peer.heard = route, time.monotonic()
        self._socket.send_multipart([route, JOIN, peer.stream.header()])
        for frames in peer.stream.again(confirmation(header)):
            self._socket.send_multipart([route, *frames], copy=False)
        if first:
            self._emit(WorkerEvent(peer.worker, "open"))
        elif peer.silent:
            self._emit(WorkerEvent(peer.worker, "back"))
        peer.silent = False

    def _confirm(self, peer: _Peer) -> None:
        peer.told = time.monotonic()
        assert peer.route is not None
        self._socket.send_multipart([peer.route, CONFIRM, peer.stream.header()])

    def _look(self, now: float) -> None:
        for peer in list(self._workers.values()):
            if peer.route is None:
                continue
            if now - peer.told > BEAT:
                self._confirm(peer)
            quiet = now - peer.heard
            if quiet > GONE:
                self._dismiss(peer.worker)
                self._emit(WorkerEvent(peer.worker, "gone"))
            elif quiet > SILENT and not peer.silent:
                peer.silent = True
                self._emit(WorkerEvent(peer.worker, "silent"))
            elif quiet < SILENT and peer.silent:
                peer.silent = False
                self._emit(WorkerEvent(peer.worker, "back"))

    def _admit(self, worker: str, key: bytes) -> None:
        self._peers[key] = self._workers[worker] = _Peer(worker)

    def _send(self, worker: str, body: list[Any]) -> None:
        peer = self._workers.get(worker)
        if peer is None:
            return
        frames = peer.stream.outgoing(body)
        if peer.route is not None:
            peer.told = time.monotonic()
            self._socket.send_multipart([peer.route, *frames], copy=False)

    def _dismiss(self, worker: str) -> None:
        peer = self._workers.pop(worker, None)
        for key in [key for key, one in self._peers.items() if one is peer]:
            del self._peers[key]
            self._refused.add(key)
        if peer is not None and peer.route is not None:
            self._socket.send_multipart([peer.route, REFUSE])
