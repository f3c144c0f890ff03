"""An application behind the guard, with tokens in a file: what the tests of access share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from farthing.domain.access import PRINCIPAL_KEY, Principal, Scope
from farthing.service.access import Access, Guard
from farthing.service.access_login import login_routes
from farthing.service.access_sessions import Sessions
from farthing.service.access_tokens import TokenFile, add_token

__all__ = ["NOW", "Browser", "Doors"]

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
PATHS = {
    "/healthz": "healthz",
    "/": "page",
    "/metrics": "metrics",
    "/api/v1/snapshot": "snapshot",
    "/api/v1/gpus": "gpus",
    "/secret": "not-in-the-table",
}


class Browser:
    """A client that keeps cookies from one request to the next."""

    def __init__(self, app: Any, base_url: str = "http://127.0.0.1:9464") -> None:
        self._app = app
        self._base_url = base_url
        self.cookies = httpx.Cookies()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer; a redirect is not followed."""

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base_url, cookies=self.cookies) as client:
                answer = await client.request(method, path, **options)
                self.cookies = client.cookies
                return answer

        return asyncio.run(one())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """An answer to GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """An answer to POST."""
        return self.request("POST", path, **options)


class Doors:
    """Routes of every kind behind the guard; each answers whom it was asked by."""

    def __init__(self, folder: Path, *, tokens: bool = True, intake_token: str | None = None) -> None:
        self.file = folder / "tokens.yaml"
        self.clock = 0.0
        self.wall = NOW.timestamp()
        self.denied: list[str] = []
        self.plain: dict[str, str] = {}
        if tokens:
            for scope in Scope:
                self.add(scope, [scope], ["acme"] if scope is Scope.READ_TENANT else [])
        self.access = Access(
            TokenFile(self.file), intake_token, Sessions(lambda: b"key", 12.0, lambda: self.wall)
        )  # fmt: skip
        routes = [Route(path, self._answer, name=name) for path, name in PATHS.items()]
        routes += [
            Route("/v1/usage", self._answer, methods=["POST"], name="intake-usage"),
            *login_routes(self.access, lambda: self.clock),
        ]
        self.app = Starlette(
            routes=[*routes, Mount("/mounted", Starlette(routes=[Route("/x", self._answer)]))],
            middleware=[Middleware(Guard, access=self.access, denied=self.denied.append)],
        )
        self.seen: list[Principal] = []

    def client(self, base_url: str = "http://127.0.0.1:9464") -> Browser:
        """A client with cookies of its own."""
        return Browser(self.app, base_url)

    def add(self, name: str, scopes: Sequence[Scope], tenants: Sequence[str] = ()) -> str:
        """A token of that name."""
        self.plain[name] = add_token(self.file, name, scopes, tenants, NOW)
        return self.plain[name]

    def ask(self, path: str, name: str | None = None, method: str = "GET", **headers: str) -> httpx.Response:
        """An answer to whoever has the token of that name."""
        bearer = {} if name is None else {"authorization": f"Bearer {self.plain[name]}"}
        return self.client().request(method, path, headers={**bearer, **headers})

    def log_in(self, name: str) -> Browser:
        """A browser with the session of a token."""
        client = self.client()
        assert client.post("/login", json={"token": self.plain[name]}).status_code == 200
        return client

    async def _answer(self, request: Request) -> Response:
        principal = request.scope.get(PRINCIPAL_KEY)
        if principal is not None:
            self.seen.append(principal)
        return JSONResponse({"principal": None if principal is None else principal.name})
