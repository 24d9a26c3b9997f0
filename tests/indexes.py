"""Package indexes of this machine that a test can rely on to fail."""

from __future__ import annotations

import base64
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


class FolderIndex:
    """An index of the files in a folder (PEP 503), for those who know its user and password."""

    def __init__(self, folder: Path, *, user: str = "", password: str = "") -> None:
        self.folder = folder
        self.user, self.password = user, password
        self.let_in = 0

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serve it; yield its URL, which has the user and password in it."""
        outer = self
        known = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.user and self.headers.get("Authorization") != f"Basic {known}":
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                    self.end_headers()
                    return
                outer.let_in += 1
                name = self.path.rstrip("/").rpartition("/")[2]
                if (outer.folder / name).is_file():
                    kind, body = "application/octet-stream", (outer.folder / name).read_bytes()
                else:
                    kind, body = "text/html", outer.page(name).encode()
                if not body:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        login = f"{self.user}:{self.password}@" if self.user else ""
        try:
            yield f"http://{login}127.0.0.1:{server.server_address[1]}/simple"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def page(self, project: str) -> str:
        """The page of a project; empty if it has no files."""
        files = sorted(path.name for path in self.folder.glob(f"{project}-*"))
        return "".join(f'<a href="/files/{name}">{name}</a>\n' for name in files)
