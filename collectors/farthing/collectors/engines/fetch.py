"""One bounded HTTP GET: a deadline for the whole of it, a limit on its body, and errors in one line."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from farthing.collectors.engines.clock import Clock
from farthing.domain.errors import EngineUnreachableError, ExpositionError

__all__ = ["Answer", "fetch"]

_ACCEPT = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1"}
"""prometheus_client answers OpenMetrics to anyone who mentions it, whatever the preference; text is smaller."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A body that arrived whole."""

    body: bytes
    content_type: str
    at_ns: int
    """UTC nanoseconds: when the response's head arrived, which is when the engine had rendered it."""


async def fetch(client: httpx.AsyncClient, url: str, clock: Clock, *, timeout_seconds: float, max_body: int) -> Answer:
    """What ``url`` answers with status 200.

    Raises EngineUnreachableError when nothing answers in time, or with a 5xx; ExpositionError for any other
    status, a redirect, or a body of more than ``max_body`` bytes (decompressed).
    """
    try:
        # httpx's own time-outs are per read: a server that drips bytes would hold a scrape for ever
        async with (
            asyncio.timeout(timeout_seconds),
            client.stream("GET", url, headers=_ACCEPT, timeout=timeout_seconds, follow_redirects=False) as response,
        ):
            at_ns = clock()
            _check(response, url)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > max_body:
                    raise ExpositionError(
                        f"{url} answered more than {max_body} bytes; an engine's metrics are smaller: check "
                        "engines[].url and metrics_path"
                    )
            return Answer(bytes(body), response.headers.get("content-type", ""), at_ns)
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineUnreachableError(
            f"{url} did not answer: {_reason(error, timeout_seconds)}; is the engine running and reachable there?"
        ) from error


def _check(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status == httpx.codes.OK:
        return
    if status >= 500:
        raise EngineUnreachableError(
            f"{url} answered HTTP {status}: the engine, or a proxy for it, is not able to serve"
        )
    if 300 <= status < 400:
        target = response.headers.get("location", "nowhere")
        raise ExpositionError(f"{url} redirects (HTTP {status}) to {target}; give the engine's own address instead")
    if status in {401, 403}:
        raise ExpositionError(
            f"{url} answered HTTP {status}: its metrics need credentials; let Farthing read them openly"
        )
    raise ExpositionError(f"{url} answered HTTP {status}; check engines[].url and metrics_path")


def _reason(error: Exception, timeout_seconds: float) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"nothing within {timeout_seconds:g} s"
    detail = " ".join(str(error).split())
    what = "connection failed" if isinstance(error, httpx.ConnectError) else type(error).__name__
    return f"{what} ({detail})" if detail else what
