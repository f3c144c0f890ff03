"""The recent past of the page's plots: a ring of points, each the difference between two snapshots.

Snapshots are cumulative, so a rate or a quantile over any interval is the difference of two of them; a missing
snapshot in between loses nothing. What cannot be known (no traffic, no price, no scrape) is None, never 0.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from farthing.domain.clock import SECOND
from farthing.domain.conventions import (
    ABORTED,
    CHARGED,
    DECODE,
    METRIC_TPOT,
    METRIC_TTFT,
    PHASES,
    PREFILL,
    TOKEN_IMAGE,
    TOKEN_OUTPUT,
    TOKEN_PROMPT_COMPUTED,
    VISION,
)
from farthing.domain.model import EngineView, HistogramView, Snapshot

__all__ = ["PHASE_TOKENS", "History", "Latency", "Point", "Recent", "quantile"]

RECENT_NS = 60 * SECOND
"""The interval of what is called recent; the recording rules' ``1m``."""
SPACING_NS = 2 * SECOND
"""How often the page asks; quantiles of shorter intervals would be those of a handful of requests."""
MILLION = 1_000_000
PHASE_TOKENS: Mapping[str, str] = {PREFILL: TOKEN_PROMPT_COMPUTED, DECODE: TOKEN_OUTPUT, VISION: TOKEN_IMAGE}
"""Phase -> the kind of token that its unit cost counts."""

_Buckets = tuple[tuple[float, ...], tuple[int, ...]]
_NO_BUCKETS: _Buckets = ((), ())


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 95th percentile in seconds over an interval, of ``count`` observations; None when there were none."""

    p50: float | None = None
    p95: float | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """The fleet at one snapshot: rates and quantiles cover the interval since the point before."""

    at_ns: int
    """UTC nanoseconds."""
    spend_nano_per_hour: int | None
    """Of every engine with a price; None when none has one."""
    unit_cost_nano_per_million: Mapping[str, int | None]
    """phase -> nano-dollars, charged and aborted, per million tokens of what settled within the last minute."""
    generation_tokens_per_second: float | None
    prompt_tokens_per_second: float | None
    ttft: Latency
    tpot: Latency
    waiting: float | None
    """Requests queued, over all engines."""
    running: float | None
    kv_usage: float | None
    """0-1, of the fullest engine."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Latency over the last minute, or over what is known of it: ``seconds`` says how much that is."""

    seconds: float = 0.0
    ttft: Latency = field(default_factory=Latency)
    tpot: Latency = field(default_factory=Latency)


@dataclass(frozen=True, slots=True)
class _Totals:
    """What a snapshot has counted so far."""

    at_ns: int
    cost: Mapping[str, int]
    tokens: Mapping[str, int]
    histograms: Mapping[str, _Buckets]


class History:
    """The last ``capacity`` points, at least ``spacing_ns`` apart. One thread may observe while others read."""

    def __init__(self, capacity: int, spacing_ns: int = SPACING_NS) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self._spacing_ns = spacing_ns
        self._points: deque[Point] = deque(maxlen=capacity)
        # Oldest first: the newest snapshot that is a minute old or older, and everything after it.
        self._totals: deque[_Totals] = deque()
        self._lock = threading.Lock()

    def observe(self, snapshot: Snapshot) -> None:
        """Append a point for ``snapshot``; one that is too close to the last point, or older, changes nothing."""
        totals = _totals(snapshot)
        with self._lock:
            if self._totals and totals.at_ns < self._totals[-1].at_ns + max(self._spacing_ns, 1):
                return
            while len(self._totals) > 1 and self._totals[1].at_ns <= totals.at_ns - RECENT_NS:
                self._totals.popleft()
            previous = self._totals[-1] if self._totals else None
            base = self._totals[0] if self._totals else None
            self._totals.append(totals)
            self._points.append(_point(snapshot, totals, previous, base))

    def points(self, since_ns: int | None = None) -> tuple[Point, ...]:
        """Points taken after ``since_ns`` (UTC nanoseconds; None: all that are held), oldest first."""
        with self._lock:
            return tuple(point for point in self._points if since_ns is None or point.at_ns > since_ns)

    @property
    def newest_ns(self) -> int | None:
        """When the last point was taken (UTC nanoseconds), or None before the first."""
        with self._lock:
            return self._points[-1].at_ns if self._points else None

    def recent(self) -> Recent:
        """Latency over the last minute; nothing known before there are two snapshots."""
        with self._lock:
            if len(self._totals) < 2:
                return Recent()
            oldest, newest = self._totals[0], self._totals[-1]
        return Recent(
            seconds=(newest.at_ns - oldest.at_ns) / SECOND,
            ttft=_latency(METRIC_TTFT, newest, oldest),
            tpot=_latency(METRIC_TPOT, newest, oldest),
        )


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """The q-quantile (0-1) of a histogram, in the unit of its bounds; None when it is empty.

    ``counts`` are cumulative and have one more entry than ``bounds``, for +Inf. Linear within a bucket, whose lower
    end is 0 for the first one; in the +Inf bucket the largest bound. Source: Prometheus, promql/quantile.go,
    bucketQuantile (v2.42).
    """
    total = counts[-1] if counts else 0
    if not bounds or total <= 0:
        return None
    rank = q * total
    index = next((i for i, count in enumerate(counts) if count >= rank), len(counts) - 1)
    if index == len(bounds):
        return bounds[-1]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    lower = bounds[index - 1] if index else 0.0
    below = counts[index - 1] if index else 0
    inside = counts[index] - below
    return lower + (bounds[index] - lower) * ((rank - below) / inside if inside else 1.0)


def _point(snapshot: Snapshot, totals: _Totals, previous: _Totals | None, base: _Totals | None) -> Point:
    engines = snapshot.engines
    return Point(
        at_ns=snapshot.taken_ns,
        spend_nano_per_hour=_sum_known(view.price_nano_per_hour for view in engines),
        unit_cost_nano_per_million={phase: _unit_cost(phase, totals, base) for phase in PHASES},
        generation_tokens_per_second=_gauge(engines, lambda view: view.gauges.generation_tokens_per_second),
        prompt_tokens_per_second=_gauge(engines, lambda view: view.gauges.prompt_tokens_per_second),
        ttft=_latency(METRIC_TTFT, totals, previous),
        tpot=_latency(METRIC_TPOT, totals, previous),
        waiting=_gauge(engines, lambda view: view.gauges.waiting),
        running=_gauge(engines, lambda view: view.gauges.running),
        kv_usage=max(_known(engines, lambda view: view.gauges.kv_usage), default=None),
    )


def _totals(snapshot: Snapshot) -> _Totals:
    cost = dict.fromkeys(PHASES, 0)
    tokens = dict.fromkeys(PHASES, 0)
    for view in snapshot.engines:
        for (account, phase, _), nano in view.accounts_nano.items():
            # Tokens count aborted work too, so a price per token must hold its dollars.
            if account in (CHARGED, ABORTED) and phase in cost:
                cost[phase] += nano
        for phase, kind in PHASE_TOKENS.items():
            tokens[phase] += view.tokens.get(kind, 0)
    histograms = {
        metric: _merge([view for view in snapshot.histograms if view.metric == metric])
        for metric in (METRIC_TTFT, METRIC_TPOT)
    }
    return _Totals(snapshot.taken_ns, cost, tokens, histograms)


def _merge(views: Sequence[HistogramView]) -> _Buckets:
    """One histogram of all models and tiers. Cumulative counts add up exactly at the bounds that all of them have."""
    if not views:
        return _NO_BUCKETS
    shared = sorted(set.intersection(*(set(view.bounds) for view in views)))
    by_bound = [dict(zip(view.bounds, view.counts, strict=False)) for view in views]
    counts = [sum(counts[bound] for counts in by_bound) for bound in shared]
    return tuple(shared), (*counts, sum(view.counts[-1] for view in views))


def _latency(metric: str, newest: _Totals, oldest: _Totals | None) -> Latency:
    """Quantiles of what was observed between two snapshots."""
    if oldest is None:
        return Latency()
    bounds, counts = newest.histograms[metric]
    known, before = oldest.histograms[metric]
    earlier = dict(zip(known, before, strict=False))
    if known and not set(bounds) <= set(known):
        # A histogram with other bounds appeared or left: the two pictures cannot be subtracted.
        return Latency()
    grown = [count - earlier.get(bound, 0) for bound, count in zip(bounds, counts, strict=False)]
    total = (counts[-1] if counts else 0) - (before[-1] if before else 0)
    deltas = [*grown, total]
    if total <= 0 or any(right < left for left, right in pairwise((0, *deltas))):
        return Latency()
    return Latency(p50=quantile(bounds, deltas, 0.5), p95=quantile(bounds, deltas, 0.95), count=total)


def _unit_cost(phase: str, newest: _Totals, oldest: _Totals | None) -> int | None:
    """Nano-dollars per million tokens of what settled between two snapshots, or None when nothing did."""
    if oldest is None:
        return None
    cost = newest.cost[phase] - oldest.cost[phase]
    tokens = newest.tokens[phase] - oldest.tokens[phase]
    if tokens <= 0 or cost < 0:
        return None
    return round(cost * MILLION / tokens)


def _gauge(engines: Iterable[EngineView], read: Callable[[EngineView], float | None]) -> float | None:
    known = _known(engines, read)
    return sum(known) if known else None


def _known(engines: Iterable[EngineView], read: Callable[[EngineView], float | None]) -> list[float]:
    # An engine's exposition may say NaN, which is as unknown as saying nothing.
    return [value for view in engines if (value := read(view)) is not None and math.isfinite(value)]


def _sum_known(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
