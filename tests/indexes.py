"""Package indexes of this machine that a test can rely on to fail."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from homes import Scalems


def with_index(made: Scalems, url: str, caches: Path) -> Scalems:
    """The same home for a user who has this index only, and caches below a folder."""
    env = {k: v for k, v in made.env.items() if not k.startswith(("UV_", "PIP_"))}
    return dataclasses.replace(
        made,
        env={
            **env,
            "UV_CACHE_DIR": str(caches / "uv"),
            "UV_DEFAULT_INDEX": url,
            "UV_NO_CONFIG": "1",
            "UV_HTTP_RETRIES": "0",
            "PIP_CACHE_DIR": str(caches / "pip"),
            "PIP_INDEX_URL": url,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        },
    )


def closed_index() -> str:
    """The URL of an index where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


class SlowIndex:
    """An index that keeps whoever asks it waiting until it is told to say that it has nothing."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serve it; yield its URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.set()
                outer.answer.wait()
                with contextlib.suppress(OSError):
                    self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        finally:
            self.answer.set()
            server.shutdown()
            thread.join()
            server.server_close()
