"""The built-in page and the JSON it reads. Nothing on it comes from another host."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from farthing.domain.clock import SECOND
from farthing.domain.model import Snapshot
from farthing.exporters.web.history import History
from farthing.exporters.web.payload import history_payload, snapshot_payload

__all__ = ["web_routes"]

STATIC = Path(__file__).parent / "static"

SECURITY_HEADERS = {
    # Tenants name themselves: even a mistake in the page must not let a name become a script.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def web_routes(source: Callable[[], Snapshot], history: History) -> list[Route]:
    """Routes of the page (``/``), its assets (``/static/…``) and its data (``/api/v1/snapshot``, ``/api/v1/history``).

    ``source`` is called on a worker thread, once per request for data. ``/api/v1/history?since=MS`` returns only
    points after a time in milliseconds since the epoch.
    """
    assets = StaticFiles(directory=STATIC)

    async def page(request: Request) -> Response:
        return _guarded(FileResponse(STATIC / "index.html", media_type="text/html"), "no-cache")

    async def static(request: Request) -> Response:
        return _guarded(await assets.get_response(request.path_params["path"], request.scope), "no-cache")

    # Plain functions: starlette runs them on a worker thread, so that a slow ledger never blocks intake.
    def snapshot(request: Request) -> Response:
        return _data(snapshot_payload(source()))

    def recent_past(request: Request) -> Response:
        text = request.query_params.get("since")
        try:
            since_ns = None if text is None else _since_ns(text)
        except ValueError:
            return _data({"error": f"since: {text!r} is not a number of milliseconds since the epoch"}, status=400)
        return _data(history_payload(history, since_ns))

    return [
        Route("/", page, name="page"),
        Route("/static/{path:path}", static, name="static"),
        Route("/api/v1/snapshot", snapshot, name="snapshot"),
        Route("/api/v1/history", recent_past, name="history"),
    ]


def _since_ns(text: str) -> int:
    """The last nanosecond of a millisecond, because points are shown in whole milliseconds."""
    milliseconds = float(text)
    if not math.isfinite(milliseconds):
        raise ValueError(text)
    return (math.floor(milliseconds) + 1) * SECOND // 1_000 - 1


def _data(payload: dict[str, Any], status: int = 200) -> Response:
    return _guarded(JSONResponse(payload, status_code=status), "no-store")


def _guarded(response: Response, cache: str) -> Response:
    response.headers.update(SECURITY_HEADERS)
    response.headers["Cache-Control"] = cache
    return response
