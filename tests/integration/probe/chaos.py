"""What can go wrong between a probe and its intake: the service killed, an intake that errs, one that hangs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from tests.service.running import Serve

__all__ = ["Kills", "erring_intake", "hanging_intake", "killed_again_and_again"]

KILL_EVERY_SECONDS = 2.5
DOWN_SECONDS = 0.5
FAULTS: tuple[tuple[int | None, bytes], ...] = (
    (500, b"out of order"),
    (503, b'{"error": "busy"}'),
    (200, b"<html>some other server</html>"),
    (429, b""),
    (None, b""),
    (502, b"<html>a gateway</html>"),
)
"""(status, body); None: the connection is closed without an answer."""


class Kills:
    """How often the service was killed."""

    number = 0


@contextmanager
def killed_again_and_again(serve: Serve) -> Iterator[Kills]:
    """Within the block the service is killed with kill -9 every few seconds, and started again; ready after it."""
    over, kills = threading.Event(), Kills()

    def kill() -> None:
        while not over.wait(KILL_EVERY_SECONDS):
            serve.kill()
            kills.number += 1
            time.sleep(DOWN_SECONDS)
            serve.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield kills
    finally:
        over.set()
        killer.join()
        serve.wait_ready()


@contextmanager
def erring_intake(port: int) -> Iterator[list[str]]:
    """Where the service was, something that answers every post in another wrong way; yields the paths posted to."""
    turns = count()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status, body = FAULTS[next(turns) % len(FAULTS)]
        if status is None:
            handler.close_connection = True
            return
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with _stand_in(port, answer) as posts:
        yield posts


@contextmanager
def hanging_intake(port: int) -> Iterator[list[str]]:
    """Where the service was, something that takes posts and says nothing; yields the paths posted to."""
    over = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        over.wait()
        handler.close_connection = True

    with _stand_in(port, hang) as posts:
        try:
            yield posts
        finally:
            over.set()


@contextmanager
def _stand_in(port: int, answer: Any) -> Iterator[list[str]]:
    posts: list[str] = []
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_POST(self) -> None:
            with suppress(ConnectionError):
                self.rfile.read(int(self.headers["Content-Length"]))
                posts.append(self.path)
                answer(self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield posts
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()
        for connection in connections:  # a kept one would go on being answered
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
