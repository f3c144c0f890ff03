"""The collector ``rotel`` as a hop: it takes OTLP over HTTP on a loopback port and hands on what it took."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.alerts.real_parts import free_port
from tests.service.running import wait_until

__all__ = ["rotel_hop"]

STARTS_WITHIN_SECONDS = 20.0
STOPS_WITHIN_SECONDS = 10.0


@contextmanager
def rotel_hop(onward: str, log: Path, *, port: int = 0) -> Iterator[str]:
    """The endpoint of a collector that runs within the block and sends to the endpoint ``onward``."""
    package = importlib.util.find_spec("rotel")
    assert package is not None, "rotel is not installed"
    assert package.origin is not None
    port = port or free_port()
    command = [
        *(str(Path(package.origin).with_name("rotel-agent")), "start"),
        *("--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"),
        *("--exporter", "otlp", "--otlp-exporter-endpoint", onward, "--otlp-exporter-protocol", "http"),
        *("--batch-timeout", "100ms"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={}, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def listens() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, STARTS_WITHIN_SECONDS, "the collector's start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(STOPS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
