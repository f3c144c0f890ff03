"""Latency histograms of finished requests by model and tier, with an exemplar per bucket."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.model import HistogramView
from farthing.domain.records import Usage

__all__ = ["Latencies"]

TTFT_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BOUNDS = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
E2E_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
QUEUE_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    exemplars: list[tuple[dict[str, str], float, float] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.exemplars = [None] * (len(self.bounds) + 1)

    def observe(self, seconds: float, labels: dict[str, str], at_seconds: float) -> None:
        bucket = bisect_left(self.bounds, seconds)
        self.counts[bucket] += 1
        self.total += seconds
        self.exemplars[bucket] = (labels, seconds, at_seconds)


class Latencies:
    """Observes usage records; ``views`` gives cumulative histograms."""

    def __init__(self) -> None:
        self._histograms: dict[tuple[str, str, str], _Histogram] = {}

    def observe(self, usage: Usage, anchor: Anchor) -> None:
        """Count a request that finished, or first tokens of one that was aborted after them."""
        at = anchor.to_wall(usage.ended_ns) / SECOND
        labels = {"trace_id": usage.trace_id} if usage.trace_id else {"request_id": usage.request_id[:64]}
        for metric, bounds, measure in _MEASURES:
            seconds = measure(usage)
            if seconds is not None:
                key = (metric, usage.model, usage.tier)
                self._histograms.setdefault(key, _Histogram(bounds)).observe(seconds, labels, at)

    def views(self) -> tuple[HistogramView, ...]:
        """All histograms, ordered by metric, model and tier."""
        found = []
        for (metric, model, tier), histogram in sorted(self._histograms.items()):
            running, cumulative = 0, []
            for count in histogram.counts:
                running += count
                cumulative.append(running)
            found.append(
                HistogramView(
                    metric=metric,
                    model=model,
                    tier=tier,
                    bounds=histogram.bounds,
                    counts=tuple(cumulative),
                    sum_seconds=histogram.total,
                    exemplars=tuple(histogram.exemplars),
                )
            )
        return tuple(found)


def _ttft(usage: Usage) -> float | None:
    return None if usage.first_ns is None else max(0, usage.first_ns - usage.arrived_ns) / SECOND


def _tpot(usage: Usage) -> float | None:
    tokens = usage.output_tokens
    if usage.outcome != c.FINISHED or usage.first_ns is None or usage.last_ns is None or not tokens or tokens < 2:
        return None
    return max(0, usage.last_ns - usage.first_ns) / SECOND / (tokens - 1)


def _e2e(usage: Usage) -> float | None:
    return max(0, usage.ended_ns - usage.arrived_ns) / SECOND if usage.outcome == c.FINISHED else None


def _queue(usage: Usage) -> float | None:
    return max(s.queued_ns for s in usage.sequences) / SECOND if usage.sequences else None


_MEASURES: tuple[tuple[str, tuple[float, ...], Callable[[Usage], float | None]], ...] = (
    (c.METRIC_TTFT, TTFT_BOUNDS, _ttft),
    (c.METRIC_TPOT, TPOT_BOUNDS, _tpot),
    (c.METRIC_E2E, E2E_BOUNDS, _e2e),
    (c.METRIC_QUEUE, QUEUE_BOUNDS, _queue),
)
