"""The PromQL about money that the dashboards of token economics and of tenants ask, over what the reader chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import known
from farthing.dashboards.scopes import BUDGETS, ENGINES, GPUS, INTERVAL, RANGE
from farthing.domain import conventions as names
from farthing.promql.money import cost_in
from farthing.promql.scope import by

__all__ = [
    "BUDGET",
    "WORK",
    "bill_so_far",
    "budget_gauge",
    "budget_passed_ms",
    "capacity_booked",
    "charged_and_aborted",
    "cost_rate_of",
    "dearness",
    "engine_phase_gauge",
    "fit_error",
    "forecast",
    "kpi",
    "settled_of",
    "share_by_method",
    "unallocated_now",
    "unattributed_by_reason",
    "unit_cost_bound",
    "unpriced_engines",
]

WORK: Final = (names.CHARGED, names.ABORTED)
"""Accounts of requests' own work; whoever hung up was served as well."""
BUDGET: Final = (names.LABEL_TENANT, names.LABEL_PROJECT, names.LABEL_MODEL)
"""What a budget may be for."""
_ENGINE_PHASE: Final = (names.LABEL_ENGINE, names.LABEL_PHASE)
_PHASE_METHOD: Final = (names.LABEL_PHASE, names.LABEL_METHOD)


def bill_so_far(metric: str) -> str:
    """Settled bill of today or of this month (UTC), of the whole fleet."""
    return f"sum({BUDGETS.now(metric)})"


def forecast(bound: str) -> str:
    """This calendar month's whole bill as it will be: ``expected``, or ``low`` or ``high`` of its 80 % interval."""
    return f"sum({BUDGETS.now(names.METRIC_SPEND_FORECAST, _is(names.LABEL_BOUND, bound))})"


def unpriced_engines() -> str:
    """Engines of the fleet that no price applies to; no answer where every one has its price."""
    return f"count({BUDGETS.now(names.METRIC_UNPRICED)})"


def cost_rate_of(accounts: Sequence[str], group: Sequence[str]) -> str:
    """Settled dollars per hour that went into some accounts."""
    return f"sum{by(group)}({ENGINES.over('rate', INTERVAL, names.METRIC_COST, _any(accounts))}) * 3600"


def settled_of(metric: str) -> str:
    """Dollars of the chosen engines since the ledger began: the ledger's own sum, exact."""
    return f"sum({ENGINES.now(metric)})"


def charged_and_aborted() -> str:
    """Dollars of requests' own work in the time range, by phase and by how the phase's part was found."""
    return cost_in(ENGINES, RANGE, WORK, _PHASE_METHOD)


def share_by_method() -> str:
    """Part of each phase's dollars that each method found."""
    whole = cost_in(ENGINES, RANGE, WORK, (names.LABEL_PHASE,))
    return known(f"{charged_and_aborted()}\n/ on ({names.LABEL_PHASE}) group_left ()\n{whole}")


def engine_phase_gauge(metric: str, *more: str) -> str:
    """A gauge of Farthing's by engine and phase."""
    return f"max{by(_ENGINE_PHASE)}({ENGINES.now(metric, *more)})"


def unit_cost_bound(bound: str) -> str:
    """The least (``low``) or the most (``high``) that the recent unit cost may be, by engine and phase."""
    return engine_phase_gauge(names.METRIC_UNIT_COST_BOUND, _is(names.LABEL_BOUND, bound))


def dearness() -> str:
    """How many times as much a token costs of late as in a full engine, by engine and phase."""
    full = engine_phase_gauge(names.METRIC_SATURATED_UNIT_COST)
    return f"{engine_phase_gauge(names.METRIC_RECENT_UNIT_COST)}\n/ ({full} > 0)"


def fit_error() -> str:
    """Walk-forward error (0-1) of an engine's split into phases, for each phase that has a recent cost."""
    error = f"max by ({names.LABEL_ENGINE}) ({ENGINES.now(names.METRIC_FIT_ERROR)})"
    return (
        f"{engine_phase_gauge(names.METRIC_RECENT_UNIT_COST)} * 0\n+ on ({names.LABEL_ENGINE}) group_left ()\n{error}"
    )


def unattributed_by_reason() -> str:
    """Dollars of the time range that no request explained at first, by reason."""
    return f"sum by ({names.LABEL_REASON}) ({ENGINES.over('increase', RANGE, names.METRIC_UNATTRIBUTED)})"


def unallocated_now() -> str:
    """Dollars per hour of GPUs that no engine has."""
    return f"sum({GPUS.now(names.METRIC_GPU_UNALLOCATED)})"


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


def _is(label: str, value: str) -> str:
    return f'{label}="{value}"'


def _any(accounts: Sequence[str]) -> str:
    return f'{names.LABEL_ACCOUNT}=~"{"|".join(accounts)}"'
