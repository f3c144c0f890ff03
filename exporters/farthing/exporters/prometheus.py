"""The ledger's snapshot as Prometheus metrics: two families, by engine and by tenant, so that nothing explodes.

Mapping only: a ``Snapshot`` goes in, metric families come out. What is unknown (None) is an absent series,
never 0. Dollars are nano-dollars divided by 1e9, which Python rounds once, to the nearest double.
"""

from __future__ import annotations

import threading
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
from farthing.domain.model import EngineView, HistogramView, IntakeView, Snapshot, TenantView
from farthing.domain.money import NANO

__all__ = ["SnapshotCollector", "exposition"]

DEFAULT_TOP_TENANTS = 50
MILLIJOULES = 1_000
EXEMPLAR_RUNES = 128
"""OpenMetrics 1.0, section Exemplars: label names and values together must not be longer."""

HISTOGRAM_HELP: Mapping[str, str] = {
    names.METRIC_TTFT: "Seconds from a request's arrival to its first output leaving for the client.",
    names.METRIC_TPOT: "Seconds per output token after a request's first one.",
    names.METRIC_E2E: "Seconds from a request's arrival to its end.",
    names.METRIC_QUEUE: "Seconds that a request waited in the engine's queue.",
}

Row = tuple[tuple[str, ...], float | None]
"""Label values, and the sample's value; None for a value that is unknown."""


class SnapshotCollector(Collector):
    """A custom collector that shows whatever ``source`` returns at the time of each scrape.

    The ``top_tenants`` costliest tenants get series of their own; the others share the tenant ``other``, which
    keeps their dollars, tokens and requests. A tenant that has a seat keeps it and one without never gets a taken
    one, so no series ever decreases. ``seated`` names tenants that had seats in an earlier process: given the
    ``seated`` of that process, a restart moves no dollars between series either.
    """

    def __init__(
        self,
        source: Callable[[], Snapshot],
        top_tenants: int = DEFAULT_TOP_TENANTS,
        seated: Iterable[str] = (),
    ) -> None:
        if top_tenants < 1:
            raise ValueError(f"top_tenants must be at least 1, not {top_tenants}")
        self._source = source
        self._top_tenants = top_tenants
        self._seated = set(seated) - {names.OTHER}
        # Two scrapers may collect at once, and both may hand out the last seat.
        self._lock = threading.Lock()

    @property
    def seated(self) -> tuple[str, ...]:
        """Tenants with series of their own, sorted."""
        with self._lock:
            return tuple(sorted(self._seated))

    def collect(self) -> Iterator[Metric]:
        """Every family that has a sample, read from one snapshot."""
        snapshot = self._source()
        seated = self._seat(snapshot.tenants)
        families = (
            *_engine_families(snapshot.engines, snapshot.currency),
            *_tenant_families(snapshot.tenants, seated, snapshot.currency),
            *_histogram_families(snapshot.histograms),
            _intake_family(snapshot.intake),
            _build_family(snapshot),
        )
        return (family for family in families if family.samples)

    def _seat(self, tenants: Sequence[TenantView]) -> frozenset[str]:
        """The tenants with seats, after free seats went to the costliest tenants without one (ties by name)."""
        spend: dict[str, int] = defaultdict(int)
        for view in tenants:
            spend[view.tenant] += sum(view.cost_nano.values()) + view.aborted_nano
        with self._lock:
            # `other` is a pool, not a tenant: one that calls itself so joins it and takes no seat.
            waiting = sorted(spend.keys() - self._seated - {names.OTHER}, key=lambda name: (-spend[name], name))
            free = max(self._top_tenants - len(self._seated), 0)
            self._seated.update(waiting[:free])
            return frozenset(self._seated)


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


def _engine_families(views: Sequence[EngineView], currency: str) -> tuple[Metric, ...]:
    return (*_money_families(views, currency), *_rate_families(views, currency), *_work_families(views))


def _money_families(views: Sequence[EngineView], currency: str) -> tuple[Metric, ...]:
    """The identity: the bill, every line of it, and what is left over."""
    return (
        _counter(
            names.METRIC_BILL,
            f"Bill of the engine's GPUs (allocation x price) up to the watermark, in {currency}.",
            (names.LABEL_ENGINE,),
            [((view.engine.name,), _dollars(view.bill_nano)) for view in views],
        ),
        _counter(
            names.METRIC_COST,
            f"Settled cost by account, phase and the method it was obtained by, in {currency}; "
            "with work in progress it adds up to the bill.",
            (names.LABEL_ENGINE, names.LABEL_ACCOUNT, names.LABEL_PHASE, names.LABEL_METHOD),
            [
                ((view.engine.name, account, phase, method), _dollars(nano))
                for view in views
                for (account, phase, method), nano in view.accounts_nano.items()
            ],
        ),
        _counter(
            names.METRIC_UNATTRIBUTED,
            f"Settled cost that no request explains, by reason, in {currency}; part of the cost by account.",
            (names.LABEL_ENGINE, names.LABEL_REASON),
            [
                ((view.engine.name, reason), _dollars(nano))
                for view in views
                for reason, nano in view.unattributed_nano.items()
            ],
        ),
        _gauge(
            names.METRIC_WIP,
            f"Provisional cost of windows that are not settled yet, by phase, in {currency}.",
            (names.LABEL_ENGINE, names.LABEL_PHASE),
            [((view.engine.name, phase), _dollars(nano)) for view in views for phase, nano in view.wip_nano.items()],
        ),
        _gauge(
            names.METRIC_RESIDUAL,
            f"Bill minus every line of it, in {currency}; anything but 0 is a defect.",
            (names.LABEL_ENGINE,),
            [((view.engine.name,), _dollars(view.residual_nano)) for view in views],
        ),
        _gauge(
            names.METRIC_CHECK,
            "Whether a reconciliation of the engine's books agrees: 1 if it does, 0 if not.",
            (names.LABEL_ENGINE, names.LABEL_CHECK),
            [((view.engine.name, check), float(ok)) for view in views for check, ok in _checks(view).items()],
        ),
    )


def _rate_families(views: Sequence[EngineView], currency: str) -> tuple[Metric, ...]:
    """What an hour and a million tokens cost now, and how far to trust the split."""
    return (
        _gauge(
            names.METRIC_PRICE,
            f"Price of one GPU of the engine, in {currency} per hour.",
            (names.LABEL_ENGINE, names.LABEL_GPU),
            [
                (
                    (view.engine.name, view.engine.gpu),
                    None
                    if view.price_nano_per_hour is None
                    else view.price_nano_per_hour / (NANO * view.engine.gpu_count),
                )
                for view in views
            ],
        ),
        _gauge(
            names.METRIC_SPEND_RATE,
            f"What the engine's allocated GPUs cost together, busy or idle, in {currency} per hour.",
            (names.LABEL_ENGINE,),
            [((view.engine.name,), _dollars(view.price_nano_per_hour)) for view in views],
        ),
        _gauge(
            names.METRIC_UNIT_COST,
            f"Settled charged cost per million tokens of the phase's kind since the ledger began, in {currency}.",
            (names.LABEL_ENGINE, names.LABEL_PHASE),
            [
                ((view.engine.name, phase), _dollars(nano))
                for view in views
                for phase, nano in view.unit_cost_nano_per_million.items()
            ],
        ),
        _gauge(
            names.METRIC_FIT_ERROR,
            "Weighted absolute percentage error of predicting each next window's busy time from past ones, 0-1.",
            (names.LABEL_ENGINE,),
            [((view.engine.name,), None if view.fit is None else view.fit.walk_forward_wape) for view in views],
        ),
    )


def _work_families(views: Sequence[EngineView]) -> tuple[Metric, ...]:
    """What the engine did, and how well Farthing sees it."""
    return (
        _counter(
            names.METRIC_BUSY,
            "Seconds that the engine was metered busy.",
            (names.LABEL_ENGINE,),
            [((view.engine.name,), view.busy_ns / SECOND) for view in views],
        ),
        _counter(
            names.METRIC_TOKENS,
            "Tokens of settled work, by kind; image tokens are a subset of prompt tokens.",
            (names.LABEL_ENGINE, names.LABEL_MODEL, names.LABEL_KIND),
            [
                ((view.engine.name, view.engine.model, kind), count)
                for view in views
                for kind, count in view.tokens.items()
            ],
        ),
        _counter(
            names.METRIC_ENERGY,
            "Energy that the engine's GPUs used, in joules, from the driver's counters.",
            (names.LABEL_ENGINE,),
            [
                (
                    (view.engine.name,),
                    None if view.energy_millijoules is None else view.energy_millijoules / MILLIJOULES,
                )
                for view in views
            ],
        ),
        _gauge(
            names.METRIC_WATERMARK_LAG,
            "Seconds by which the engine's event-time watermark is behind the present.",
            (names.LABEL_ENGINE,),
            [
                ((view.engine.name,), None if view.watermark_lag_ns is None else view.watermark_lag_ns / SECOND)
                for view in views
            ],
        ),
        _gauge(
            names.METRIC_SCRAPE_UP,
            "Whether the last scrape of the engine's own metrics succeeded: 1 if it did, 0 if not.",
            (names.LABEL_ENGINE,),
            [
                ((view.engine.name,), None if view.gauges.scrape_up is None else float(view.gauges.scrape_up))
                for view in views
            ],
        ),
        _counter(
            names.METRIC_SCRAPE_FAILURES,
            "Scrapes of the engine's own metrics that failed.",
            (names.LABEL_ENGINE,),
            [((view.engine.name,), view.gauges.scrape_failures) for view in views],
        ),
    )


def _tenant_families(tenants: Sequence[TenantView], seated: frozenset[str], currency: str) -> tuple[Metric, ...]:
    """Dollars, tokens and requests by tenant, in integers until the last moment so that ``other`` adds up exactly."""
    cost: dict[tuple[str, ...], int] = defaultdict(int)
    tokens: dict[tuple[str, ...], int] = defaultdict(int)
    requests: dict[tuple[str, ...], int] = defaultdict(int)
    for view in tenants:
        who = (view.tenant if view.tenant in seated else names.OTHER, view.model, view.tier)
        for phase, nano in view.cost_nano.items():
            cost[(*who, phase)] += nano
        cost[(*who, names.ABORTED)] += view.aborted_nano
        for kind, count in view.tokens.items():
            tokens[(*who, kind)] += count
        for outcome, count in view.requests.items():
            requests[(*who, outcome)] += count
    who_labels = (names.LABEL_TENANT, names.LABEL_MODEL, names.LABEL_TIER)
    return (
        _counter(
            names.METRIC_TENANT_COST,
            f"Settled cost of the tenant's requests by phase, and of those it aborted (phase aborted), in {currency}.",
            (*who_labels, names.LABEL_PHASE),
            [(labels, _dollars(nano)) for labels, nano in cost.items()],
        ),
        _counter(
            names.METRIC_TENANT_TOKENS,
            "Tokens of the tenant's settled requests, by kind; image tokens are a subset of prompt tokens.",
            (*who_labels, names.LABEL_KIND),
            list(tokens.items()),
        ),
        _counter(
            names.METRIC_TENANT_REQUESTS,
            "Settled requests of the tenant, by outcome.",
            (*who_labels, names.LABEL_OUTCOME),
            list(requests.items()),
        ),
    )


def _histogram_families(views: Sequence[HistogramView]) -> Iterator[Metric]:
    by_metric: dict[str, list[HistogramView]] = defaultdict(list)
    for view in views:
        by_metric[view.metric].append(view)
    for metric, members in by_metric.items():
        family = HistogramMetricFamily(
            metric,
            HISTOGRAM_HELP.get(metric, "Seconds, by model and tier."),
            labels=(names.LABEL_MODEL, names.LABEL_TIER),
        )
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


def _intake_family(intake: IntakeView) -> Metric:
    return _counter(
        names.METRIC_INTAKE,
        "Records that intake received, by kind and by what became of them.",
        (names.LABEL_KIND, names.LABEL_RESULT),
        list(intake.records.items()),
    )


def _build_family(snapshot: Snapshot) -> Metric:
    return InfoMetricFamily(
        names.METRIC_BUILD.removesuffix("_info"),
        "Farthing's version and the currency of its ledger, in which every metric named usd is counted.",
        {"version": snapshot.version, "currency": snapshot.currency},
    )


def _le(bound: float) -> str:
    """A bucket's bound as prometheus_client's own histograms write it, so that rules match the series of either."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library does not annotate it


def _checks(view: EngineView) -> dict[str, bool]:
    """Name -> whether every check of that name agrees."""
    verdicts: dict[str, bool] = {}
    for check in view.checks:
        verdicts[check.name] = verdicts.get(check.name, True) and check.ok
    return verdicts


def _dollars(nano: int | None) -> float | None:
    """The double nearest to the exact amount (int / int is rounded once), or None."""
    return None if nano is None else nano / NANO


def _counter(name: str, documentation: str, labels: Sequence[str], rows: Sequence[Row]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _gauge(name: str, documentation: str, labels: Sequence[str], rows: Sequence[Row]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family
