"""An intake on loopback that behaves as badly as it is told to."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["IntakeDouble", "intake_double"]


class IntakeDouble:
    """Keeps every record that it answers for; ``behaviours`` are used up one a post, then all is well.

    A behaviour is a status, or: ``hang``, ``trickle``, ``reset`` (before reading), ``lost`` (kept, but the answer
    never leaves), ``truncated`` (kept, half an answer), ``stranger`` (a 200 of something else), ``refuse`` (the
    first record of the body is refused), ``goodbye`` (an ordinary answer that closes the connection).
    """

    def __init__(self) -> None:
        self.behaviours: deque[int | str] = deque()
        self.always: int | str | None = None
        """A behaviour for every post that has none of its own."""
        self.most_bytes = 1 << 30
        """Larger bodies, before compression, are answered 413."""
        self.headers: dict[str, str] = {}
        """Sent with every answer that is not 200."""
        self.words = "told to"
        """The explanation in every answer that is not 200."""
        self.prices: Any = {}
        self.every_seconds: Any = None
        """How often it asks to be sent something."""
        self.posts: list[tuple[str, int]] = []
        """Path and number of records of every post that arrived whole."""
        self.received: dict[str, list[dict[str, Any]]] = {}
        self.tokens: set[str | None] = set()
        self.connections = 0
        self.released = threading.Event()
        """Ends what hangs."""
        self.url = ""

    @property
    def numbers(self) -> list[int]:
        """``seq`` of every record, in order of arrival."""
        return [record["seq"] for records in self.received.values() for record in records]

    def keep(self, path: str, records: list[dict[str, Any]]) -> None:
        """Take records in."""
        self.received.setdefault(path, []).extend(records)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, intake: IntakeDouble) -> None:
        self.intake = intake
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.intake.connections += 1

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def do_POST(self) -> None:
        intake = self.server.intake
        behaviour: int | str = intake.behaviours.popleft() if intake.behaviours else intake.always or 200
        if behaviour == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        records = [json.loads(line) for line in body.splitlines()]
        intake.tokens.add(self.headers["Authorization"])
        intake.posts.append((self.path, len(records)))
        if len(body) > intake.most_bytes:
            behaviour = 413
        if behaviour == "hang":
            intake.released.wait(30)
            self.close_connection = True
        elif behaviour == "trickle":
            while not intake.released.wait(0.05):
                self.wfile.write(b"H")
        elif isinstance(behaviour, int) and behaviour != 200:
            self._answer(behaviour, json.dumps({"error": intake.words}).encode(), intake.headers)
        else:
            self._good(str(behaviour), records)

    def _good(self, behaviour: str, records: list[dict[str, Any]]) -> None:
        intake = self.server.intake
        refused = [{"line": 1, "field": "status", "problem": "is missing"}] if behaviour == "refuse" else []
        if behaviour != "stranger":
            intake.keep(self.path, records[len(refused) :])
        answer = {"accepted": len(records) - len(refused), "duplicate": 0, "refused": refused}
        answer |= {"unit_prices": intake.prices, "send_every_seconds": intake.every_seconds}
        content = json.dumps(answer).encode()
        if behaviour == "lost":
            self.close_connection = True
        elif behaviour == "truncated":
            self._answer(200, content[:20], length=len(content))
            self.close_connection = True
        elif behaviour == "stranger":
            self._answer(200, b"<html>welcome</html>")
        elif behaviour == "goodbye":
            self._answer(200, content, {"Connection": "close"})
        else:
            self._answer(200, content)

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None, length: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length < 0 else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def intake_double() -> Iterator[IntakeDouble]:
    """A double that serves within the block."""
    intake = IntakeDouble()
    server = _Server(intake)
    intake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield intake
    finally:
        intake.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
