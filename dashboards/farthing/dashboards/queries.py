"""The PromQL that panels of several dashboards share, over what the reader chose.

Only ``llm:``, ``gpu:``, ``slo:`` and ``farthing_`` series are asked for, so that another engine is one catalogue file.
What a rule asks too is in ``farthing.promql``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.scopes import (
    ENGINE_MODELS,
    ENGINES,
    INSTANCES,
    INTERVAL,
    MODELS,
    RANGE,
    REQUESTS,
    TARGETS,
    TENANTS,
)
from farthing.domain import conventions as names
from farthing.promql.money import cost_share
from farthing.promql.scope import any_of, by

__all__ = [
    "DRIVER",
    "checks",
    "cost_now",
    "cost_rate",
    "cost_settled",
    "engine_gauge",
    "engines_known",
    "engines_up",
    "known",
    "requests_ended",
    "share_of_cost",
    "signal",
    "tenant_settled",
    "tenant_total",
    "unit_cost",
]

DRIVER: Final = {
    names.PREFILL: names.TOKEN_PROMPT_COMPUTED,
    names.DECODE: names.TOKEN_OUTPUT,
    names.VISION: names.TOKEN_IMAGE,
}
"""Phase -> the kind of token whose number drives it."""


def signal(record: str, operation: str, group: Sequence[str] = ()) -> str:
    """A recorded ``llm:`` series of the chosen models (and instances, where it has them), aggregated by ``group``."""
    scope = MODELS if _is_per_model(record) else INSTANCES
    return f"{operation}{by(group)}({scope.now(record)})"


def known(ratio: str) -> str:
    """A ratio that is not negative, and no answer where it is 0 by 0: nothing happened, which is not 0."""
    return f"({ratio}) >= 0"


def cost_now() -> str:
    """Dollars per hour of the chosen engines' GPUs."""
    return f"sum({ENGINES.now(names.METRIC_SPEND_RATE)})"


def cost_rate(group: Sequence[str], accounts: Sequence[str] = ()) -> str:
    """Settled dollars per hour, that went into some accounts or into all."""
    chosen = (any_of(names.LABEL_ACCOUNT, accounts),) if accounts else ()
    return f"sum{by(group)}({ENGINES.over('rate', INTERVAL, names.METRIC_COST, *chosen)}) * 3600"


def cost_settled(group: Sequence[str]) -> str:
    """Settled dollars since the ledger began: the ledger's own sum, exact."""
    return f"sum{by(group)}({ENGINES.now(names.METRIC_COST)})"


def share_of_cost(accounts: Sequence[str], of: Sequence[str]) -> str:
    """Part of the dollars settled within the time range in accounts ``of`` that ``accounts`` (a subset) hold."""
    return known(cost_share(ENGINES, RANGE, accounts, of))


def unit_cost(function: str, over: str) -> str:
    """Dollars of requests' work (charged and aborted) per million tokens that engines processed in each phase: computed
    prompt tokens, output tokens, image tokens; by phase, empty for one without such tokens.

    ``function`` is ``rate`` (of the moment) or ``increase`` (of a range).
    """
    work = f'{names.LABEL_ACCOUNT}=~"{names.CHARGED}|{names.ABORTED}"'
    cost = ENGINES.over(function, over, names.METRIC_COST, work, f'{names.LABEL_PHASE}=~"{"|".join(names.PHASES)}"')
    kinds = f'{names.LABEL_KIND}=~"{"|".join(DRIVER.values())}"'
    tokens = ENGINE_MODELS.over(function, over, names.METRIC_TOKENS, kinds)
    for phase, kind in DRIVER.items():
        tokens = f'label_replace({tokens}, "{names.LABEL_PHASE}", "{phase}", "{names.LABEL_KIND}", "{kind}")'
    phases = by((names.LABEL_PHASE,))
    return f"1e6 * sum{phases}({cost})\n/ (sum{phases}({tokens}) > 0)"


def engine_gauge(metric: str, operation: str, group: Sequence[str] = ()) -> str:
    """A gauge of Farthing's by engine, aggregated over the chosen engines."""
    return f"{operation}{by(group)}({ENGINES.now(metric)})"


def checks() -> str:
    """1 per reconciliation that agrees on every chosen engine, else 0."""
    return engine_gauge(names.METRIC_CHECK, "min", (names.LABEL_CHECK,))


def tenant_settled(metric: str, *more: str, group: Sequence[str] = (names.LABEL_TENANT,)) -> str:
    """Growth of a tenant metric within the time range; ``more`` are matchers, such as of one kind of token."""
    return f"sum{by(group)}({TENANTS.over('increase', RANGE, metric, *more)})"


def tenant_total(metric: str) -> str:
    """A tenant metric since the ledger began, by tenant: the ledger's own sum, exact."""
    return f"sum by ({names.LABEL_TENANT}) ({TENANTS.now(metric)})"


def requests_ended() -> str:
    """Requests that ended, per second, by how."""
    return f"sum{by((names.LABEL_OUTCOME,))}({REQUESTS.over('rate', INTERVAL, names.METRIC_REQUESTS)})"


def engines_up() -> str:
    """Engine targets whose last scrape succeeded."""
    return f"sum({_up()})"


def engines_known() -> str:
    """Engine targets that Prometheus is told to scrape."""
    return f"count({_up()})"


def _up() -> str:
    return TARGETS.now("up", f'{names.LABEL_JOB}="{names.JOB_ENGINES}"')


def _is_per_model(record: str) -> bool:
    """Histograms are recorded per model: their instances' buckets are already added up."""
    return "_seconds" in record
