"""The PromQL about tenants: what each costs, asked for and got, and how that differs from the period before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import known, tenant_settled
from farthing.dashboards.scopes import BOOKS, BUDGETS, INTERVAL, MODELS, RANGE, REQUESTS, TENANT_SUMS, TENANTS
from farthing.domain import conventions as names
from farthing.promql.money import cost_in
from farthing.promql.scope import by

__all__ = [
    "OF_TENANTS",
    "anomalies",
    "before",
    "change",
    "cost_per_request",
    "cost_rate",
    "ended_share",
    "of_phase",
    "promise_kept",
    "promise_requests",
    "share_of_fleet",
    "times",
    "today_or_month",
    "tokens",
    "unnamed_share",
]

_BY_TENANT: Final = by((names.LABEL_TENANT,))
_COVERED: Final = 0.95
"""Part of a period's scrapes of Farthing that must be there for it to be compared with another."""
OF_TENANTS: Final = (f'{names.LABEL_TENANT}!=""', f'{names.LABEL_TENANT}=~"$tenant"')
"""Of budgets, those that are for one of the chosen tenants."""


def of_phase(phase: str) -> str:
    """Dollars of each tenant in the time range, of one phase or of aborted requests."""
    return tenant_settled(names.METRIC_TENANT_COST, f'{names.LABEL_PHASE}="{phase}"')


def cost_rate() -> str:
    """Settled dollars per hour of each tenant."""
    return f"sum{_BY_TENANT}({TENANTS.over('rate', INTERVAL, names.METRIC_TENANT_COST)}) * 3600"


def tokens(kind: str) -> str:
    """Tokens of one kind of each tenant's requests in the time range."""
    return tenant_settled(names.METRIC_TENANT_TOKENS, f'{names.LABEL_KIND}="{kind}"')


def unnamed_share() -> str:
    """Part of what all tenants' requests cost in the time range that named no tenant."""
    nobody = REQUESTS.over("increase", RANGE, names.METRIC_TENANT_COST, f'{names.LABEL_TENANT}="{names.UNKNOWN}"')
    return known(f"sum({nobody})\n/ sum({REQUESTS.over('increase', RANGE, names.METRIC_TENANT_COST)})")


def cost_per_request() -> str:
    """Dollars of a tenant's work, aborted requests included, by finished request."""
    finished = tenant_settled(names.METRIC_TENANT_REQUESTS, f'{names.LABEL_OUTCOME}="{names.FINISHED}"')
    return f"{tenant_settled(names.METRIC_TENANT_COST)}\n/ ({finished} > 0)"


def share_of_fleet() -> str:
    """Part of what all engines cost in the time range that a tenant's work took."""
    return known(f"{tenant_settled(names.METRIC_TENANT_COST)}\n/ on () group_left ()\n{cost_in(BUDGETS, RANGE)}")


def ended_share(outcome: str) -> str:
    """Part of each tenant's requests in the time range that ended so."""
    ended = tenant_settled(names.METRIC_TENANT_REQUESTS, f'{names.LABEL_OUTCOME}="{outcome}"')
    return known(f"{ended}\n/ {tenant_settled(names.METRIC_TENANT_REQUESTS)}")


def before() -> str:
    """Dollars of each tenant in the period before the time range, as long as that is.

    No answer where Prometheus does not know most of that period: half a period would look like growth.
    """
    cost = f"sum{_BY_TENANT}({TENANTS.over('increase', RANGE, names.METRIC_TENANT_COST, ago=RANGE)})"
    known_then = f"sum({BOOKS.over('count_over_time', RANGE, names.METRIC_BUILD, ago=RANGE)})"
    known_now = f"sum({BOOKS.over('count_over_time', RANGE, names.METRIC_BUILD)})"
    return f"({cost} and on () ({known_then} >= {_COVERED} * {known_now}))"


def change() -> str:
    """Dollars of each tenant in the time range, less those of the period before."""
    return f"{tenant_settled(names.METRIC_TENANT_COST)}\n- {before()}"


def times() -> str:
    """How many times as much a tenant cost as in the period before; no answer where that was nothing."""
    return f"{tenant_settled(names.METRIC_TENANT_COST)}\n/ ({before()} > 0)"


def today_or_month(metric: str, group: Sequence[str] = ()) -> str:
    """Settled cost of tenants' work of today or of this month (UTC), on all models."""
    return f"sum{by(group)}({TENANT_SUMS.now(metric)})"


def anomalies() -> str:
    """Dollars beyond what was expected, of tenants whose spend is an anomaly now."""
    return f"sum{_BY_TENANT}({TENANT_SUMS.now(names.METRIC_ANOMALY)})"


def promise_requests(result: str) -> str:
    """Requests in the time range that were good or bad for a promise to a tenant, by promise and model."""
    return _promised(f'{names.LABEL_RESULT}="{result}"')


def promise_kept() -> str:
    """Part of those requests that was good."""
    return known(f"{promise_requests(names.GOOD)}\n/ {_promised()}")


def _promised(*more: str) -> str:
    requests = MODELS.over("increase", RANGE, names.METRIC_SLO_REQUESTS, *more)
    return f"sum{by((names.LABEL_SLO, names.LABEL_MODEL))}({requests})"
