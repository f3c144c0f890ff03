"""One bounded HTTP GET: a deadline for the whole of it, a limit on its body, and errors in one line."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from farthing.collectors.engines.clock import Clock
from farthing.domain.errors import EngineUnreachableError, ExpositionError

__all__ = ["Answer", "fetch", "read_body", "why_unanswered"]

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
            advice = "an engine's metrics are smaller: check engines[].url and metrics_path"
            body = await read_body(response, url, max_body, advice)
            return Answer(body, response.headers.get("content-type", ""), at_ns)
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
        why = why_unanswered(error, timeout_seconds)
        raise EngineUnreachableError(
            f"{url} did not answer: {why}; is the engine running and reachable there?"
        ) from error


async def read_body(response: httpx.Response, url: str, max_body: int, advice: str) -> bytes:
    """The decompressed body of a streamed response.

    Raises ExpositionError for one of more than ``max_body`` bytes, with ``advice``, and for one that is compressed
    more than once: a kilobyte of that unpacks to gigabytes in one step, before anybody can count them.
    """
    encodings = response.headers.get_list("content-encoding", split_commas=True)
    if len(encodings) > 1:
        raise ExpositionError(f"{url} answered what is compressed {len(encodings)} times over; let it answer plainly")
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_body:
            raise ExpositionError(f"{url} answered more than {max_body} bytes; {advice}")
    return bytes(body)


def why_unanswered(error: Exception, timeout_seconds: float) -> str:
    """In a few words, why a request with a time-out had no answer."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"nothing within {timeout_seconds:g} s"
    detail = " ".join(str(error).split())
    what = "connection failed" if isinstance(error, httpx.ConnectError) else type(error).__name__
    return f"{what} ({detail})" if detail else what


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
