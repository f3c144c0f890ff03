"""The ledger's snapshot as Prometheus metrics: two families, by engine and by tenant, so that nothing explodes.

Mapping only: a ``Snapshot`` goes in, metric families come out, of the type and with the labels and help that
``farthing.domain.metric_reference`` states. What is unknown (None) is an absent series, never 0. Dollars are
nano-dollars divided by 1e9, which Python rounds once, to the nearest double.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.domain.metric_reference import Metric as MetricEntry
from farthing.domain.metric_reference import metric
from farthing.domain.model import AuditView, EngineView, HistogramView, Snapshot, TenantView
from farthing.domain.money import NANO
from farthing.exporters.prometheus_energy import energy_rows
from farthing.exporters.prometheus_seats import Seats
from farthing.exporters.prometheus_spend import spend_rows
from farthing.vocabulary.peaks import PeakRates, peaks_of

__all__ = ["DEFAULT_TOP_TENANTS", "TOP_TIERS", "SnapshotCollector", "exposition"]

DEFAULT_TOP_TENANTS = 50
TOP_TIERS = 20
"""A tier is a header that clients choose, as a tenant is; there are few that mean anything."""
MILLIJOULES = 1_000
EXEMPLAR_RUNES = 128
"""OpenMetrics 1.0, section Exemplars: label names and values together must not be longer."""

Row = tuple[tuple[str, ...], float | None]
"""Label values in the reference's order, and the sample's value; None for a value that is unknown."""
Rows = Sequence[Row]


class SnapshotCollector(Collector):
    """A custom collector that shows whatever ``source`` returns at the time of each scrape.

    Tenants and tiers with ``Seats`` get series of their own; the others share ``other``, which keeps their dollars,
    tokens and requests. Without seats that are kept somewhere, a restart gives them anew.

    ``clock_ns`` (UTC) adds the snapshot's age to the lag of its watermarks: one that is not renewed any more must not
    look fresh. Without it the lag is as of the snapshot.
    """

    def __init__(
        self,
        source: Callable[[], Snapshot],
        tenants: Seats | None = None,
        tiers: Seats | None = None,
        *,
        clock_ns: Callable[[], int] | None = None,
    ) -> None:
        self._source = source
        self._clock_ns = clock_ns
        self._tenants = tenants or Seats(DEFAULT_TOP_TENANTS)
        self._tiers = tiers or Seats(TOP_TIERS)

    def collect(self) -> Iterator[Metric]:
        """Every family that has a sample, read from one snapshot."""
        snapshot = self._source()
        age_ns = 0 if self._clock_ns is None else max(0, self._clock_ns() - snapshot.taken_ns)
        served = _served(snapshot.tenants)
        seated, tiers = self._give(served)
        families = (
            *_engine_families(snapshot.engines, snapshot.currency, age_ns),
            *_tenant_families(served, seated, tiers, snapshot.currency),
            *(_family(name, rows, snapshot.currency) for name, rows in spend_rows(snapshot.spend, seated).items()),
            *(
                _family(name, rows, snapshot.currency)
                for name, rows in energy_rows(snapshot.energy, seated, tiers).items()
            ),
            *_histogram_families(snapshot.histograms, snapshot.currency),
            _family(names.METRIC_REQUESTS, snapshot.requests.items(), snapshot.currency),
            _family(names.METRIC_SLO_REQUESTS, snapshot.slo_requests.items(), snapshot.currency),
            _family(names.METRIC_INTAKE, list(snapshot.intake.records.items()), snapshot.currency),
            _family(
                names.METRIC_AUTH_FAILURES,
                (((reason,), count) for reason, count in snapshot.auth_failures.items()),
                snapshot.currency,
            ),
            _family(
                names.METRIC_SPANS, (((result,), count) for result, count in snapshot.spans.items()), snapshot.currency
            ),
            _family(names.METRIC_SPANS_WAITING, _one(snapshot.spans_waiting), snapshot.currency),
            *(
                _family(name, _one(None if snapshot.audit is None else read(snapshot.audit)), snapshot.currency)
                for name, read in _AUDIT.items()
            ),
            _family(
                names.METRIC_DISCOVERED, (((one.source,), one.engines) for one in snapshot.discovery), snapshot.currency
            ),
            _family(
                names.METRIC_DISCOVERY_PROBLEMS,
                (((one.source,), one.problems) for one in snapshot.discovery),
                snapshot.currency,
            ),
            _build_family(snapshot),
        )
        return (family for family in families if family.samples)

    def seat(self, snapshot: Snapshot) -> None:
        """Give free seats to the costliest tenants and tiers without one.

        Raises what keeping a new seat raises; a snapshot that was seated once is collected without.
        """
        self._give(_served(snapshot.tenants))

    def _give(self, served: Sequence[TenantView]) -> tuple[frozenset[str], frozenset[str]]:
        """The tenants and the tiers with seats, after free ones were given."""
        tenants: dict[str, int] = defaultdict(int)
        tiers: dict[str, int] = defaultdict(int)
        for view in served:
            tenants[view.tenant] += _nano(view)
            tiers[view.tier] += _nano(view)
        return self._tenants.give(tenants), self._tiers.give(tiers)


def _served(views: Sequence[TenantView]) -> list[TenantView]:
    """Those whose tenant and tier have had anything but refusals: a name that was only ever refused has no series.

    It takes no seat, and would have to leave ``other`` again, which would fall, when it gets one.
    """
    ran = [view for view in views if view.requests.keys() - {names.REJECTED} or _nano(view)]
    tenants, tiers = {view.tenant for view in ran}, {view.tier for view in ran}
    return [view for view in views if view.tenant in tenants and view.tier in tiers]


def _nano(view: TenantView) -> int:
    return sum(view.cost_nano.values()) + view.aborted_nano


def exposition(registry: CollectorRegistry, accept_header: str) -> tuple[bytes, str]:
    """The registry's exposition and its content type: text 0.0.4, or what the Accept header prefers.

    Negotiation is prometheus_client's own. A version that it cannot read (``version=latest``) is answered like
    no Accept header at all.
    """
    try:
        encode, content_type = choose_encoder(accept_header)
    except (TypeError, ValueError):
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


def _engine_families(views: Sequence[EngineView], currency: str, age_ns: int) -> Iterator[Metric]:
    """``age_ns`` is how long ago the lag of the watermarks was true."""
    for name, rows_of in ENGINE_ROWS.items():
        rows = [((view.engine.name, *labels), value) for view in views for labels, value in rows_of(view)]
        if name == names.METRIC_WATERMARK_LAG:
            rows = [(labels, None if lag is None else lag + age_ns / SECOND) for labels, lag in rows]
        yield _family(name, rows, currency)


def _tenant_families(
    tenants: Sequence[TenantView], seated: frozenset[str], tiers: frozenset[str], currency: str
) -> Iterator[Metric]:
    """Dollars, tokens and requests by tenant, in integers until the last moment so that ``other`` adds up exactly."""
    cost: dict[tuple[str, ...], int] = defaultdict(int)
    tokens: dict[tuple[str, ...], int] = defaultdict(int)
    requests: dict[tuple[str, ...], int] = defaultdict(int)
    for view in tenants:
        tenant = view.tenant if view.tenant in seated else names.OTHER
        who = (tenant, view.model, view.tier if view.tier in tiers else names.OTHER)
        for phase, nano in view.cost_nano.items():
            cost[(*who, phase)] += nano
        cost[(*who, names.ABORTED)] += view.aborted_nano
        for kind, count in view.tokens.items():
            tokens[(*who, kind)] += count
        for outcome, count in view.requests.items():
            requests[(*who, outcome)] += count
    yield _family(names.METRIC_TENANT_COST, [(labels, _dollars(nano)) for labels, nano in cost.items()], currency)
    yield _family(names.METRIC_TENANT_TOKENS, list(tokens.items()), currency)
    yield _family(names.METRIC_TENANT_REQUESTS, list(requests.items()), currency)


def _histogram_families(views: Sequence[HistogramView], currency: str) -> Iterator[Metric]:
    by_metric: dict[str, list[HistogramView]] = defaultdict(list)
    for view in views:
        by_metric[view.metric].append(view)
    for name, members in by_metric.items():
        entry = metric(name)
        family = HistogramMetricFamily(name, _help(entry, currency), labels=entry.labels)
        for view in members:
            bounds = [*map(_le, view.bounds), "+Inf"]
            buckets = [
                (bound, count) if exemplar is None else (bound, count, exemplar)
                for bound, count, exemplar in zip(bounds, view.counts, _exemplars(view), strict=True)
            ]
            family.add_metric((view.model, view.tier), buckets, view.sum_seconds)
        yield family


def _exemplars(view: HistogramView) -> Iterator[Exemplar | None]:
    for given in view.exemplars:
        if given is None:
            yield None
            continue
        labels, value, at_seconds = given
        # One label set that is too long would make a scraper refuse the whole exposition.
        short = sum(len(name) + len(text) for name, text in labels.items()) <= EXEMPLAR_RUNES
        yield Exemplar(labels, value, at_seconds) if short else None


def _le(bound: float) -> str:
    """A bucket's bound as prometheus_client's own histograms write it, so that rules match the series of either."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library does not annotate it


def _build_family(snapshot: Snapshot) -> Metric:
    entry = metric(names.METRIC_BUILD)
    values = {names.LABEL_VERSION: snapshot.version, names.LABEL_CURRENCY: snapshot.currency}
    return InfoMetricFamily(entry.name.removesuffix("_info"), _help(entry, snapshot.currency), values)


def _family(name: str, rows: Iterable[Row], currency: str) -> Metric:
    """A counter or gauge of the reference; rows whose value is unknown are left out."""
    entry = metric(name)
    kind = CounterMetricFamily if entry.type == "counter" else GaugeMetricFamily
    family = kind(name, _help(entry, currency), labels=entry.labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _help(entry: MetricEntry, currency: str) -> str:
    """Meaning and unit; the unit of money is the ledger's currency, whatever the name says."""
    return entry.help if entry.unit == "1" else f"{entry.help} Unit: {entry.unit.replace('USD', currency)}."


_AUDIT: dict[str, Callable[[AuditView], float]] = {
    names.METRIC_AUDIT_UP: lambda view: view.is_written,
    names.METRIC_AUDIT_RECORDS: lambda view: view.records,
    names.METRIC_AUDIT_FAILURES: lambda view: view.failures,
}


def _one(value: float | None) -> Rows:
    """The row of a metric that has no label beyond the engine."""
    return [((), value)]


def _by_key(amounts: Mapping[str, int | None]) -> Rows:
    """A row of dollars per phase or reason."""
    return [((key,), _dollars(nano)) for key, nano in amounts.items()]


def _checks(view: EngineView) -> dict[str, bool]:
    """Name -> whether every check of that name agrees."""
    verdicts: dict[str, bool] = {}
    for check in view.checks:
        verdicts[check.name] = verdicts.get(check.name, True) and check.ok
    return verdicts


def _dollars(nano: int | None) -> float | None:
    """The double nearest to the exact amount (int / int is rounded once), or None."""
    return None if nano is None else nano / NANO


def _price_rows(view: EngineView) -> Rows:
    """One GPU's price, of what all of them cost together."""
    together, gpus = view.price_nano_per_hour, view.engine.gpu_count
    return [((view.engine.gpu,), together / (NANO * gpus) if together is not None and gpus else None)]


def _bound_rows(view: EngineView) -> Rows:
    """The least and the most that a phase's recent unit cost may be."""
    return [
        ((phase, bound), _dollars(nano))
        for phase, ends in view.recent_unit_cost_bounds_nano.items()
        for bound, nano in zip(("low", "high"), ends, strict=True)
    ]


def _peak_rows(view: EngineView, rate: Callable[[PeakRates], float]) -> Rows:
    """A datasheet's rate of one of the engine's GPUs."""
    peaks = peaks_of(view.engine.gpu)
    return [((view.engine.gpu,), None if peaks is None else rate(peaks))]


def _scaled(value: int | None, divisor: int) -> float | None:
    return None if value is None else value / divisor


def _gross(view: EngineView) -> dict[tuple[str, str, str], int]:
    """Cost by account as it was first settled: what late records take out of unattributed is a counter of its own,
    since no counter may decrease.
    """
    accounts = dict(view.accounts_nano)
    for (phase, method), nano in view.late_nano.items():
        key = (names.UNATTRIBUTED, phase, method)
        accounts[key] = accounts.get(key, 0) + nano
    return accounts


def _gross_unattributed(view: EngineView) -> dict[str, int]:
    reasons = dict(view.unattributed_nano)
    late = sum(view.late_nano.values())
    if late:
        reasons[names.REASON_LOST] = reasons.get(names.REASON_LOST, 0) + late
    return reasons


ENGINE_ROWS: Mapping[str, Callable[[EngineView], Rows]] = {
    names.METRIC_BILL: lambda view: _one(_dollars(view.bill_nano if view.billed else None)),
    names.METRIC_COST: lambda view: [(labels, _dollars(nano)) for labels, nano in _gross(view).items()],
    names.METRIC_UNATTRIBUTED: lambda view: _by_key(_gross_unattributed(view)),
    names.METRIC_LATE: lambda view: [(labels, _dollars(nano)) for labels, nano in view.late_nano.items()],
    names.METRIC_WIP: lambda view: _by_key(view.wip_nano),
    names.METRIC_RESIDUAL: lambda view: _one(_dollars(view.residual_nano if view.billed else None)),
    names.METRIC_BUSY: lambda view: _one(view.busy_ns / SECOND),
    names.METRIC_TOKENS: lambda view: [((view.engine.model, kind), count) for kind, count in view.tokens.items()],
    names.METRIC_ENERGY: lambda view: _one(_scaled(view.energy_millijoules, MILLIJOULES)),
    names.METRIC_PRICE: _price_rows,
    names.METRIC_PEAK_FLOPS: lambda view: _peak_rows(view, lambda peaks: peaks.bf16),
    names.METRIC_PEAK_BANDWIDTH: lambda view: _peak_rows(view, lambda peaks: peaks.memory_bytes_per_second),
    names.METRIC_SPEND_RATE: lambda view: _one(_dollars(view.price_nano_per_hour)),
    names.METRIC_UNIT_COST: lambda view: _by_key(view.unit_cost_nano_per_million),
    names.METRIC_RECENT_UNIT_COST: lambda view: _by_key(view.recent_unit_cost_nano),
    names.METRIC_UNIT_COST_BOUND: _bound_rows,
    names.METRIC_SATURATED_UNIT_COST: lambda view: _by_key(view.saturated_unit_cost_nano),
    names.METRIC_FIT_ERROR: lambda view: _one(None if view.fit is None else view.fit.walk_forward_wape),
    names.METRIC_WATERMARK_LAG: lambda view: _one(_scaled(view.watermark_lag_ns, SECOND)),
    names.METRIC_SCRAPE_UP: lambda view: _one(view.gauges.scrape_up),
    names.METRIC_SCRAPE_FAILURES: lambda view: _one(view.gauges.scrape_failures),
    names.METRIC_CHECK: lambda view: [((name,), ok) for name, ok in _checks(view).items()],
}
"""What each metric by engine reads from its view: label values after the engine's name, in the reference's order."""
