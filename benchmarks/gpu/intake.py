"""A stand-in for Farthing's intake: takes whatever a probe sends, and keeps every line."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import writing

__all__ = ["Counter", "running_intake"]


class Counter:
    """How many records came."""

    def __init__(self) -> None:
        self.records = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Count so many more."""
        with self._lock:
            self.records += number


@contextmanager
def running_intake(port: int, path: Path) -> Iterator[Counter]:
    """An intake on the loopback interface, until the block ends; its records go to a file."""
    counter = Counter()
    with writing(path) as kept:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                lines = body.splitlines()
                kept.add(*lines)
                counter.add(len(lines))
                answer = json.dumps({"accepted": len(lines), "duplicate": 0, "refused": []}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Nothing: a line a delivery would only hide the results."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield counter
        finally:
            server.shutdown()
            server.server_close()
