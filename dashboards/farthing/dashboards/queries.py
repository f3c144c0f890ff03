"""The PromQL of the panels, over ``llm:`` and ``farthing_`` series only, following the dashboard's variables.

Engine series of Farthing carry ``engine``, the name in farthing.yaml; the scrape gives each engine's target the
same name as ``instance``, so that one variable selects both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.domain import conventions as names

__all__ = [
    "checks",
    "cost_now",
    "cost_rate",
    "cost_settled",
    "engine_gauge",
    "engines_known",
    "engines_up",
    "share_of_cost",
    "signal",
    "tenant_settled",
    "tenant_total",
    "unit_cost",
]

_INTERVAL: Final = "[$__rate_interval]"
_RANGE: Final = "[$__range]"
_MODEL: Final = f'{names.LABEL_MODEL}=~"$model"'
_INSTANCE: Final = f'{names.LABEL_INSTANCE}=~"$instance"'
_ENGINE: Final = f'{names.LABEL_ENGINE}=~"$instance"'

# Engines known to serve another model drop out; one that has had no tokens yet (idle, starting) stays, or the
# money it burns would be hidden.
_OF_MODEL: Final = f'unless on ({names.LABEL_ENGINE}) {names.METRIC_TOKENS}{{{names.LABEL_MODEL}!~"$model"}}'

# Phase -> the kind of token whose number drives it.
_DRIVER: Final = {
    names.PREFILL: names.TOKEN_PROMPT_COMPUTED,
    names.DECODE: names.TOKEN_OUTPUT,
    names.VISION: names.TOKEN_IMAGE,
}


def signal(record: str, operation: str, by: Sequence[str] = ()) -> str:
    """A recorded ``llm:`` series of the chosen models (and instances, where it has them), aggregated ``by`` labels."""
    matchers = _MODEL if _is_per_model(record) else f"{_MODEL}, {_INSTANCE}"
    return f"{operation}{_by(by)} ({record}{{{matchers}}})"


def cost_now() -> str:
    """Dollars per hour of the chosen engines' GPUs."""
    return f"sum ({names.METRIC_SPEND_RATE}{{{_ENGINE}}} {_OF_MODEL})"


def cost_rate(by: Sequence[str]) -> str:
    """Settled dollars per hour."""
    return f"sum{_by(by)} (rate({_cost()}{_INTERVAL}) {_OF_MODEL}) * 3600"


def cost_settled(by: Sequence[str]) -> str:
    """Settled dollars since the ledger began: the ledger's own sum, exact."""
    return f"sum{_by(by)} ({_cost()} {_OF_MODEL})"


def cost_in_range(by: Sequence[str], accounts: Sequence[str]) -> str:
    """Dollars settled within the dashboard's time range, in some accounts."""
    return f"sum{_by(by)} (increase({_cost(accounts)}{_RANGE}) {_OF_MODEL})"


def share_of_cost(accounts: Sequence[str], of: Sequence[str]) -> str:
    """Part of the dollars settled within the time range in accounts ``of`` that ``accounts`` (a subset) hold."""
    return f"{cost_in_range((), accounts)} / ({cost_in_range((), of)} > 0)"


def unit_cost(phase: str) -> str:
    """Charged dollars per million tokens of the phase's kind, of work settled lately; empty without such tokens."""
    cost = (
        f'{names.METRIC_COST}{{{_ENGINE}, {names.LABEL_ACCOUNT}="{names.CHARGED}", {names.LABEL_PHASE}="{phase}"}}'
        f"{_INTERVAL}"
    )
    tokens = f'{names.METRIC_TOKENS}{{{_ENGINE}, {_MODEL}, {names.LABEL_KIND}="{_DRIVER[phase]}"}}{_INTERVAL}'
    return f"sum (rate({cost}) {_OF_MODEL}) / (sum (rate({tokens})) > 0) * 1e6"


def engine_gauge(metric: str, operation: str) -> str:
    """A gauge of Farthing's by engine, aggregated over the chosen engines."""
    return f"{operation} ({metric}{{{_ENGINE}}} {_OF_MODEL})"


def checks() -> str:
    """1 per reconciliation that agrees on every chosen engine, else 0."""
    return f"min by ({names.LABEL_CHECK}) ({names.METRIC_CHECK}{{{_ENGINE}}} {_OF_MODEL})"


def tenant_settled(metric: str, kind: str = "") -> str:
    """Growth of a tenant metric within the time range, by tenant; ``kind`` picks one kind of token."""
    return f"sum by ({names.LABEL_TENANT}) (increase({_tenant(metric, kind)}{_RANGE}))"


def tenant_total(metric: str) -> str:
    """A tenant metric since the ledger began, by tenant: the ledger's own sum, exact."""
    return f"sum by ({names.LABEL_TENANT}) ({_tenant(metric)})"


def engines_up() -> str:
    """Engine targets whose last scrape succeeded."""
    return f"sum ({_up()})"


def engines_known() -> str:
    """Engine targets that Prometheus is told to scrape."""
    return f"count ({_up()})"


def _up() -> str:
    return f'up{{{names.LABEL_JOB}="{names.JOB_ENGINES}", {_INSTANCE}}}'


def _cost(accounts: Sequence[str] = ()) -> str:
    chosen = f', {names.LABEL_ACCOUNT}=~"{"|".join(accounts)}"' if accounts else ""
    return f"{names.METRIC_COST}{{{_ENGINE}{chosen}}}"


def _tenant(metric: str, kind: str = "") -> str:
    chosen = f', {names.LABEL_KIND}="{kind}"' if kind else ""
    return f"{metric}{{{_MODEL}{chosen}}}"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _is_per_model(record: str) -> bool:
    """Histograms are recorded per model: their instances' buckets are already added up."""
    return record.startswith(("llm:time_to_first_token", "llm:inter_token_latency"))
