"""A Grafana that answers from a real Prometheus, and a Jaeger, as far as the script that verifies a stack asks them.

Shapes are those of Grafana's documented HTTP API (docs/sources/developers/http_api/data_source.md, "Query a data
source": one frame for each series, the first field its time) and of Jaeger's query API.
"""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

__all__ = ["PASSWORD", "GrafanaBeforePrometheus", "StandInJaeger", "serving"]

PASSWORD = "only-for-this-test"
Answer = tuple[int, Any]


class GrafanaBeforePrometheus:
    """Provisioned dashboards by uid, and a data source."""

    def __init__(self, prometheus: str, dashboards: Mapping[str, Any]) -> None:
        self.dashboards = dict(dashboards)
        self.broken: Callable[[str], str] = lambda _expr: ""
        """What goes wrong with a query, by its text."""
        self.client = httpx.Client(base_url=prometheus, trust_env=False, timeout=30)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Status and JSON of one request."""
        split = urlsplit(target)
        if split.path == "/api/health":
            return 200, {"database": "ok", "version": "13.2.3"}
        if headers.get("authorization") != f"Basic {base64.b64encode(f'admin:{PASSWORD}'.encode()).decode()}":
            return 401, {"message": "Unauthorized"}
        if (method, split.path) == ("POST", "/api/ds/query"):
            return self._query(json.loads(body))
        resources = "/api/datasources/uid/prometheus/resources"
        if split.path.startswith(f"{resources}/api/v1/label/"):
            found = self.client.get(split.path.removeprefix(resources), params=parse_qs(split.query))
            return found.status_code, found.json()
        pages = {
            "/api/search": [{"uid": uid, "type": "dash-db"} for uid in self.dashboards],
            "/api/datasources/uid/prometheus/health": {"status": "OK", "message": "Successfully queried."},
            **{f"/api/dashboards/uid/{uid}": {"dashboard": document} for uid, document in self.dashboards.items()},
        }
        return (200, pages[split.path]) if split.path in pages else (404, {"message": "not found"})

    def _query(self, body: Mapping[str, Any]) -> Answer:
        (query,) = body["queries"]
        assert query["datasource"]["uid"] == "prometheus"
        start, end = (int(body[key]) / 1_000 for key in ("from", "to"))
        if query["instant"]:
            path, span = "/api/v1/query", {"time": repr(end)}
        else:
            step = query["intervalMs"] / 1_000
            path, span = "/api/v1/query_range", {"start": repr(start), "end": repr(end), "step": repr(step)}
        found = self.client.post(path, data={"query": query["expr"], **span}).json()
        error = found.get("error") or self.broken(query["expr"])
        if error:
            return 400, {"results": {query["refId"]: {"error": error, "status": 400}}}
        data = found["data"]
        series = [{"value": data["result"]}] if data["resultType"] == "scalar" else data["result"]
        frames = [_frame(one.get("values") or [one["value"]]) for one in series]
        return 200, {"results": {query["refId"]: {"status": 200, "frames": frames}}}


def _frame(points: list[Any]) -> dict[str, Any]:
    columns: list[list[float]] = [[int(float(at) * 1_000) for at, _ in points], [float(value) for _, value in points]]
    # neither is JSON; Grafana writes null for NaN
    values = [columns[0], [value if math.isfinite(value) else None for value in columns[1]]]
    return {"schema": {"fields": [{"name": "Time"}, {"name": "Value"}]}, "data": {"values": values}}


class StandInJaeger:
    """Traces of one service."""

    def __init__(self, tags: Mapping[str, Any]) -> None:
        self.tags = dict(tags)

    def answer(self, _method: str, target: str, _headers: Mapping[str, str], _body: bytes) -> Answer:
        """Status and JSON of one request."""
        path = urlsplit(target).path
        if path == "/api/services":
            return 200, {"data": ["jaeger", "vllm"]}
        assert path == "/api/traces"
        tags = [{"key": key, "value": value} for key, value in self.tags.items()]
        return 200, {"data": [{"traceID": "1", "spans": [{"tags": tags}]}]}


@contextmanager
def serving(one: GrafanaBeforePrometheus | StandInJaeger) -> Iterator[str]:
    """Its base URL within the block."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, content = one.answer(self.command, self.path, headers, body)
            data = json.dumps(content, allow_nan=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815 - names that http.server calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
