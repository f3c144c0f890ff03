"""What is shown of spend: today, the month, its forecast, budgets, anomalies and unit costs, as of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["AnomalyView", "BudgetView", "ForecastView", "SpendView", "TenantSpend", "UnpricedView"]


@dataclass(frozen=True, slots=True)
class ForecastView:
    """What a month will have cost at its end, in nano-dollars, with an 80 % interval."""

    expected_nano: int
    low_nano: int
    high_nano: int
    method: str
    """What the history was enough for, in words."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget, what is settled of its month, and which thresholds were passed when."""

    name: str
    tenant: str | None
    project: str | None
    model: str | None
    monthly_nano: int
    spent_nano: int
    forecast: ForecastView | None
    events: tuple[tuple[str, int], ...] = ()
    """(threshold as a share of the budget, UTC nanoseconds when it was seen)."""


@dataclass(frozen=True, slots=True)
class AnomalyView:
    """Hours in which a tenant, or everything together (None), did not spend what it usually does."""

    tenant: str | None
    kind: str
    start_ns: int
    """UTC nanoseconds."""
    end_ns: int | None
    """None while it goes on."""
    observed_nano: int
    expected_nano: int
    impact_nano: int
    """Observed less expected."""


@dataclass(frozen=True, slots=True)
class TenantSpend:
    """What a tenant bore today and this month."""

    tenant: str
    today_nano: int
    month_nano: int


@dataclass(frozen=True, slots=True)
class UnpricedView:
    """An engine that no price applies to."""

    engine: str
    model: str
    gpu: str
    reason: str


@dataclass(frozen=True, slots=True)
class SpendView:
    """Settled spend by time of service, in nano-dollars; days and months are UTC's."""

    taken_ns: int
    through_ns: int
    """UTC nanoseconds up to which every hour is complete."""
    month: str
    """2026-11."""
    today_nano: int | None
    """None where nothing is booked yet or, with engines that have no price, nothing was spent that is known."""
    yesterday_nano: int | None
    month_nano: int | None
    last_month_nano: int | None
    """None also when the books began later."""
    forecast: ForecastView | None
    """Of the whole month's bill; None before there is an hour to tell from."""
    tenants: tuple[TenantSpend, ...] = ()
    budgets: tuple[BudgetView, ...] = ()
    anomalies: tuple[AnomalyView, ...] = ()
    """Of this month, newest first."""
    unpriced: tuple[UnpricedView, ...] = ()
    capacity_nano: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(account, reason) -> what was booked of GPUs that no engine has and of what is shared, since the ledger began."""
    unit_costs_nano: Mapping[str, int] = field(default_factory=dict)
    """Unit -> nano-dollars of one, this month; units nobody counted are absent."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """What of this month's bill -> 0-1; absent while there is no bill."""
