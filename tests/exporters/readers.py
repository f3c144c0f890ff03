"""Routes as several principals see them: what the service's middleware would have found out is given outright."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from farthing.domain.access import PRINCIPAL_KEY, Principal, Scope

__all__ = ["READER", "Reader", "as_principal", "tenants_token"]

READER = Principal("auditor", frozenset({Scope.READ_ALL}))
"""A token that sees everything."""


def tenants_token(*tenants: str, name: str = "dashboard") -> Principal:
    """A token that sees the rows of some tenants alone."""
    return Principal(name, frozenset({Scope.READ_TENANT}), frozenset(tenants))


def as_principal(app: ASGIApp, principal: Principal | None) -> ASGIApp:
    """The application with every request made by somebody; None: as without any middleware."""

    async def call(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if principal is not None and scope["type"] == "http":
            scope[PRINCIPAL_KEY] = principal
        await app(scope, receive, send)

    return call


class Reader:
    """Gets paths of routes in this process, as one principal."""

    def __init__(self, routes: Sequence[BaseRoute], principal: Principal | None = None) -> None:
        self._app = as_principal(Starlette(routes=routes), principal)

    def get(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """The answer; an exception in a route is raised here."""

        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://farthing") as client:
                return await client.get(path, params=params, headers=headers)

        return asyncio.run(answer())
