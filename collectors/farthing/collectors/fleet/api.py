"""One question to a Prometheus-compatible API, with a deadline, a limit and retries; its answer as series of points.

API: https://prometheus.io/docs/prometheus/latest/querying/api/ ("Instant queries"), which Thanos, Mimir and
VictoriaMetrics have as well. A range selector asked as an instant query is answered with the samples as they were
stored, at the times at which they were scraped.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random
from tenacity.wait import wait_base

from farthing.collectors.engines.fetch import read_body, why_unanswered
from farthing.domain.clock import MILLISECOND
from farthing.domain.errors import ConfigError, EngineUnreachableError, ExpositionError

__all__ = ["PrometheusApi", "Series", "fleet_client"]

MAX_BODY: Final = 256 * 1024 * 1024
"""Bytes. 50,000 series of four points each are about 20 MB."""
TRIES: Final = 3
FIRST_WAIT_SECONDS: Final = 0.5
_SHOWN: Final = 160
"""Characters of the server's own words that an error quotes."""
_SHORT: Final = 64 * 1024
"""Bytes of an answer that may be quoted."""
_PATH: Final = "/api/v1/query"
_LAST_SECOND: Final = 2**63 // 10**9
"""Of UTC in nanoseconds, as the books have it: in the year 2262."""


@dataclass(frozen=True, slots=True)
class Series:
    """The stored samples of one series, in order of time."""

    labels: Mapping[str, str]
    """The metric's name among them, as ``__name__``."""
    points: Mapping[int, float]
    """UTC nanoseconds, by the clock of whoever scraped -> value. What is not finite is left out: a marker of
    staleness, in storages that answer with it, is no sample."""


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str | None]] = []
    value: tuple[float, str | None] | None = None


class _Data(msgspec.Struct):
    result_type: str = msgspec.field(name="resultType")
    result: list[_Series]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


_DECODER: Final = msgspec.json.Decoder(_Answer)


def fleet_client(ca_file: Path | None) -> httpx.AsyncClient:
    """A client that checks servers against the certificates of ``ca_file``; ConfigError where they cannot be read.

    Like Prometheus it never goes through a proxy of the environment.
    """
    if ca_file is None:
        return httpx.AsyncClient(trust_env=False)
    try:
        context = ssl.create_default_context(cafile=str(ca_file.expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file}: no certificates can be read ({error}); check fleet[].ca_file") from error
    return httpx.AsyncClient(trust_env=False, verify=context)


class PrometheusApi:
    """Asks one server; ``client`` is the caller's, so that connections are kept."""

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        token_file: Path | None = None,
        username: str = "",
        password_file: Path | None = None,
        tenant: str = "",
        timeout_seconds: float = 30.0,
        max_body: int = MAX_BODY,
        wait: wait_base | None = None,
    ) -> None:
        self.url = url.rstrip("/") + _PATH
        self._client = client
        self._token_file = token_file
        self._username = username
        self._password_file = password_file
        self._tenant = tenant
        self._timeout = timeout_seconds
        self._max_body = max_body
        self._wait = wait or wait_exponential(multiplier=FIRST_WAIT_SECONDS) + wait_random(0, FIRST_WAIT_SECONDS)

    async def query(self, promql: str) -> list[Series]:
        """What a query is answered with, tried again twice where the server is away or busy.

        Raises EngineUnreachableError when nothing answers in time, with a 5xx or a 429; ExpositionError for what no
        Prometheus answers and for what the server refuses; ConfigError for a secret that cannot be read.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(TRIES),
            wait=self._wait,
            retry=retry_if_exception_type(EngineUnreachableError),
            reraise=True,
        )
        body: bytes = await retrying(self._ask, promql)
        # tens of megabytes, and others want the loop
        return await asyncio.to_thread(_series, body, self.url)

    # ---- inside ------------------------------------------------------------------------------------

    async def _ask(self, promql: str) -> bytes:
        headers = self._headers()
        try:
            # httpx's own time-outs are per read: a server that drips bytes would hold a poll for ever
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    "POST",
                    self.url,
                    data={"query": promql},
                    headers=headers,
                    timeout=self._timeout,
                    follow_redirects=False,
                ) as response,
            ):
                advice = "narrow fleet[].match, or lower max_series or lookback_seconds"
                body = await read_body(response, self.url, self._max_body, advice)
                told = _unsaid(body, headers) if len(body) <= _SHORT else body
                _check(response, told, self.url, headers)
                return told
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            why = why_unanswered(error, self._timeout)
            raise EngineUnreachableError(
                f"{self.url} did not answer: {why}; is the server of fleet[].url running and reachable there?"
            ) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self._tenant:
            headers["X-Scope-OrgID"] = self._tenant
        if self._token_file is not None:
            token = _secret(self._token_file)
            if not token.isascii() or " " in token:
                raise ConfigError(f"{self._token_file}: a token is one word of ASCII; write it there, and nothing else")
            headers["Authorization"] = f"Bearer {token}"
        elif self._password_file is not None:
            login = f"{self._username}:{_secret(self._password_file)}"
            headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        return headers


def _secret(file: Path) -> str:
    try:
        text = file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the secret cannot be read ({error}); check fleet[] and its permissions") from error
    if not text or not text.isprintable():
        raise ConfigError(f"{file}: holds no secret of one line; write it there, and nothing else")
    return text


def _unsaid(body: bytes, headers: Mapping[str, str]) -> bytes:
    """What a server says, without the secret that it was asked with: some quote a request that they refuse."""
    secret = headers.get("Authorization", "").partition(" ")[2].encode()
    return body.replace(secret, b"[secret]") if secret else body


def _check(response: httpx.Response, body: bytes, url: str, headers: Mapping[str, str]) -> None:
    status = response.status_code
    if status == httpx.codes.OK:
        return
    words = _words(body if len(body) <= _SHORT else b"")
    if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS:
        raise EngineUnreachableError(
            f"{url} answered HTTP {status}{words}: it, or a proxy for it, is not able to answer; if it lasts, narrow "
            "fleet[].match or ask less often"
        )
    if 300 <= status < 400:
        target = _unsaid(response.headers.get("location", "nowhere").encode(), headers).decode()
        raise ExpositionError(f"{url} redirects (HTTP {status}) to {target}; give that server's own address as url")
    if status in {401, 403}:
        raise ExpositionError(
            f"{url} answered HTTP {status}: it wants other credentials; check token_file, or username and password_file"
        )
    if status == httpx.codes.NOT_FOUND:
        raise ExpositionError(
            f"{url} answered HTTP 404: no query API is there; give the base URL of it (Mimir's ends with /prometheus)"
        )
    raise ExpositionError(f"{url} refused the query with HTTP {status}{words}; check fleet[].match and tenant")


def _words(body: bytes) -> str:
    """What the server says of its refusal, behind a colon; empty where it says nothing."""
    try:
        text = _DECODER.decode(body).error
    except msgspec.MsgspecError:
        text = body[: 4 * _SHOWN].decode("utf-8", errors="replace")
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return f" ({flat[:_SHOWN]})" if flat else ""


def _series(body: bytes, url: str) -> list[Series]:
    try:
        answer = _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise ExpositionError(
            f"{url} answered what no Prometheus does ({error}); check fleet[].url: it is the base URL of a query API"
        ) from error
    if answer.status != "success" or answer.data is None:
        raise ExpositionError(f"{url} answered with an error{_words(body)}; check fleet[].match")
    return [Series(one.metric, _points(one, url)) for one in answer.data.result]


def _points(series: _Series, url: str) -> dict[int, float]:
    values = series.values if series.value is None else [series.value]
    try:
        if any(not 0 <= at < _LAST_SECOND for at, _ in values):
            raise ValueError("its time is in no year from 1970 to 2261")
        # Prometheus keeps milliseconds; a float of seconds has them to the last digit until the year 287396
        points = {round(at * 1000) * MILLISECOND: float(value) for at, value in values if value is not None}
    except (ValueError, OverflowError) as error:
        raise ExpositionError(f"{url} answered a sample that is no number, or has no time ({error})") from error
    return {at: value for at, value in points.items() if math.isfinite(value)}
