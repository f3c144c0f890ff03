"""Takes devices' records to an intake on another host, and keeps them in memory while it is away.

Delivery is at least once, in the order in which records came; intake keeps the first record of each key.
"""

from __future__ import annotations

import gzip
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from farthing.collectors.intake import SHOWN_REFUSALS
from farthing.collectors.intake_client import NotAsAgreedError, TooLargeError, answered, intake_headers, words_of
from farthing.collectors.wire import device_line
from farthing.domain.errors import ConfigError, RecordError
from farthing.domain.gpu import DeviceSamples
from farthing_probe.wire import WINDOWS_PATH

__all__ = ["Delivery"]

_log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 32 * 1024 * 1024
"""Lines that wait: of eight devices about half a day."""
BATCH_LINES: Final = 500
FIRST_WAIT_SECONDS: Final = 0.5
MAX_WAIT_SECONDS: Final = 30.0
LONGEST_RETRY_AFTER: Final = 300.0
ORDINARY_BYTES: Final = 16 * 1024
"""A record of a few hundred samples. An intake that finds one of these alone too large is none, or wrongly set up."""
LAST_TRY_SECONDS: Final = 5.0
"""How long the end may wait for what is still in the queue."""


class _AgainError(Exception):
    """Not delivered; its text says why, and ``retry_after`` when the intake wants to hear of it again."""

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class Delivery:
    """A queue in front of one intake; ``put`` from any thread, ``run`` in one of its own until ``stop``.

    ``client`` is the caller's; its time-outs bound each try. A whole refusal (a wrong token, say) is told once and
    tried again as an outage is: whoever mends it loses nothing. When ``queue_bytes`` are full the oldest records
    go, and are counted. Raises ConfigError for a URL or a token that no request can carry.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        client: httpx.Client,
        *,
        queue_bytes: int = QUEUE_BYTES,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._url = _base_url(url) + WINDOWS_PATH
        self._headers = intake_headers(token)
        self._client = client
        self._queue_bytes = queue_bytes
        self._max_wait_seconds = max_wait_seconds
        self._backoff = wait_exponential(multiplier=first_wait_seconds, max=max_wait_seconds) + wait_random(
            0, first_wait_seconds
        )
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._sending = 0
        """Lines at the queue's head that are on their way."""
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._stop = threading.Event()
        self._complaint = ""
        self._thread: threading.Thread | None = None
        self.delivered = 0
        """Records that the intake answered for, duplicates among them."""
        self.refused = 0
        """Records that it found wrong one by one; the first of each answer is logged."""
        self.dropped = 0
        """Records that went because the queue was full."""

    @property
    def waiting(self) -> int:
        """Records in the queue."""
        return len(self._lines)

    def put(self, records: Sequence[DeviceSamples]) -> None:
        """Queue records; what no wire could carry is counted as refused, and the reason is logged."""
        for record in records:
            try:
                line = device_line(record)
            except RecordError as error:
                self.refused += 1
                _log.warning("%s: a record of device %s cannot be sent: %s", self._url, record.uuid, error)
                continue
            self._keep(line)
        self._filled.set()

    def start(self) -> None:
        """Deliver in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="gpu-delivery", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; what still waits is tried once more, and what then remains is said."""
        self._stop.set()
        self._filled.set()
        if self._thread is not None:
            self._thread.join(LAST_TRY_SECONDS)
        if self._lines:
            _log.warning("%s: %d records were not delivered", self._url, len(self._lines))

    def run(self) -> None:
        """Deliver what is put, until ``stop``, and then once more."""
        while not self._stop.is_set():
            self._filled.wait()
            self._filled.clear()
            try:
                self._deliver_all()
            except Exception:
                # whatever answers in the intake's place may do what nobody foresaw: records wait, and the thread lives
                _log.exception("%s: delivery failed in a way that nobody foresaw; it is tried again", self._url)
                self._done(0)
                self._filled.set()
                self._wait(self._max_wait_seconds)
        self._deliver_all()

    def _deliver_all(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type(_AgainError),
            wait=self._pause,
            stop=stop_when_event_set(self._stop),
            sleep=self._wait,
            before_sleep=self._note,
            reraise=True,
        )
        size = BATCH_LINES
        while self._lines:
            batch = self._take(size)
            try:
                retrying(self._post, batch)
            except TooLargeError as error:
                if len(batch) == 1:
                    self.refused += 1
                    _log.warning("%s: one record alone is too large: %s", self._url, error)
                    self._done(1)
                size = max(1, len(batch) // 2)
            except _AgainError as error:
                self._complain(error)
                self._done(0)
                return
            else:
                self._done(len(batch))

    def _take(self, size: int) -> list[bytes]:
        with self._lock:
            self._sending = min(size, len(self._lines))
            return [self._lines[index] for index in range(self._sending)]

    def _done(self, number: int) -> None:
        with self._lock:
            for _ in range(min(number, self._sending)):
                self._bytes -= len(self._lines.popleft())
            self._sending = 0

    def _keep(self, line: bytes) -> None:
        with self._lock:
            self._lines.append(line)
            self._bytes += len(line)
            # those on their way are no longer ours to drop: the next behind them go
            while self._bytes > self._queue_bytes and len(self._lines) > self._sending + 1:
                self._bytes -= len(self._lines[self._sending])
                del self._lines[self._sending]
                if not self.dropped:
                    _log.warning("%s: the queue is full; the oldest records go, and are counted", self._url)
                self.dropped += 1

    def _post(self, batch: Sequence[bytes]) -> None:
        try:
            answer = self._client.post(self._url, content=_body(batch), headers=self._headers)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise _AgainError(f"the request cannot be sent: {error}") from error
        except httpx.HTTPError as error:
            raise _AgainError(str(error) or type(error).__name__) from error
        if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and (
            len(batch) > 1 or len(batch[0]) > ORDINARY_BYTES
        ):
            raise TooLargeError(words_of(answer))
        if answer.status_code != httpx.codes.OK:
            raise _AgainError(f"answered {answer.status_code}: {words_of(answer)}", _retry_after(answer))
        try:
            said = answered(answer)
        except NotAsAgreedError as error:
            raise _AgainError(str(error)) from error
        known, refused = said.accepted + said.duplicate, said.refused
        told = known + len(refused)
        # the intake shows the first refusals and not all
        if told > len(batch) or (told < len(batch) and len(refused) < SHOWN_REFUSALS):
            raise _AgainError(f"answered 200, but for {told} of {len(batch)} records; check the URL")
        self.delivered += known
        self.refused += len(batch) - known
        if refused:
            _log.warning("%s: %d records were refused; first: %s", self._url, len(batch) - known, refused[0])
        if self._complaint:
            _log.info("%s takes records again; %d wait", self._url, len(self._lines) - len(batch))
            self._complaint = ""

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, _AgainError) else 0.0
        return max(asked, self._backoff(state))

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            self._complain(error)

    def _complain(self, error: BaseException) -> None:
        """Once for each reason: an intake that is away for an hour should not fill a log."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason != self._complaint:
            self._complaint = reason
            _log.warning("%s: not delivered, trying again: %s", self._url, reason)


def _body(lines: Sequence[bytes]) -> bytes:
    return gzip.compress(b"".join(line + b"\n" for line in lines), compresslevel=5, mtime=0)


def _base_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        # neither the URL nor the parser's words: a password may stand in both
        raise ConfigError("the intake's URL is not a URL; give one like http://farthing:9464") from error
    if parsed.userinfo or parsed.query or parsed.fragment or "?" in url or "#" in url:
        raise ConfigError(
            "the intake's URL has a user, password, query or fragment, which would stand in logs; leave it out and "
            "give the token as FARTHING_INTAKE_TOKEN or in serve.token_file"
        )
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError("what was given is not an intake's URL; give one like http://farthing:9464")
    return url.rstrip("/")


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_RETRY_AFTER) if text.isascii() and text.isdecimal() else 0.0
