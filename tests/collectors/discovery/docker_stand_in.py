"""Docker's API on a socket, answering what a real one (Debian's docker.io 20.10.24) answered when recorded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parents[2] / "fixtures" / "discovery"


class DockerStandIn:
    """``containers`` is the answer to /containers/json; ``asked`` are the filters that came with each question."""

    def __init__(self) -> None:
        self.containers = (RECORDED / "docker_containers.json").read_bytes()
        self.networks = (RECORDED / "docker_networks.json").read_bytes()
        self.status = 200
        self.asked: list[str] = []


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def docker_at(socket: Path) -> Iterator[DockerStandIn]:
    """The stand-in, listening on a socket within the block."""
    docker = DockerStandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path.endswith("/containers/json"):
                docker.asked += parse_qs(url.query).get("filters", [])
                self._answer(docker.containers)
            else:
                self._answer(docker.networks if url.path.endswith("/networks") else b"OK")

        def _answer(self, body: bytes) -> None:
            self.send_response(docker.status)
            self.send_header("Api-Version", "1.41")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
            pass

    with _Server(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield docker
        finally:
            server.shutdown()
            thread.join(5)
