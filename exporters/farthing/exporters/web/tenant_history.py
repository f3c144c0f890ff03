"""The recent past of tenants whose page somebody may open: a ring for each, of counts since the ledger began.

A ring holds counts and not rates, so that the points of several tenants together are sums of theirs, and quantiles
are those of all their requests. Only tenants that were asked to be watched have one: a tenant names itself in a
header, and there may be any number of them.
"""

from __future__ import annotations

import threading
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from farthing.domain.clock import HOUR, SECOND
from farthing.domain.conventions import (
    METRIC_TPOT,
    METRIC_TTFT,
    TOKEN_OUTPUT,
    TOKEN_PROMPT_CACHED,
    TOKEN_PROMPT_COMPUTED,
)
from farthing.domain.model import Snapshot, TenantView
from farthing.exporters.web.history import RECENT_NS, Latency, Recent, quantile

__all__ = ["OwnPoint", "TenantHistory", "TenantLatencies"]

TenantLatencies: TypeAlias = Callable[[Collection[str]], Mapping[tuple[str, str], Sequence[int]]]
"""Tenants -> (tenant, metric) -> counts in each bucket of the metric's histogram, not cumulative; +Inf's is last."""

SPACING_NS = 5 * SECOND
"""How far apart points are; windows settle in steps of five seconds."""
POINTS = 360
"""Half an hour."""
MOST_WATCHED = 1_000
"""Tenants that have a ring: with 0.4 kB a point at most 150 MB, and then only if all of them work all the time."""

_COST, _PROMPT, _OUTPUT, _REQUESTS, _BUCKETS = range(5)
"""Places in a row; from the last one on come the buckets of both histograms."""


@dataclass(frozen=True, slots=True)
class OwnPoint:
    """Some tenants together at one moment: rates and quantiles cover the last minute, or what is known of it."""

    at_ns: int
    """UTC nanoseconds."""
    spend_nano_per_hour: int | None
    """What was settled for them, charged and aborted; None at the first point."""
    output_tokens_per_second: float | None
    prompt_tokens_per_second: float | None
    """Of settled requests, computed and cached."""
    requests_per_second: float | None
    """Settled, however they ended."""
    ttft: Latency = field(default_factory=Latency)
    tpot: Latency = field(default_factory=Latency)


class TenantHistory:
    """Rings of the watched tenants, ``capacity`` points at least ``spacing_ns`` apart.

    One thread may observe while others read. ``bounds`` gives the upper bounds in seconds of a metric's buckets,
    ``latencies`` counts in them.
    """

    def __init__(
        self,
        bounds: Callable[[str], Sequence[float]],
        latencies: TenantLatencies,
        capacity: int = POINTS,
        spacing_ns: int = SPACING_NS,
    ) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, not {capacity}")
        self.capacity = capacity
        self._bounds = {metric: tuple(bounds(metric)) for metric in (METRIC_TTFT, METRIC_TPOT)}
        self._latencies = latencies
        self._spacing_ns = spacing_ns
        self._rings: dict[str, deque[tuple[int, array[int]]]] = {}
        self._newest_ns = 0
        self._lock = threading.Lock()

    def watch(self, tenants: Iterable[str]) -> None:
        """Keep the past of tenants from now on; beyond a thousand of them nothing is kept."""
        with self._lock:
            for tenant in tenants:
                if tenant not in self._rings and len(self._rings) < MOST_WATCHED:
                    self._rings[tenant] = deque(maxlen=self.capacity)

    def observe(self, snapshot: Snapshot) -> None:
        """Append a point to every ring; a snapshot that is too close to the last point, or older, changes nothing."""
        with self._lock:
            watched = set(self._rings)
            if not watched or snapshot.taken_ns < self._newest_ns + self._spacing_ns:
                return
            self._newest_ns = snapshot.taken_ns
        views: defaultdict[str, list[TenantView]] = defaultdict(list)
        for view in snapshot.tenants:
            if view.tenant in watched:
                views[view.tenant].append(view)
        counts = self._latencies(watched)
        rows = {tenant: self._row(tenant, views[tenant], counts) for tenant in watched}
        with self._lock:
            for tenant, row in rows.items():
                ring = self._rings[tenant]
                # a tenant that did nothing costs no memory
                same = ring[-1][1] if ring and ring[-1][1] == row else row
                ring.append((snapshot.taken_ns, same))

    def read(self, tenants: Collection[str], since_ns: int | None = None) -> tuple[list[OwnPoint], Recent]:
        """The points of some tenants together, oldest first, from when all of them were watched, and the last minute.

        With ``since_ns`` only points after it, and the last in any case. Tenants that are not watched yet are from now
        on.
        """
        self.watch(tenants)
        with self._lock:
            rings = [list(self._rings[tenant]) for tenant in tenants if tenant in self._rings]
        if not rings:
            return [], Recent()
        shared = min(len(ring) for ring in rings)
        # all rings get a point at the same moments, so the last ones belong together
        totals = [_added(parts) for parts in zip(*(ring[len(ring) - shared :] for ring in rings), strict=True)]
        points = []
        start = 0
        for index, (at_ns, row) in enumerate(totals):
            while start + 1 < index and totals[start + 1][0] <= at_ns - RECENT_NS:
                start += 1
            if since_ns is not None and at_ns <= since_ns and index + 1 < len(totals):
                continue
            points.append(self._point(at_ns, row, *totals[start]) if index else OwnPoint(at_ns, None, None, None, None))
        if len(totals) < 2:
            return points, Recent()
        seconds = (totals[-1][0] - totals[start][0]) / SECOND
        return points, Recent(seconds=seconds, ttft=points[-1].ttft, tpot=points[-1].tpot)

    # ---- inside --------------------------------------------------------------------------------

    def _row(
        self, tenant: str, views: Sequence[TenantView], counts: Mapping[tuple[str, str], Sequence[int]]
    ) -> array[int]:
        row = array("q", (0, 0, 0, 0))
        for view in views:
            row[_COST] += sum(view.cost_nano.values()) + view.aborted_nano
            row[_PROMPT] += view.tokens.get(TOKEN_PROMPT_COMPUTED, 0) + view.tokens.get(TOKEN_PROMPT_CACHED, 0)
            row[_OUTPUT] += view.tokens.get(TOKEN_OUTPUT, 0)
            row[_REQUESTS] += sum(view.requests.values())
        for metric, bounds in self._bounds.items():
            row.extend(counts.get((tenant, metric)) or [0] * (len(bounds) + 1))
        return row

    def _point(self, at_ns: int, row: Sequence[int], since_ns: int, before: Sequence[int]) -> OwnPoint:
        grown = [now - then for now, then in zip(row, before, strict=True)]
        elapsed_ns = at_ns - since_ns
        seconds = elapsed_ns / SECOND
        return OwnPoint(
            at_ns=at_ns,
            # what a late record took back may be more than what was settled since
            spend_nano_per_hour=max(0, grown[_COST]) * HOUR // elapsed_ns,
            output_tokens_per_second=grown[_OUTPUT] / seconds,
            prompt_tokens_per_second=grown[_PROMPT] / seconds,
            requests_per_second=grown[_REQUESTS] / seconds,
            ttft=self._quantiles(METRIC_TTFT, grown),
            tpot=self._quantiles(METRIC_TPOT, grown),
        )

    def _quantiles(self, metric: str, grown: Sequence[int]) -> Latency:
        first = _BUCKETS if metric == METRIC_TTFT else _BUCKETS + len(self._bounds[METRIC_TTFT]) + 1
        bounds = self._bounds[metric]
        cumulative, running = [], 0
        for count in grown[first : first + len(bounds) + 1]:
            running += count
            cumulative.append(running)
        if running <= 0:
            return Latency()
        return Latency(quantile(bounds, cumulative, 0.5), quantile(bounds, cumulative, 0.95), running)


def _added(parts: Sequence[tuple[int, Sequence[int]]]) -> tuple[int, Sequence[int]]:
    """(at_ns, sums) of rows of the same moment."""
    if len(parts) == 1:
        return parts[0]
    return parts[0][0], [sum(column) for column in zip(*(row for _, row in parts), strict=True)]
