"""What the dashboard of batch jobs asks: of the chosen tier, and of all tiers side by side.

Work in flight is by Little's law: the mean number of requests somewhere is the seconds that they spend there per second
(Little, A Proof for the Queuing Formula: L = lambda W, 1961). Seconds count when a request ends, so a long one is known
late.
"""

from __future__ import annotations

from typing import Final

from farthing.dashboards.engine_queries import number
from farthing.dashboards.queries import known
from farthing.dashboards.scopes import INSTANCES, INTERVAL, MODELS, RANGE, REQUESTS, TENANTS
from farthing.domain import conventions as names
from farthing.promql.money import model_unit_cost, tenant_tokens_in
from farthing.promql.scope import by

__all__ = [
    "BY_TIER",
    "drained_in",
    "energy_per_token",
    "in_flight",
    "in_time",
    "least_budget",
    "quantile",
    "request_cost",
    "spare_kv",
    "tenant_unit_cost",
    "throughput",
    "tier_cost",
    "tier_share",
    "token_rate",
    "unit_cost",
    "unit_cost_now",
    "waiting",
]

BY_TIER: Final = (names.LABEL_TIER,)
_FINISHED: Final = f'{names.LABEL_OUTCOME}="{names.FINISHED}"'


def waiting() -> str:
    """Mean number of the tier's requests in engines' queues."""
    return f"sum{by(BY_TIER)}({REQUESTS.over('rate', INTERVAL, f'{names.METRIC_QUEUE}_sum')})"


def in_flight() -> str:
    """Mean number of the tier's requests anywhere between arrival and answer."""
    return f"sum{by(BY_TIER)}({REQUESTS.over('rate', INTERVAL, f'{names.METRIC_E2E}_sum')})"


def throughput() -> str:
    """Requests of the tier that finish, per second."""
    return f"sum{by(BY_TIER)}({REQUESTS.over('rate', INTERVAL, names.METRIC_REQUESTS, _FINISHED)})"


def token_rate(kind: str) -> str:
    """Settled tokens of a kind per second, of the tier."""
    of_kind = f'{names.LABEL_KIND}="{kind}"'
    return f"sum{by(BY_TIER)}({TENANTS.over('rate', INTERVAL, names.METRIC_TENANT_TOKENS, of_kind)})"


def drained_in() -> str:
    """Seconds until what waits in the chosen engines would be done, at the rate at which they finish requests now."""
    return f"{number(names.REC_WAITING, group=())} / ({number(names.REC_REQUEST_RATE, group=())} > 0)"


def tier_cost() -> str:
    """Dollars of the tier settled within the time range."""
    return f"sum({TENANTS.over('increase', RANGE, names.METRIC_TENANT_COST)})"


def tier_share() -> str:
    """Part (0-1) of all tiers' dollars settled within the time range that the tier took."""
    return known(f"{tier_cost()} / sum({MODELS.over('increase', RANGE, names.METRIC_TENANT_COST)})")


def unit_cost_now() -> str:
    """Dollars per million tokens of the tier within the time range."""
    return _finite(model_unit_cost(TENANTS, RANGE, ()))


def unit_cost() -> str:
    """Dollars per million tokens, prompts and answers together, of every tier."""
    return _finite(model_unit_cost(MODELS, INTERVAL, BY_TIER))


def request_cost() -> str:
    """Dollars per finished request, what aborted ones cost included, of every tier."""
    cost = f"sum{by(BY_TIER)}({MODELS.over('increase', INTERVAL, names.METRIC_TENANT_COST)})"
    return (
        f"{cost} / (sum{by(BY_TIER)}({MODELS.over('increase', INTERVAL, names.METRIC_TENANT_REQUESTS, _FINISHED)}) > 0)"
    )


def energy_per_token() -> str:
    """Joules per token, prompts and answers together, of every tier."""
    energy = f"sum{by(BY_TIER)}({MODELS.over('increase', INTERVAL, names.METRIC_TENANT_ENERGY)})"
    return f"{energy} / ({tenant_tokens_in(MODELS, INTERVAL, BY_TIER)} > 0)"


def in_time() -> str:
    """Part (0-1) of the last hour's requests for which each promise to the tier was kept."""
    return f"1 - max by ({names.LABEL_SLO}, {names.LABEL_MODEL}) ({REQUESTS.now(names.REC_SLO_ERROR_1H)})"


def least_budget() -> str:
    """What is left of the tier's error budget that has least left."""
    return f"min({REQUESTS.now(names.REC_SLO_BUDGET_LEFT)})"


def quantile(histogram: str, part: float) -> str:
    """A quantile of one of Farthing's histograms, of every tier."""
    group = (*BY_TIER, names.LABEL_LE)
    return f"histogram_quantile({part}, sum{by(group)}({MODELS.over('rate', INTERVAL, f'{histogram}_bucket')}))"


def spare_kv() -> str:
    """Part (0-1) of each engine's KV cache that nothing uses."""
    return f"1 - max by ({names.LABEL_INSTANCE}) ({INSTANCES.now(names.REC_KV)})"


def tenant_unit_cost() -> str:
    """Dollars per million tokens of the tier within the time range, by tenant."""
    return _finite(model_unit_cost(TENANTS, RANGE, (names.LABEL_TENANT,)))


def _finite(ratio: str) -> str:
    """No answer either where something is by nothing: work that was given up before its first token."""
    return f"({known(ratio)}) < Inf"
