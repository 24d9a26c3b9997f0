"""A Worker's end of the data channel."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import zmq

from scalems.radical.channel import (
    BEAT,
    CONFIRM,
    DATA,
    JOIN,
    KNOCK,
    REFUSE,
    ROUTE_LIMIT,
    SILENT,
    Errands,
    Stream,
    confirmation,
    dump,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_JOIN_EVERY = 0.05  # seconds; the server lets a Worker in when RP has brought it its key
_AGAIN_AFTER = 0.2  # seconds between two connections
_AT_ONCE = 100  # messages that are read before others are sent


class NoRoute(Exception):
    """The server cannot be reached; the text says what was tried."""


class Uplink:
    """Connects a Worker with its session server.

    :param on_message: told the kind and the value of each message, in the thread of the socket.
    :param on_sign: told, in that thread, whenever the server has shown that it lives.
    :param on_refused: told that the server has given this Worker up.
    """

    def __init__(
        self,
        on_message: Callable[[str, Any], None],
        *,
        on_sign: Callable[[], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._on_message = on_message
        self._on_sign = on_sign
        self._on_refused = on_refused
        self._errands = Errands()
        self._stream = Stream()
        self._address = ""
        self._server_key = b""
        self._public, self._secret = zmq.curve_keypair() if zmq.has("curve") else (b"", b"")
        self.key = self._public.decode()
        """The public key."""
        self._joined = False
        self._ended = False
        self._thread: threading.Thread | None = None
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None

    def connect(self, addresses: Sequence[str], key: str) -> str:
        """Connect with the server by the first address that it answers at; return that.

        :param key: the server's public key.
        :raises NoRoute: it answers at none.
        """
        if not self.key:
            raise NoRoute("this ZeroMQ was built without CurveZMQ")
        if not addresses:
            raise NoRoute("the session server does not listen")
        self._server_key = key.encode()
        for address in addresses:
            self._address = address
            if self._knock():
                self._thread = threading.Thread(target=self._run, name="scalems-link", daemon=True)
                self._thread.start()
                return address
        raise NoRoute(
            f"the session server does not answer within {ROUTE_LIMIT:.0f} s "
            f"at {', '.join(addresses)}"
        )

    def send(self, kind: str, value: object) -> None:
        """Send a message, from any thread."""
        self.send_made(lambda: (kind, value))

    def send_made(self, make: Callable[[], tuple[str, object]]) -> None:
        """Send a message that is made when it can be sent, in the thread of the socket."""
        self._errands.put(make)

    def close(self) -> None:
        """End the connection."""
        self._ended = True
        if self._thread is None:
            self._context.destroy(linger=0)
        elif self._thread is not threading.current_thread():
            self._errands.put(None)
            self._thread.join()

    # --- the thread of the socket ---------------------------------------------------------

    def _open(self) -> zmq.Socket[bytes]:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._joined = False
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(0)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)  # we notice, and make it anew: see channel
        socket.curve_serverkey = self._server_key
        socket.curve_publickey, socket.curve_secretkey = self._public, self._secret
        socket.connect(self._address)
        return socket

    def _knock(self) -> bool:
        """Try a way: whether a message comes back."""
        limit = time.monotonic() + ROUTE_LIMIT
        while (left := limit - time.monotonic()) > 0:
            try:
                socket = self._open()
            except zmq.ZMQError:
                return False
            socket.send(KNOCK)
            if socket.poll(int(min(left, 1.0) * 1000)):
                return True
        return False

    def _run(self) -> None:
        assert self._socket is not None
        poller = zmq.Poller()
        poller.register(self._errands, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        heard = told = asked = time.monotonic()
        while not self._ended:
            poller.poll(int((BEAT if self._joined else _JOIN_EVERY) * 1000))
            now = time.monotonic()
            try:
                if self._read():
                    heard = now
                    self._on_sign()
                if self._write():
                    told = now
                if not self._joined and now - asked > _JOIN_EVERY:
                    asked = now
                    self._tell([JOIN, self._stream.header()])
                elif self._joined and (now - told > BEAT or self._stream.owes()):
                    told = now
                    self._tell([CONFIRM, self._stream.header()])
                broken = now - heard > SILENT
            except zmq.Again:  # ZeroMQ has no connection to send it by
                broken = True
            if broken:
                poller.unregister(self._socket)
                time.sleep(_AGAIN_AFTER)
                poller.register(self._open(), zmq.POLLIN)
                heard = now
        self._context.destroy(linger=0)

    def _tell(self, frames: list[Any]) -> None:
        assert self._socket is not None
        self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)

    def _write(self) -> bool:
        """Send what there is; without a connection it is kept. Tell if something was sent."""
        makers = [make for make in self._errands.take() if make is not None]
        framed = [self._stream.outgoing(dump(make())) for make in makers]
        if not self._joined:
            return False
        for frames in framed:
            self._tell(frames)
        return bool(framed)

    def _read(self) -> bool:
        """Take messages that are there; tell if there were any."""
        assert self._socket is not None
        for count in range(_AT_ONCE):
            try:
                kind, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return count > 0
            if kind == JOIN and not self._joined:
                self._joined = True
                for again in self._stream.again(confirmation(frames[0])):
                    self._tell(again)
            elif kind == CONFIRM:
                self._stream.confirmed(confirmation(frames[0]))
            elif kind == DATA and self._stream.incoming(frames[0], frames[1:]):
                self._on_message(*load(frames[1:]))
            elif kind == REFUSE:
                self._ended = True
                self._on_refused()
        return True
