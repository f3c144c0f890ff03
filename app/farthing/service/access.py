"""Who is let in: every request is answered for a principal, or not at all.

Where there are tokens, each request shows one: as a bearer token (RFC 6750), or on the page by a session. What a
session opens is reading alone, so that no other site can make a browser change anything. Where there are none, the
service is open, but for intake if that has a token of its own.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from farthing.domain.access import EVERYBODY, PRINCIPAL_KEY, Principal, Scope
from farthing.service.access_rules import PUBLIC, needed_scope
from farthing.service.access_sessions import Sessions
from farthing.service.access_sites import names_this_host, same_site
from farthing.service.access_tokens import TokenFile, Tokens, digest

__all__ = ["Access", "Guard", "cookie_name"]

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
INTAKE: Final = Principal("intake", frozenset({Scope.INGEST}))
"""Who shows the plain token of ``serve.token_file``."""
FAILURES: Final = ("token", "login", "scope")
READERS: Final = Principal("everybody", frozenset({Scope.READ_ALL}))
"""Who asks a service that has no tokens but that of intake."""


@dataclass(slots=True)
class Access:
    """What the service knows of callers; ``tokens`` None: it asks nobody, but for intake where that has a token."""

    tokens: TokenFile | None = None
    intake_token: str | None = None
    sessions: Sessions | None = None
    failures: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FAILURES, 0)))
    """How often callers were turned away, by reason; nobody who shows nothing is counted."""

    @property
    def known(self) -> Tokens | None:
        """The tokens as they are now; None: nobody is asked for one."""
        return None if self.tokens is None else self.tokens.now

    def bearer(self, credential: bytes) -> Principal | None:
        """Whom a bearer token stands for, None for a token that opens nothing."""
        if self.intake_token is not None and hmac.compare_digest(
            digest(credential), digest(self.intake_token.encode())
        ):
            return INTAKE
        tokens = self.known
        token = None if tokens is None else tokens.find(credential)
        return None if token is None else token.principal

    def session(self, cookie: str) -> Principal | None:
        """Whom a session of the page stands for."""
        tokens = self.known
        if tokens is None or self.sessions is None:
            return None
        token = self.sessions.find(cookie, tokens)
        return None if token is None else token.principal

    def tenants(self) -> frozenset[str]:
        """Tenants that some token opens the rows of."""
        return frozenset(tenant for token in self.known or () for tenant in token.tenants)

    @property
    def on_loopback(self) -> bool:
        """Whether only this host reaches it while it asks nobody for a token; an agent of devices is reached by all."""
        return self.tokens is not None

    @property
    def open_to(self) -> Principal | None:
        """Who somebody is that shows nothing; None where a token is demanded."""
        if self.known is not None:
            return None
        return EVERYBODY if self.intake_token is None else READERS


class Guard:
    """ASGI middleware that lets a request pass to the route it matches, with its principal, or answers 401 or 403.

    ``denied`` is told the name of a route that a request was turned away from.
    """

    def __init__(self, app: ASGIApp, access: Access, denied: Callable[[str], None] = lambda _: None) -> None:
        self._app = app
        self._access = access
        self._denied = denied

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Raises nothing of its own; a websocket is refused, as the service has none."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            route = _route(scope)
            answer = self._turned_away(scope, route)
            if answer is None:
                await self._app(scope, receive, send)
            else:
                self._denied(route or "")
                await answer(scope, receive, send)

    def _turned_away(self, scope: AsgiScope, route: str | None) -> Response | None:
        """Why a request is not answered, or None; its principal is in ``scope`` then."""
        request = Request(scope)
        shown = request.headers.getlist("authorization")
        found = self._shown(shown) if shown else self._logged_in(request)
        needed = needed_scope(route)
        opened = self._access.open_to
        if found is None and opened is not None and self._access.on_loopback and needed is not PUBLIC:
            problem = _of_another_site(request)
            if problem:
                return _error(403, problem, "Bearer")
        # an open service is open to whoever shows something, too
        for principal in filter(None, (found, opened)):
            # what does not exist is told to whoever is let in, and to nobody else
            if needed is PUBLIC or route is None or principal.may(needed):
                scope[PRINCIPAL_KEY] = principal
                return None
        if needed is PUBLIC:
            return None
        if found is None:
            self._access.failures["token"] += bool(shown)
            return _unauthorised(None if route is None else needed, shown=bool(shown))
        self._access.failures["scope"] += 1
        has = ", ".join(sorted(found.scopes))
        return _error(
            403,
            f"a token with the scope {needed} is required; {found.name!r} has {has}",
            f'Bearer error="insufficient_scope", scope="{needed}"',
        )

    def _shown(self, headers: list[str]) -> Principal | None:
        credential = _credential(headers)
        return None if credential is None else self._access.bearer(credential)

    def _logged_in(self, request: Request) -> Principal | None:
        cookie = request.cookies.get(cookie_name(request)) if request.method in READING else None
        return self._access.session(cookie) if cookie else None


def cookie_name(request: HTTPConnection) -> str:
    """Cookies are shared by all ports of a host: two services on one host would log each other out."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"farthing-session-{port}" if port.isascii() and port.isdigit() else "farthing-session"


def _of_another_site(request: HTTPConnection) -> str:
    """Why a service that asks nobody for a token does not answer a browser; empty when it does.

    What listens on loopback is reached by every page that a browser on this host has open.
    """
    if not names_this_host(request):
        host = request.headers.get("host", "")
        return f"without tokens this host's own addresses are answered, not {host!r}; run `farthing tokens add`"
    if request.scope["method"] not in READING and not same_site(request):
        return "without tokens no other site's page may deliver; run `farthing tokens add`"
    return ""


def _route(scope: AsgiScope) -> str | None:
    """Name of the route that will answer, as Starlette's router chooses it; empty for a route without a name."""
    partial: str | None = None
    for route in scope["app"].routes:
        match, _ = route.matches(scope)
        name = str(route.name) if isinstance(route, Route) else ""
        if match is Match.FULL:
            return name
        if match is Match.PARTIAL and partial is None:
            partial = name
    return partial


def _credential(headers: list[str]) -> bytes | None:
    """What one header of the scheme Bearer carries; None for another scheme, and where there are several headers."""
    scheme, _, credential = headers[0].strip().partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer" or not credential.strip():
        return None
    # Starlette decodes headers as Latin-1; encoding them so gives back the bytes that were sent
    return credential.strip().encode("latin-1")


def _unauthorised(needed: Scope | None, *, shown: bool) -> Response:
    opens = "a valid bearer token" if needed is None else f"a valid bearer token with the scope {needed}"
    return _error(401, f"{opens} is required", 'Bearer error="invalid_token"' if shown else "Bearer")


def _error(status: int, problem: str, challenge: str) -> Response:
    headers = {"WWW-Authenticate": challenge, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return JSONResponse({"error": problem}, status_code=status, headers=headers)
