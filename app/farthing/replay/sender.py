"""Delivers records to an intake in order, and does not give up while the intake is away.

A batch is answered before the next one leaves, so a retry never overtakes: records arrive in the order in
which they were handed over. Delivery is at least once; intake keeps the first record of each key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from farthing.collectors.intake_client import NotAsAgreedError, TooLargeError, answered, intake_headers, words_of
from farthing.domain.errors import ConfigError, FarthingError
from farthing_probe import wire

__all__ = ["Delivered", "Sender"]

Records = Sequence[Mapping[str, Any]]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Delivered:
    """What a sender has delivered so far: records by the intake's answer, and what that took."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    """Records the intake found wrong; the first of every answer is logged with its field."""
    posts: int = 0
    retries: int = 0

    @property
    def records(self) -> int:
        """All records that were answered for."""
        return self.accepted + self.duplicate + self.refused


class _AgainError(Exception):
    """An answer that is worth another try; its text says why."""


class _StoppedError(Exception):
    """The stop event was set while waiting for another try."""


# What may pass by waiting. An unsupported protocol or an illegal header never does.
_PASSING = (_AgainError, httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)


class Sender:
    """Posts records to one intake through a client that the caller owns (its time-outs bound each try).

    ``stop``, when set, ends waiting for an intake that is away. Between tries it waits ``first_wait_seconds``,
    doubling up to ``max_wait_seconds``, plus a random part of the same size, so that many senders do not
    return at once. Raises ConfigError for a URL or a token that no request could carry.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        client: httpx.AsyncClient,
        *,
        stop: asyncio.Event | None = None,
        batch_records: int = 500,
        first_wait_seconds: float = 0.25,
        max_wait_seconds: float = 10.0,
    ) -> None:
        self._base = _base_url(url)
        self._headers = intake_headers(token)
        self._client = client
        self._stop = stop or asyncio.Event()
        self._batch_records = batch_records
        self._wait = wait_exponential(multiplier=first_wait_seconds, max=max_wait_seconds) + wait_random(
            0, first_wait_seconds
        )
        self._sending = asyncio.Lock()
        self.delivered = Delivered()
        self.unit_prices: Mapping[str, Any] = {}
        """What the intake answered last: by engine, nano-dollars per million units."""

    async def send(self, records: Records) -> int:
        """How many of the records were delivered: all, unless the stop event ended it earlier.

        Retries for ever on connection errors, time-outs, 429 and 5xx. Records that the intake refuses one by
        one are counted and logged. Raises FarthingError with the intake's words when it refuses a whole batch.
        """
        async with self._sending:
            before = self.delivered.records
            with suppress(_StoppedError):
                for path, batch in _batches(records, self._batch_records):
                    await self._deliver(path, batch)
            return self.delivered.records - before

    async def _deliver(self, path: str, batch: Records) -> None:
        if self._stop.is_set():
            raise _StoppedError
        # Compressing half a thousand records takes long enough to be felt by who shares the event loop.
        body = await asyncio.to_thread(wire.encode, batch)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PASSING),
            wait=self._wait,
            sleep=self._pause,
            before_sleep=self._note_retry,
            reraise=True,
        )
        try:
            answer: httpx.Response = await retrying(self._post, path, body)
        except TooLargeError as error:
            if len(batch) == 1:
                raise FarthingError(str(error)) from None
            middle = len(batch) // 2
            await self._deliver(path, batch[:middle])
            await self._deliver(path, batch[middle:])
        except httpx.HTTPError as error:
            raise FarthingError(f"{self._base}{path}: the request cannot be sent: {error}") from error
        else:
            self._count(path, len(batch), answer)

    async def _post(self, path: str, body: bytes) -> httpx.Response:
        url = f"{self._base}{path}"
        answer = await self._client.post(url, content=body, headers=self._headers)
        if answer.status_code == httpx.codes.OK:
            return answer
        problem = f"{url}: the intake answered {answer.status_code}: {words_of(answer)}"
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
            raise _AgainError(problem)
        if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise TooLargeError(problem)
        raise FarthingError(problem)

    def _count(self, path: str, sent: int, answer: httpx.Response) -> None:
        try:
            said = answered(answer)
        except NotAsAgreedError as error:
            raise FarthingError(f"{self._base}{path}: {error}") from None
        refused = sent - said.accepted - said.duplicate
        self.delivered.accepted += said.accepted
        self.delivered.duplicate += said.duplicate
        self.delivered.refused += refused
        self.delivered.posts += 1
        self.unit_prices = said.unit_prices
        if said.refused:
            _log.warning("%s: the intake refused %d records; first: %s", path, refused, said.refused[0])

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake and give up as soon as the stop event is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
            raise _StoppedError

    def _note_retry(self, state: RetryCallState) -> None:
        self.delivered.retries += 1
        error = state.outcome.exception() if state.outcome else None
        # Once per outage: an intake that is away for an hour should not fill a log.
        level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
        _log.log(level, "%s: not delivered, trying again: %s", self._base, str(error) or type(error).__name__)


def _batches(records: Records, size: int) -> Iterator[tuple[str, Records]]:
    """Consecutive records of one path, at most ``size`` at a time: joining what is apart would reorder."""
    for path, run in groupby(records, key=wire.path_of):
        together = list(run)
        for start in range(0, len(together), size):
            yield path, together[start : start + size]


def _base_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is not a URL ({error}); give one like http://127.0.0.1:9464") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError(f"{url!r} is not an intake's URL; give one like http://127.0.0.1:9464")
    return url.rstrip("/")
