"""Spend, budgets and unit costs as rows of metric families. Mapping only; None is an absent series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.domain.money import NANO
from farthing.domain.spend import BudgetView, SpendView

__all__ = ["SpendRow", "spend_rows"]

SpendRow = tuple[tuple[str, ...], float | None]
"""Label values in the reference's order, and the value."""


def spend_rows(spend: SpendView | None, seated: frozenset[str]) -> Mapping[str, Sequence[SpendRow]]:
    """Metric -> its rows; none at all before spend was computed. Tenants without a seat share ``other``."""
    if spend is None:
        return {}
    forecast = spend.forecast
    bounds = (
        ()
        if forecast is None
        else (
            (("low",), _dollars(forecast.low_nano)),
            (("expected",), _dollars(forecast.expected_nano)),
            (("high",), _dollars(forecast.high_nano)),
        )
    )
    return {
        names.METRIC_BILL_TODAY: [((), _dollars(spend.today_nano))],
        names.METRIC_BILL_MONTH: [((), _dollars(spend.month_nano))],
        names.METRIC_SPEND_FORECAST: bounds,
        names.METRIC_SPEND_TODAY: _by_tenant({one.tenant: one.today_nano for one in spend.tenants}, seated),
        names.METRIC_SPEND_MONTH: _by_tenant({one.tenant: one.month_nano for one in spend.tenants}, seated),
        names.METRIC_ANOMALY: _anomalies(spend, seated),
        names.METRIC_BUDGET: [(_whose(one), _dollars(one.monthly_nano)) for one in spend.budgets],
        names.METRIC_BUDGET_SPENT: [(_whose(one), _dollars(one.spent_nano)) for one in spend.budgets],
        names.METRIC_BUDGET_RATIO: [(_whose(one), one.spent_nano / one.monthly_nano) for one in spend.budgets],
        names.METRIC_BUDGET_EVENT: [
            ((*_whose(one), threshold), at_ns / SECOND) for one in spend.budgets for threshold, at_ns in one.events
        ],
        names.METRIC_UNPRICED: [((one.engine, one.model), 1.0) for one in spend.unpriced],
        names.METRIC_CAPACITY: [(key, _dollars(nano)) for key, nano in spend.capacity_nano.items()],
        names.METRIC_KPI_UNIT_COST: [((unit,), _dollars(nano)) for unit, nano in spend.unit_costs_nano.items()],
        names.METRIC_KPI_SHARE: [((share,), value) for share, value in spend.shares.items()],
    }


def _by_tenant(amounts: Mapping[str, int], seated: frozenset[str]) -> list[SpendRow]:
    """Integers until the last moment, so that ``other`` keeps every nano-dollar."""
    sums: dict[str, int] = defaultdict(int)
    for tenant, nano in amounts.items():
        sums[tenant if tenant in seated else names.OTHER] += nano
    return [((tenant,), _dollars(nano)) for tenant, nano in sums.items()]


def _anomalies(spend: SpendView, seated: frozenset[str]) -> list[SpendRow]:
    """Impact of what goes on now, by tenant."""
    impact: dict[str, int] = defaultdict(int)
    for one in spend.anomalies:
        if one.end_ns is None and one.tenant is not None:
            impact[one.tenant] += one.impact_nano
    return _by_tenant(impact, seated)


def _whose(budget: BudgetView) -> tuple[str, str, str]:
    """An empty label is none: a budget has those that it is for."""
    return budget.tenant or "", budget.project or "", budget.model or ""


def _dollars(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO
