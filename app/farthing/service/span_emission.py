"""Hands the edge spans of sampled requests to a collector, for probes that have no way of their own to one.

Costing offers each request once its record is durable, and goes on: a thread makes the spans and sends them. What waits
is bounded; a request that finds no room is dropped and counted, and so is a span that a collector did not take.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from farthing.domain.clock import Anchor
from farthing.domain.records import Usage
from farthing.domain.trace_ids import is_span_id, is_trace_id
from farthing.settings_traces import TracesSettings

if TYPE_CHECKING:
    from farthing.exporters.otlp import EdgeSpans, Request

__all__ = ["DROPPED", "FAILED", "SENT", "SpanEmission", "SpanExport"]

_log = logging.getLogger(__name__)

SENT: Final = "sent"
FAILED: Final = "failed"
DROPPED: Final = "dropped"
BATCH: Final = 512
"""Spans of one post, as OpenTelemetry's own batches have at the most."""
LINGER_SECONDS: Final = 1.0
"""How long the first span of a batch waits for more of them."""
LOG_SECONDS: Final = 60.0
"""What a collector does not take is told of once in so long."""
LAST_NS = 2**63
"""OTLP's moments are 64 bits of nanoseconds since the epoch, and a language may read them as signed."""
LAST_SECONDS: Final = 3.0
"""How long the spans that are left may take when the service stops."""


class SpanExport(Protocol):
    """What takes spans: OpenTelemetry's exporter, or a test's."""

    def export(self, spans: Sequence[Any], /) -> int:
        """Send spans and wait for the answer; returns how many were taken."""

    def shutdown(self) -> None:
        """End what is being tried again."""


class SpanEmission:
    """A bounded queue and the thread that empties it. ``offer`` may be called from any thread and never waits.

    Nothing runs before ``start``, and without ``traces.endpoint`` nothing at all. ``exporter`` makes what takes spans,
    in the thread.
    """

    def __init__(self, settings: TracesSettings, exporter: Callable[[], SpanExport] | None = None) -> None:
        """Raises ConfigError when the file of headers cannot be read."""
        self.is_on = settings.url is not None
        headers = settings.headers() if self.is_on else {}
        self._make = exporter or (lambda: _exporter(settings, headers))
        self._most = settings.queue_spans
        self._waiting: deque[tuple[Usage, Anchor, str]] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._counts: Counter[str] = Counter(dict.fromkeys((SENT, FAILED, DROPPED), 0))
        self._exporter: SpanExport | None = None
        self._complained = False
        self._quiet_until = 0.0
        self._thread: threading.Thread | None = None

    def offer(self, usage: Usage, anchor: Anchor, engine: str) -> None:
        """Take a request that ended, if its span is wanted and nobody has sent it; ``engine`` is its name."""
        if not self.is_on or not usage.sampled or usage.span_sent:
            return
        with self._changed:
            if not _is_sendable(usage, anchor) or len(self._waiting) >= self._most:
                self._counts[DROPPED] += 1
                return
            self._waiting.append((usage, anchor, engine))
            self._changed.notify()

    def counts(self) -> Mapping[str, int]:
        """What became of spans -> how many; empty where none are sent."""
        with self._changed:
            return dict(self._counts) if self.is_on else {}

    def waiting(self) -> int | None:
        """Spans that wait; None where none are sent."""
        return len(self._waiting) if self.is_on else None

    def start(self) -> None:
        """Begin to send."""
        if self.is_on and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send what is left, for a few seconds at the most; what does not get away by then is dropped."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._stopping.set()
            self._changed.notify()
        thread.join(LAST_SECONDS)
        with self._changed:
            self._counts[DROPPED] += len(self._waiting)
            self._waiting.clear()
        if self._exporter is not None:
            # it may be waiting to try once more
            self._exporter.shutdown()
        thread.join(LAST_SECONDS)

    def _run(self) -> None:
        from farthing.exporters.otlp import EdgeSpans, Request  # noqa: PLC0415 - only where spans are sent

        spans = EdgeSpans()
        while batch := self._batch():
            requests = [Request(*each) for each in batch]
            try:
                self._exporter = self._exporter or self._make()
                self._send(spans, requests, self._exporter)
            except Exception:
                # whatever it is, the next ones may go
                self._note(FAILED, len(batch))
                if self._complains():
                    _log.exception("%d spans cannot be sent", len(batch))

    def _send(self, spans: EdgeSpans, requests: Sequence[Request], exporter: SpanExport) -> None:
        made = list(spans.of(requests))
        taken = exporter.export(made)
        self._note(SENT, taken)
        self._note(FAILED, len(made) - taken)
        if taken < len(made):
            what = f"takes {taken} spans of {len(made)}" if taken else "takes no spans"
            if self._complains():
                _log.warning("the collector at traces.endpoint %s; what it leaves is counted and given up", what)
        elif self._complained:
            self._complained = False
            _log.info("the collector at traces.endpoint takes spans again")

    def _complains(self) -> bool:
        """Whether to tell of it: once, as a collector may be away for hours, or come and go."""
        now = time.monotonic()
        if self._complained or now < self._quiet_until:
            return False
        self._complained, self._quiet_until = True, now + LOG_SECONDS
        return True

    def _note(self, result: str, count: int) -> None:
        with self._changed:
            self._counts[result] += count

    def _batch(self) -> list[tuple[Usage, Anchor, str]]:
        """The next spans; none once there are no more and the service stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
        if len(self._waiting) < BATCH:
            self._stopping.wait(LINGER_SECONDS)
        with self._changed:
            return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]


def _exporter(settings: TracesSettings, headers: Mapping[str, str]) -> SpanExport:
    from farthing.exporters.otlp import OtlpExport  # noqa: PLC0415 - only where spans are sent

    return OtlpExport(settings.url or "", headers, settings.timeout_seconds)


def _is_sendable(usage: Usage, anchor: Anchor) -> bool:
    """Whether OTLP has room for a span's ids and times; one that has none would take its whole batch with it."""
    first_ns = usage.arrived_ns if usage.first_ns is None else usage.first_ns
    times = (usage.arrived_ns, first_ns, usage.ended_ns)
    return (
        is_trace_id(usage.trace_id)
        and is_span_id(usage.span_id)
        and all(0 < anchor.to_wall(at) < LAST_NS for at in times)
    )
