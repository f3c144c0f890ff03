"""Cache alerts: what was computed once is computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from farthing.alerts.annotations import MODEL_SPEND, dashboard_url, percent_text
from farthing.alerts.rules import SLOW_SECONDS, TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.promql.scope import FLEET
from farthing.promql.serving import cache_hit_ratio, mean_rate
from farthing.settings import Settings

__all__ = ["cache"]

NOW: Final = "10m"
NOW_SECONDS: Final = 600
BEFORE: Final = "6h"
LASTING_SECONDS: Final = 600
WORTH_RATIO: Final = 0.1
"""A cache that answered less than this before has nothing to lose."""


@dataclass(frozen=True, slots=True)
class _Cache:
    """One kind of cache, by what it is asked and what it answers."""

    alert: str
    what: str
    hits: str
    queries: str
    floor: int
    """What it must be asked within NOW, in its own unit, to say anything."""


_CACHES: Final = (
    _Cache("LLMPrefixCacheCollapsed", "prefix cache", names.REC_PREFIX_HIT_RATE, names.REC_PREFIX_QUERY_RATE, 10_000),
    # Engines count what comes from elsewhere in tokens, and are asked for every prompt token.
    _Cache(
        "LLMExternalCacheCollapsed", "external KV cache", names.REC_EXTERNAL_HIT_RATE, names.REC_PROMPT_RATE, 10_000
    ),
    _Cache("LLMMultimodalCacheCollapsed", "multimodal cache", names.REC_MM_HIT_RATE, names.REC_MM_QUERY_RATE, 50),
)


def cache(settings: Settings) -> RuleGroup:
    """The cache alerts; the threshold from ``settings.alerts``."""
    return RuleGroup(names.GROUP_CACHE_ALERTS, tuple(_collapsed(one, settings) for one in _CACHES), SLOW_SECONDS)


def _ratio(one: _Cache, over: str) -> str:
    return f"({cache_hit_ratio(FLEET, over, one.hits, one.queries)})"


def _collapsed(one: _Cache, settings: Settings) -> AlertRule:
    """The hit rate fell far below what it was, by tokens or items and not by requests. Nothing inhibits it."""
    left = settings.alerts.cache_collapse_ratio
    asked = f"{mean_rate(FLEET, NOW, one.queries)} * {NOW_SECONDS}"
    return AlertRule(
        name=one.alert,
        expr=(
            f"{_ratio(one, NOW)} < {left!r} * {_ratio(one, BEFORE)}\n"
            f"and\n{_ratio(one, BEFORE)} > {WORTH_RATIO}\nand\n{asked} >= {one.floor}"
        ),
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="cache",
        summary=f"{{{{ $labels.model }}}}: the {one.what} answers {{{{ $value | humanizePercentage }}}}",
        description=(
            f"The {one.what} of {{{{ $labels.model }}}} answered {{{{ $value | humanizePercentage }}}} over the last "
            f"ten minutes, less than {percent_text(left)} of what it did over six hours; what it misses is computed "
            f"again. The engines of this model cost {MODEL_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE, by_model=True),
    )
