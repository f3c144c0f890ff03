"""How long requests took and how they ended, by model and tier: histograms with an exemplar per bucket, and counts.

Service levels are ratios of good requests to all. A histogram holds only what got so far as to be measured, so the
counts by outcome hold the rest: between them each request that was not its sender's own fault is there once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.model import HistogramView
from farthing.domain.records import Usage
from farthing.domain.trace_ids import is_trace_id
from farthing.exporters.prometheus_seats import Seats
from farthing.settings_slo import SloSettings

__all__ = ["Latencies"]

TTFT_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BOUNDS = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
E2E_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
QUEUE_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


TENANT_METRICS = (c.METRIC_TTFT, c.METRIC_TPOT)
"""What is counted by tenant too."""
MOST_TIERS = 20
"""Tiers with series of their own beside those that have objectives; a tier is a header that clients choose."""
NO_ROOM = (429, 503)
"""HTTP statuses of a request that was refused since the service had too much to do."""


@dataclass(slots=True)
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    exemplars: list[tuple[dict[str, str], float, float] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.exemplars = [None] * (len(self.bounds) + 1)

    def observe(self, seconds: float, labels: dict[str, str], at_seconds: float) -> int:
        """Count an observation; returns the place of its bucket."""
        bucket = bisect_left(self.bounds, seconds)
        self.counts[bucket] += 1
        self.total += seconds
        held = self.exemplars[bucket]
        # few requests are sampled: one that is not takes no trace away, which is what can be opened
        if held is None or c.EXEMPLAR_TRACE in labels or c.EXEMPLAR_TRACE not in held[0]:
            self.exemplars[bucket] = (labels, seconds, at_seconds)
        return bucket


class Latencies:
    """Observes usage records; ``views``, ``requests`` and ``slo_requests`` give what the snapshot shows.

    The histograms have every bound of ``slos`` as a bucket, so that good requests can be told from bad ones exactly.
    Tiers beyond the first ``MOST_TIERS`` share one, ``other``.
    """

    def __init__(self, slos: Sequence[SloSettings] = ()) -> None:
        own = [slo for slo in slos if slo.source == "requests"]
        self._tenant_slos = tuple(slo for slo in own if slo.tenant is not None)
        self._bounds = {
            metric: tuple(sorted({*bounds, *(b for s in own if s.signal == signal and (b := s.bound_seconds))}))
            for metric, signal, bounds, _ in _MEASURES
        }
        named = {c.UNKNOWN, *(slo.tier for slo in slos if slo.tier is not None)}
        self._tiers = Seats(MOST_TIERS, always=named, held=named)
        self._histograms: dict[tuple[str, str, str], _Histogram] = {}
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._slo_requests: Counter[tuple[str, str, str]] = Counter()
        self._tenants: dict[tuple[str, str], list[int]] = {}
        """(tenant, metric) -> counts in each bucket, of what a tenant's page shows."""

    def observe(self, usage: Usage, anchor: Anchor) -> None:
        """Count a request by outcome, and by how long each part of it took as far as it got."""
        at = anchor.to_wall(usage.ended_ns) / SECOND
        labels = _exemplar(usage)
        outcome = _outcome(usage)
        tier = self._seated(usage.tier, outcome)
        if (usage.model, tier, c.FINISHED) not in self._requests:
            self._begin(usage.model, tier)
        self._requests[usage.model, tier, outcome] += 1
        taken: dict[str, float | None] = {}
        for metric, signal, _, measure in _MEASURES:
            taken[signal] = seconds = measure(usage)
            if seconds is not None:
                bucket = self._histograms[metric, usage.model, tier].observe(seconds, labels, at)
                if metric in TENANT_METRICS:
                    self._count_for(usage.tenant, metric, bucket)
        for slo in self._tenant_slos:
            self._count(slo, usage, outcome, taken)

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

    def bounds(self, metric: str) -> tuple[float, ...]:
        """Upper bounds of a histogram's buckets in seconds, without +Inf."""
        return self._bounds[metric]

    def of_tenants(self, tenants: Collection[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """(tenant, metric) -> counts in each bucket, over models and tiers, not cumulative; of TENANT_METRICS."""
        keys = [(tenant, metric) for tenant in tenants for metric in TENANT_METRICS]
        return {key: tuple(self._tenants[key]) for key in keys if key in self._tenants}

    def requests(self) -> dict[tuple[str, str, str], int]:
        """(model, tier, outcome) -> requests; every outcome of a model and tier that had any, so 0 is a known 0."""
        return dict(self._requests)

    def slo_requests(self) -> dict[tuple[str, str, str], int]:
        """(slo, model, result) -> requests that count for a tenant's SLO."""
        return dict(self._slo_requests)

    def _seated(self, tier: str, outcome: str) -> str:
        # a request that was wrong in itself costs its sender nothing: names of such would take every seat
        seated = self._tiers.give({} if outcome == c.INVALID else {tier: 0})
        return tier if tier in seated else c.OTHER

    def _count_for(self, tenant: str, metric: str, bucket: int) -> None:
        counts = self._tenants.get((tenant, metric))
        if counts is None:
            counts = self._tenants[tenant, metric] = [0] * (len(self._bounds[metric]) + 1)
        counts[bucket] += 1

    def _begin(self, model: str, tier: str) -> None:
        """Let everything of a model and tier appear at once: a sum must not lack a part that had no request yet."""
        self._requests.update({(model, tier, outcome): 0 for outcome in c.REQUEST_OUTCOMES})
        for metric, bounds in self._bounds.items():
            self._histograms[metric, model, tier] = _Histogram(bounds)

    def _count(self, slo: SloSettings, usage: Usage, outcome: str, taken: dict[str, float | None]) -> None:
        scope = ((slo.tenant, usage.tenant), (slo.model, usage.model), (slo.tier, usage.tier))
        if any(wanted is not None and wanted != found for wanted, found in scope):
            return
        if (slo.name, usage.model, c.GOOD) not in self._slo_requests:
            self._slo_requests.update({(slo.name, usage.model, result): 0 for result in c.RESULTS})
        good = _is_good(slo, outcome, taken)
        if good is not None:
            self._slo_requests[slo.name, usage.model, c.GOOD if good else c.BAD] += 1


def _exemplar(usage: Usage) -> dict[str, str]:
    """What leads from a bucket to a request: its trace where one can be opened, else its id.

    Nobody keeps a trace that is not sampled, nor one whose id is none: its link would lead nowhere.
    """
    if usage.sampled and is_trace_id(usage.trace_id):
        return {c.EXEMPLAR_TRACE: usage.trace_id}
    return {"request_id": usage.request_id[:64]}


def _outcome(usage: Usage) -> str:
    """One of conventions.REQUEST_OUTCOMES."""
    match usage.outcome:
        case c.ABORTED:
            return c.ABORTED_EARLY if usage.first_ns is None else c.ABORTED
        case c.FAILED:
            return c.FAILED_EARLY if usage.first_ns is None else c.FAILED
        case c.REJECTED:
            return c.REJECTED if usage.status in NO_ROOM else c.INVALID
        case _:
            return c.FINISHED


def _is_good(slo: SloSettings, outcome: str, taken: dict[str, float | None]) -> bool | None:
    """Whether a request kept the promise; None where it says nothing about it."""
    if slo.signal == c.SLO_AVAILABILITY:
        return None if outcome == c.INVALID else outcome in {c.FINISHED, c.ABORTED}
    seconds = taken[slo.signal]
    if seconds is not None and slo.bound_seconds is not None:
        return seconds <= slo.bound_seconds
    return False if outcome in c.UNSERVED[slo.signal] else None


def _ttft(usage: Usage) -> float | None:
    if usage.first_ns is None or usage.outcome == c.REJECTED:
        return None
    return max(0, usage.first_ns - usage.arrived_ns) / SECOND


def _tpot(usage: Usage) -> float | None:
    tokens = usage.output_tokens
    if usage.outcome != c.FINISHED or usage.first_ns is None or usage.last_ns is None or not tokens or tokens < 2:
        return None
    if usage.last_ns <= usage.first_ns:  # all at once: it was not streamed
        return None
    return (usage.last_ns - usage.first_ns) / SECOND / (tokens - 1)


def _e2e(usage: Usage) -> float | None:
    return max(0, usage.ended_ns - usage.arrived_ns) / SECOND if usage.outcome == c.FINISHED else None


def _queue(usage: Usage) -> float | None:
    if not usage.sequences or _outcome(usage) in c.UNSERVED[c.SLO_QUEUE]:
        return None
    return max(s.queued_ns for s in usage.sequences) / SECOND


_MEASURES: tuple[tuple[str, str, tuple[float, ...], Callable[[Usage], float | None]], ...] = (
    (c.METRIC_TTFT, c.SLO_TTFT, TTFT_BOUNDS, _ttft),
    (c.METRIC_TPOT, c.SLO_ITL, TPOT_BOUNDS, _tpot),
    (c.METRIC_E2E, c.SLO_E2E, E2E_BOUNDS, _e2e),
    (c.METRIC_QUEUE, c.SLO_QUEUE, QUEUE_BOUNDS, _queue),
)
"""Metric, the signal that SLOs call it, its bounds in seconds, and how it is measured."""
