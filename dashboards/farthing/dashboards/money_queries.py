"""The PromQL about money that the dashboards of token economics and of tenants ask, over what the reader chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import engine_gauge, known, unit_cost
from farthing.dashboards.scopes import BUDGETS, ENGINES, RANGE
from farthing.domain import conventions as names
from farthing.promql.money import cost_in
from farthing.promql.scope import any_of, by, equals

__all__ = [
    "BUDGET",
    "WORK",
    "bill_so_far",
    "budget_gauge",
    "budget_passed_ms",
    "capacity_booked",
    "dearness",
    "engine_phase_gauge",
    "fit_error",
    "forecast",
    "kpi",
    "settled_of",
    "share_of_method",
    "unattributed_by_reason",
    "unit_cost_bound",
    "unit_cost_in_range",
    "unit_cost_in_range_bound",
    "unpriced_engines",
    "work_in_range",
]

WORK: Final = (names.CHARGED, names.ABORTED)
"""Accounts of requests' own work; whoever hung up was served as well."""
BUDGET: Final = (names.LABEL_TENANT, names.LABEL_PROJECT, names.LABEL_MODEL)
"""What a budget may be for."""
_ENGINE_PHASE: Final = (names.LABEL_ENGINE, names.LABEL_PHASE)
_PHASE: Final = by((names.LABEL_PHASE,))


def bill_so_far(metric: str) -> str:
    """Settled bill of today or of this month (UTC), of the whole fleet."""
    return f"sum({BUDGETS.now(metric)})"


def forecast(bound: str) -> str:
    """This calendar month's whole bill as it will be: ``expected``, or ``low`` or ``high`` of its 80 % interval."""
    return f"sum({BUDGETS.now(names.METRIC_SPEND_FORECAST, equals(names.LABEL_BOUND, bound))})"


def unpriced_engines() -> str:
    """Engines of the fleet that no price applies to; no answer where every one has its price."""
    return f"count({BUDGETS.now(names.METRIC_UNPRICED)})"


def settled_of(metric: str) -> str:
    """Dollars of the chosen engines since the ledger began: the ledger's own sum, exact."""
    return f"sum({ENGINES.now(metric)})"


def work_in_range() -> str:
    """Dollars of requests' own work in the time range, by phase."""
    return cost_in(ENGINES, RANGE, WORK, (names.LABEL_PHASE,))


def share_of_method(method: str) -> str:
    """Part of the dollars of requests' own work in the time range that was found so, by phase."""
    chosen = (any_of(names.LABEL_ACCOUNT, WORK), equals(names.LABEL_METHOD, method))
    found = f"sum{_PHASE}({ENGINES.over('increase', RANGE, names.METRIC_COST, *chosen)})"
    return known(f"{found}\n/ {work_in_range()}")


def unit_cost_in_range() -> str:
    """Dollars of requests' own work per million tokens in the time range, by phase."""
    return unit_cost("increase", RANGE)


def unit_cost_in_range_bound(bound: str) -> str:
    """The least (``low``) or the most (``high``) that it may be, by phase.

    Each engine's bound of late by its recent unit cost is how far the split is in doubt there; engines count by what
    they cost in the time range, and those whose bounds are unknown are taken to be as uncertain as the others.
    """
    doubt = f"({unit_cost_bound(bound)} / {engine_phase_gauge(names.METRIC_RECENT_UNIT_COST)})"
    cost = cost_in(ENGINES, RANGE, WORK, _ENGINE_PHASE)
    engines = ", ".join(_ENGINE_PHASE)
    weighed = f"sum{_PHASE}({cost} * {doubt})\n/ sum{_PHASE}({cost} and on ({engines}) {doubt})"
    return f"({unit_cost_in_range()})\n* ({weighed})"


def engine_phase_gauge(metric: str, *more: str) -> str:
    """A gauge of Farthing's by engine and phase."""
    return f"max{by(_ENGINE_PHASE)}({ENGINES.now(metric, *more)})"


def unit_cost_bound(bound: str) -> str:
    """The least (``low``) or the most (``high``) that the recent unit cost may be, by engine and phase."""
    return engine_phase_gauge(names.METRIC_UNIT_COST_BOUND, equals(names.LABEL_BOUND, bound))


def dearness() -> str:
    """How many times as much a token costs of late as in a full engine, by engine and phase."""
    full = engine_phase_gauge(names.METRIC_SATURATED_UNIT_COST)
    return f"{engine_phase_gauge(names.METRIC_RECENT_UNIT_COST)}\n/ ({full} > 0)"


def fit_error() -> str:
    """Walk-forward error (0-1) of an engine's split into phases, for each phase that has a recent cost."""
    error = engine_gauge(names.METRIC_FIT_ERROR, "max", (names.LABEL_ENGINE,))
    return (
        f"{engine_phase_gauge(names.METRIC_RECENT_UNIT_COST)} * 0\n+ on ({names.LABEL_ENGINE}) group_left ()\n{error}"
    )


def unattributed_by_reason() -> str:
    """Dollars of the time range that no request explained at first, by reason."""
    return f"sum by ({names.LABEL_REASON}) ({ENGINES.over('increase', RANGE, names.METRIC_UNATTRIBUTED)})"


def capacity_booked() -> str:
    """Dollars booked of what no engine has and of what is shared, by account and reason."""
    return f"sum by ({names.LABEL_ACCOUNT}, {names.LABEL_REASON}) ({BUDGETS.now(names.METRIC_CAPACITY)})"


def kpi(metric: str, *more: str, group: Sequence[str] = ()) -> str:
    """A key figure of this calendar month, of all engines."""
    return f"max{by(group)}({BUDGETS.now(metric, *more)})"


def budget_gauge(metric: str, *more: str) -> str:
    """What a budget is, what is spent of it, or their ratio, by what it is for."""
    return f"max{by(BUDGET)}({BUDGETS.now(metric, *more)})"


def budget_passed_ms(*more: str) -> str:
    """When a budget's last threshold was passed this month, in milliseconds since the epoch as Grafana's dates are."""
    return f"{budget_gauge(names.METRIC_BUDGET_EVENT, *more)} * 1000"
