"""What benchmarks of traces need: contexts that are sampled at a rate, and a collector that counts and forgets.

The standard library alone: it runs in vLLM's own environment, and on machines without a network.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["WITHOUT_TRACES", "Collected", "running_collector", "traceparents", "traces_environment"]

WITHOUT_TRACES = {"FARTHING_PROBE_TRACES": "off"}
"""The environment of a server whose probe is as it was before there were traces."""


def traceparents(share: float, seed: int = 1) -> Iterator[str]:
    """W3C trace contexts of callers, without end; evenly, so large a share of them is sampled (0 to 1)."""
    draw = random.Random(seed)
    number = 0
    while True:
        number += 1
        sampled = int(number * share) > int((number - 1) * share)
        yield f"00-{draw.getrandbits(128) | 1:032x}-{draw.getrandbits(64) | 1:016x}-{sampled:02x}"


def traces_environment(port: int) -> dict[str, str]:
    """The environment of a server whose probe hands its spans to a collector on this machine."""
    return {
        "FARTHING_PROBE_TRACES": "sdk",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{port}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }


class Collected:
    """What came, in numbers."""

    def __init__(self) -> None:
        self.exports = 0
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, length: int) -> None:
        """Count one more export of so many bytes."""
        with self._lock:
            self.exports += 1
            self.bytes += length


@contextmanager
def running_collector(port: int) -> Iterator[Collected]:
    """A collector on the loopback interface that takes OTLP over HTTP, until the block ends."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            collected.add(length)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")  # an empty answer is one that took everything
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: a line an export would only hide the results."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collected
    finally:
        server.shutdown()
        server.server_close()
