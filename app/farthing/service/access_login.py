"""``POST /login`` and ``/logout``: a token is exchanged for a session of the page.

The cookie is out of scripts' reach (HttpOnly), stays on this site (SameSite=Strict) and, over TLS, off plain
connections (Secure). Other sites can neither log a browser in nor out.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from farthing.collectors.rate_limit import RateLimit
from farthing.domain.access import EVERYBODY, Principal, Scope
from farthing.service.access import Access, cookie_name
from farthing.service.access_sites import same_site

__all__ = ["login_routes"]

FAILURES_PER_SECOND: Final = 1.0
"""By client address, over ten seconds. Nobody guesses 256 bits: this bounds what guessing costs the service."""
MAX_BODY_BYTES: Final = 4_096
BODY_SECONDS: Final = 10.0
LOG_SECONDS: Final = 60.0
FORM: Final = "application/x-www-form-urlencoded"
OTHER_SITE: Final = "only this page logs in and out, no other site"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


def login_routes(access: Access, clock: Callable[[], float] = time.monotonic) -> list[Route]:
    """The routes; both answer JSON, and a plain form with a redirect to the page.

    ``/login`` takes ``{"token": …}`` or a form with ``token``. It answers ``{"name", "scopes", "tenants"}`` with the
    cookie, else ``{"error"}`` with 400 unreadable, 401 no such token, 403 a token that reads nothing or another site's
    request, 413 too large, 429 too many failures from that address. ``/logout`` takes the cookie away.
    """
    door = _Door(access, clock)

    return [
        Route("/login", door.login, methods=["POST"], name="login"),
        Route("/logout", door.logout, methods=["POST"], name="logout"),
    ]


class _Door:
    def __init__(self, access: Access, clock: Callable[[], float]) -> None:
        self._access = access
        self._failures = RateLimit(FAILURES_PER_SECOND, clock)
        self._clock = clock
        self._logged = -math.inf

    async def login(self, request: Request) -> Response:
        sender = request.client.host if request.client else ""
        wait = self._failures.wait_seconds(sender)
        if wait:
            seconds = str(max(1, math.ceil(wait)))
            return _error(429, f"too many failed logins; try again in {seconds} s", {"Retry-After": seconds})
        try:
            if not same_site(request):
                raise _RefusedError(403, OTHER_SITE)
            token = await _token(request)
            principal, cookie = self._enter(token)
        except _RefusedError as refused:
            if refused.status == 401:
                self._count(sender)
            return _error(refused.status, str(refused))
        except TimeoutError:
            return _error(408, f"the body did not arrive within {BODY_SECONDS:.0f} s")
        except ClientDisconnect:
            return _error(400, "the connection closed before the body was complete")
        answer = _form(request) or JSONResponse(_told(principal), headers=HEADERS)
        if cookie is not None and self._access.sessions is not None:
            answer.set_cookie(
                cookie_name(request),
                cookie,
                max_age=self._access.sessions.seconds,
                path="/",
                secure=request.scope.get("scheme") == "https",
                httponly=True,
                samesite="strict",
            )
        return answer

    async def logout(self, request: Request) -> Response:
        if not same_site(request):
            return _error(403, OTHER_SITE)
        answer = _form(request) or JSONResponse({}, headers=HEADERS)
        secure = request.scope.get("scheme") == "https"
        answer.delete_cookie(cookie_name(request), path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    def _enter(self, credential: bytes) -> tuple[Principal, str | None]:
        """Who logs in, and the cookie's value; None where nobody has to."""
        tokens = self._access.known
        if tokens is None or self._access.sessions is None:
            return EVERYBODY, None
        token = tokens.find(credential)
        if token is None:
            raise _RefusedError(401, "there is no such token; `farthing tokens add` makes one")
        if not token.principal.may(Scope.READ_TENANT):
            raise _RefusedError(403, f"{token.name!r} only delivers records; log in with a token that reads")
        return token.principal, self._access.sessions.begin(token)

    def _count(self, sender: str) -> None:
        self._failures.charge(sender, 1)
        self._access.failures["login"] += 1
        if self._clock() >= self._logged + LOG_SECONDS:
            self._logged = self._clock()
            _log.warning("a login from %s was refused: there is no such token", sender or "somebody")


async def _token(request: Request) -> bytes:
    body = b""
    with anyio.fail_after(BODY_SECONDS):
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise _RefusedError(413, "that is too long for a token")
    try:
        text = body.decode()
        token: object
        if _media_type(request) == FORM:
            token = parse_qs(text, max_num_fields=10).get("token", [""])[0]
        else:
            data = json.loads(text)
            token = data.get("token") if isinstance(data, dict) else None
        if not isinstance(token, str) or not token.strip():
            raise _RefusedError(400, 'send a token, as in {"token": "farthing_…"}')
        return token.strip().encode()
    except (ValueError, RecursionError):
        raise _RefusedError(400, 'the body is neither JSON nor a form; send {"token": "farthing_…"}') from None


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _form(request: Request) -> Response | None:
    """Where a browser goes that sent a form."""
    return RedirectResponse("/", status_code=303, headers=HEADERS) if _media_type(request) == FORM else None


def _told(principal: Principal) -> dict[str, object]:
    return {
        "name": principal.name,
        "scopes": sorted(principal.scopes),
        "tenants": sorted(principal.tenants),
    }


def _error(status: int, problem: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": problem}, status_code=status, headers={**HEADERS, **(headers or {})})
