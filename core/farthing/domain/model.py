"""What costing returns and what the exporters show: immutable results in integer nano-dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from farthing.domain.energy import EnergyView
from farthing.domain.records import RecordKey
from farthing.domain.spend import SpendView

__all__ = [
    "Adjustment",
    "AuditView",
    "Check",
    "CostedRequest",
    "Engine",
    "EngineGauges",
    "EngineView",
    "Fit",
    "HistogramView",
    "IntakeView",
    "Posting",
    "Saver",
    "SettledWindow",
    "Snapshot",
    "SourceView",
    "TenantView",
]


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine instance as it is billed."""

    name: str
    kind: str
    model: str
    gpu: str
    gpu_count: int


class Posting(NamedTuple):
    """One journal line: ``nano`` nano-dollars of [start_ns, end_ns) (UTC) in an account, never negative.

    A named tuple, since windows make them by the dozen: one takes a quarter of the time of a frozen dataclass.
    """

    account: str
    phase: str
    """prefill, decode, vision, or empty."""
    tenant: str
    project: str
    model: str
    tier: str
    reason: str
    method: str
    nano: int
    millijoules: int = 0
    """Energy of the same line; 0 where no device was sampled (see the window's ``energy_mj``)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The model of busy time that a split used: seconds per unit of each feature, and how well it predicts.

    ``walk_forward_wape`` is the weighted absolute percentage error (0-1) of predicting each next window
    from the past ones; None before there is a past. ``intervals`` are 90 % bounds of each coefficient.
    """

    version: str
    method: str
    coefficients: dict[str, float]
    intervals: Mapping[str, tuple[float, float]]
    walk_forward_wape: float | None
    windows: int


Saver: TypeAlias = tuple[str, str, str, str]
"""Who a saving is counted for: tenant, project, model and tier."""


class CostedRequest(NamedTuple):
    """A request's share of one settled window: nano-dollars by phase; it adds up over the windows it overlaps."""

    key: RecordKey
    cost_nano: dict[str, int]
    energy_mj: int = 0
    """Millijoules of all phases together."""
    pool_nano: int = 0
    """The part of the cost that is a share of work recomputed after preemptions, whoever was preempted."""
    saved_nano: int = 0
    """What its cached prompt tokens and images would have cost at this window's price: information, not money."""


class SettledWindow(NamedTuple):
    """One costed window of an engine index: its bill, split into postings that add up to it exactly."""

    boot: str
    engine_index: int
    start_ns: int
    """Monotonic nanoseconds of the boot; windows of one index tile its life without gap or overlap."""
    end_ns: int
    bill_nano: int
    busy_ns: int
    phase_ns: dict[str, int]
    """Busy time by phase; adds up to ``busy_ns``."""
    features: dict[str, float]
    """What the fit saw of this window, for later fits and for explanation."""
    tokens: dict[str, int]
    """Engine-side tokens by kind."""
    postings: tuple[Posting, ...]
    requests: tuple[CostedRequest, ...]
    fit_version: str
    fit: Fit | None = None
    """The fit of ``fit_version``; None for windows that were split by assumption alone."""
    energy_mj: int | None = None
    """Millijoules by the devices' counters; its postings' energies add up to it. None without samples."""
    energy_fit: Fit | None = None
    """The fit that split the energy, in joules per unit."""
    saved: Mapping[Saver, int] = MappingProxyType({})
    """What caches saved in this window, in nano-dollars: information, not money."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Money that a late record moves within a settled window: reversal and repost, adding up to nothing."""

    boot: str
    engine_index: int
    start_ns: int
    """Of the window, as in SettledWindow."""
    end_ns: int
    key: RecordKey
    """The late request."""
    postings: tuple[Posting, ...]
    cost_nano: dict[str, int]
    """phase -> nano-dollars that the request takes over."""
    energy_mj: int
    fit_version: str


@dataclass(frozen=True, slots=True)
class Check:
    """A named reconciliation: what was expected, what was found, and whether they agree."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """The engine's state at its last scrape or mark; None where unknown (never shown as 0)."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    """0-1."""
    generation_tokens_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    scrape_up: bool | None = None
    scrape_failures: int = 0


@dataclass(frozen=True, slots=True)
class EngineView:
    """Everything shown of one engine: cumulative since the ledger began, settled unless said otherwise."""

    engine: Engine
    state: str
    """starting, serving, idle, asleep, down or unknown."""
    price_nano_per_hour: int | None
    """Of all its GPUs together; None when no price applies."""
    bill_nano: int
    """Of every settled and open window up to the watermark."""
    accounts_nano: dict[tuple[str, str, str], int]
    """(account, phase, method) -> settled nano-dollars. Its sum + work in progress = bill."""
    unattributed_nano: dict[str, int]
    """reason -> settled nano-dollars."""
    wip_nano: dict[str, int]
    """phase (or idle …) -> provisional nano-dollars of windows not settled yet."""
    residual_nano: int
    """bill minus every line: 0, or something is wrong."""
    busy_ns: int
    tokens: dict[str, int]
    """kind -> tokens of settled work."""
    energy_millijoules: int | None
    unit_cost_nano_per_million: dict[str, int | None]
    """phase -> settled nano-dollars (charged and aborted) per million tokens that the engine processed in it:
    computed prompt tokens, output tokens, encoder tokens; None when there are no tokens."""
    fit: Fit | None
    gauges: EngineGauges
    watermark_lag_ns: int | None
    checks: tuple[Check, ...] = ()
    late_nano: dict[tuple[str, str], int] = field(default_factory=dict)
    """(phase, method) -> nano-dollars that late records moved from unattributed to who did the work."""
    recent_unit_cost_nano: Mapping[str, int] = field(default_factory=dict)
    """phase -> nano-dollars per million tokens over the last five minutes of work; unknown is left out."""
    saturated_unit_cost_nano: Mapping[str, int] = field(default_factory=dict)
    """The same work, were the engine full (costing.saturation)."""
    recent_unit_cost_bounds_nano: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """phase -> the least and the most that the recent unit cost may be (costing.uncertainty); unknown is left out."""

    @property
    def billed(self) -> bool:
        """Whether the bill is known: without a price, and with nothing billed before, 0 would be a lie."""
        return self.price_nano_per_hour is not None or self.bill_nano != 0


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant's settled spend on one model and tier."""

    tenant: str
    model: str
    tier: str
    cost_nano: dict[str, int]
    """phase -> nano-dollars charged."""
    aborted_nano: int
    tokens: dict[str, int]
    requests: dict[str, int]
    """outcome -> count."""


@dataclass(frozen=True, slots=True)
class HistogramView:
    """A latency histogram by model and tier; ``counts`` are cumulative and end with +Inf's."""

    metric: str
    model: str
    tier: str
    bounds: tuple[float, ...]
    """Upper bounds in seconds, ascending, without +Inf."""
    counts: tuple[int, ...]
    sum_seconds: float
    exemplars: tuple[tuple[dict[str, str], float, float] | None, ...]
    """Per bucket: (labels, value in seconds, UTC seconds), or None."""


@dataclass(frozen=True, slots=True)
class IntakeView:
    """Counts of records by (kind, result); results are accepted, duplicate, refused and, of bodies, limited."""

    records: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceView:
    """What a source of discovery finds now."""

    source: str
    """What messages call it."""
    engines: int
    problems: int


@dataclass(frozen=True, slots=True)
class AuditView:
    """How the audit trail is doing."""

    records: int
    """The number of the last record; 0 before the trail was opened."""
    failures: int
    """Times that it could not be written since the service started."""
    is_written: bool
    """Whether it could be the last time."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent picture of the ledger; the page, ``/metrics`` and reports all read from it."""

    taken_ns: int
    """UTC nanoseconds."""
    currency: str
    version: str
    engines: tuple[EngineView, ...]
    tenants: tuple[TenantView, ...]
    histograms: tuple[HistogramView, ...]
    intake: IntakeView
    spend: SpendView | None = None
    """None until it was computed for the first time."""
    requests: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """(model, tier, outcome) -> requests that ended, outcomes as in conventions.REQUEST_OUTCOMES."""
    slo_requests: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """(slo, model, result) -> requests that count for a tenant's SLO."""
    energy: EnergyView = field(default_factory=EnergyView)
    """Of settled work, where devices told any."""
    auth_failures: Mapping[str, int] = field(default_factory=dict)
    """Reason -> callers that were turned away."""
    discovery: tuple[SourceView, ...] = ()
    spans: Mapping[str, int] = field(default_factory=dict)
    """What became of edge spans -> how many; empty where none are handed to a collector."""
    spans_waiting: int | None = None
    audit: AuditView | None = None
    """None where no audit trail is written."""
