"""The built-in page and the JSON it reads. Nothing on it comes from another host."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from farthing.domain.clock import SECOND
from farthing.domain.model import Snapshot
from farthing.exporters.web.history import History
from farthing.exporters.web.own import own_history_payload, own_snapshot_payload
from farthing.exporters.web.payload import history_payload, snapshot_payload
from farthing.exporters.web.tenant_history import TenantHistory
from farthing.exporters.web.viewer import own_tenants, principal_of, viewer_payload

__all__ = ["SECURITY_HEADERS", "web_routes"]

STATIC = Path(__file__).parent / "static"

SECURITY_HEADERS = {
    # Tenants name themselves: even a mistake in the page must not let a name become a script.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def web_routes(source: Callable[[], Snapshot], history: History, own_history: TenantHistory) -> list[Route]:
    """Routes of the page (``/`` and ``/login``), its assets (``/static/…``) and its data (``/api/v1/…``).

    The page holds no figure: whoever opens it without a login gets a form. Data is what the principal of the request
    may see. ``source`` is called on a worker thread, once per request for data. ``/api/v1/history?since=MS`` returns
    only points after a time in milliseconds since the epoch.
    """
    assets = StaticFiles(directory=STATIC)
    whole = _Whole()

    async def page(request: Request) -> Response:
        return _guarded(FileResponse(STATIC / "index.html", media_type="text/html"), "no-cache")

    async def static(request: Request) -> Response:
        return _guarded(await assets.get_response(request.path_params["path"], request.scope), "no-cache")

    # Plain functions: starlette runs them on a worker thread, so that a slow ledger never blocks intake.
    def snapshot(request: Request) -> Response:
        principal = principal_of(request)
        tenants = own_tenants(principal)
        viewer = {"viewer": viewer_payload(principal)}
        if tenants is None:
            # one object of two: a fleet's picture is megabytes, and the same for all who may see it
            text = bytes(JSONResponse(viewer).body)[:-1] + b"," + whole.text(source())[1:]
            return _guarded(Response(text, media_type="application/json"), "no-store")
        return _data({**viewer, **own_snapshot_payload(source(), tenants)})

    def recent_past(request: Request) -> Response:
        text = request.query_params.get("since")
        try:
            since_ns = None if text is None else _since_ns(text)
        except ValueError:
            return _data({"error": f"since: {text!r} is not a number of milliseconds since the epoch"}, status=400)
        tenants = own_tenants(principal_of(request))
        if tenants is None:
            return _data(history_payload(history, since_ns))
        return _data(own_history_payload(own_history, tenants, since_ns))

    return [
        Route("/", page, name="page"),
        Route("/login", page, name="login-page"),
        Route("/static/{path:path}", static, name="static"),
        Route("/api/v1/snapshot", snapshot, name="snapshot"),
        Route("/api/v1/history", recent_past, name="history"),
    ]


class _Whole:
    """The whole picture as JSON, made once for each snapshot however often it is asked for."""

    def __init__(self) -> None:
        self._made: tuple[Snapshot, bytes] | None = None

    def text(self, snapshot: Snapshot) -> bytes:
        """An object with at least one member."""
        made = self._made
        if made is None or made[0] is not snapshot:
            made = self._made = snapshot, msgspec.json.encode(snapshot_payload(snapshot))
        return made[1]


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
