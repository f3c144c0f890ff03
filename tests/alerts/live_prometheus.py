"""A real Prometheus with our rules, scraping recorded expositions whose counters advance."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from tests.alerts.known_metrics import CAPTURES, farthing_exposition
from tests.alerts.real_parts import free_port, program, running

from farthing.alerts.render import render_rules
from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING
from farthing.settings import Settings

__all__ = ["ENGINES", "Prometheus", "prometheus", "started"]

ENGINES: Mapping[str, Path] = {
    "text": CAPTURES / "metrics-text.txt",
    "vlm": CAPTURES / "metrics-vlm.txt",
    "speculating": CAPTURES / "metrics-specdecode-lora.txt",
}
"""Instance -> the exposition it answers."""
CUMULATIVE = ("_total", "_bucket", "_count", "_sum")


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query, each with ``metric`` and ``value`` (a pair of time and text)."""
        return list(self.get("query", query=expr)["result"])

    def get(self, what: str, **parameters: str) -> Any:
        """The data of one API call; HTTPError where the server refuses it."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}") as response:
            return json.load(response)["data"]


@contextmanager
def started(
    folder: Path, *flags: str, address: str | None = None, data: Path | None = None, prefix: Sequence[str] = ()
) -> Iterator[Prometheus]:
    """Prometheus runs within the block by the ``prometheus.yml`` of a folder, which also gets its data and its log.

    ``flags`` are more of its own; ``prefix`` is what it is run by, as ``nice``.
    """
    address = address or f"127.0.0.1:{free_port()}"
    arguments = [
        *prefix,
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data or folder / 'data'}",
        f"--web.listen-address={address}",
        *flags,
    ]
    with running(arguments, f"http://{address}/-/ready", folder / "prometheus.log"):
        yield Prometheus(f"http://{address}")


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Prometheus runs within the block, scraping two engines and Farthing every second."""
    rules = folder / "rules"
    rules.mkdir()
    for name, text in render_rules(Settings()).items():
        (rules / name).write_text(text)
    with _expositions() as target:
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(target)))
        with started(folder) as server:
            yield server


def _configuration(target: str) -> dict[str, Any]:
    engines = [{"targets": [target], "labels": {"instance": name, "__metrics_path__": f"/{name}"}} for name in ENGINES]
    farthing = [{"targets": [target], "labels": {"instance": JOB_FARTHING, "__metrics_path__": "/farthing"}}]
    return {
        "global": {"scrape_interval": "1s"},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [
            {"job_name": JOB_ENGINES, "static_configs": engines},
            {"job_name": JOB_FARTHING, "static_configs": farthing},
        ],
    }


@contextmanager
def _expositions() -> Iterator[str]:
    """The address where /INSTANCE answers the recorded text, its counters 10 % of the record further each second."""
    started = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            elapsed = time.monotonic() - started
            if self.path == "/farthing":
                text = farthing_exposition(step=100 + int(elapsed))
            else:
                text = _advanced(ENGINES[self.path.removeprefix("/")].read_text(), 1 + elapsed / 10)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing: pytest shows what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _advanced(text: str, factor: float) -> str:
    """The exposition with every cumulative sample multiplied: buckets stay cumulative, gauges as recorded."""
    lines = []
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if not line.startswith("#") and series.partition("{")[0].endswith(CUMULATIVE):
            lines.append(f"{series} {float(value) * factor!r}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"
