"""Latency alerts: users wait longer than they were promised."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import MODEL_SPEND, dashboard_url, seconds_text
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["latency"]

TRAFFIC_FLOOR_PER_MINUTE: Final = 20
"""First tokens, or answers, per minute below which a 95th percentile is one request's bad luck (1 in 20)."""
TOKEN_FLOOR_PER_MINUTE: Final = 600
"""Tokens per minute below which a slow one in twenty is one stream's: ten a second are one reader's stream."""
KEPT_SECONDS: Final = 120
"""How long slow first tokens and slow tokens go on firing when they are over: answers that they made slow end later,
and are seen for a minute more. Without it LLMEndToEndLatencyHigh would be told once, at an incident's end.
"""


def latency(settings: Settings) -> RuleGroup:
    """The latency alerts; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_LATENCY_ALERTS,
        (_time_to_first_token_high(settings), _inter_token_latency_high(settings), _end_to_end_high(settings)),
    )


def _slower(quantile: str, promise: float, buckets: str, floor: int) -> str:
    """A model's quantile beyond its promise, with at least ``floor`` observations a minute.

    A comparison with a missing series or with NaN (no traffic at all) is empty: neither pages.
    """
    return (
        f'{quantile} > {promise!r}\nand on ({names.LABEL_MODEL})\n{buckets}{{{names.LABEL_LE}="+Inf"}} * 60 >= {floor}'
    )


def _time_to_first_token_high(settings: Settings) -> AlertRule:
    """People look at an empty answer. Nothing inhibits it; it inhibits LLMEndToEndLatencyHigh of the model."""
    promise = settings.alerts.ttft_p95_seconds
    return AlertRule(
        name="LLMTimeToFirstTokenHigh",
        expr=_slower(names.REC_TTFT_P95, promise, names.REC_TTFT_BUCKET, TRAFFIC_FLOOR_PER_MINUTE),
        for_seconds=settings.alerts.for_seconds,
        severity="warning",
        team=TEAM_SERVING,
        component="latency",
        summary="{{ $labels.model }}: p95 time to first token is {{ $value | humanizeDuration }}",
        description=(
            "One request in twenty of {{ $labels.model }} waited {{ $value | humanizeDuration }} or longer for its "
            f"first token over the last minute; promised are {seconds_text(promise)}. "
            f"The engines of this model cost {MODEL_SPEND} while it lasts."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_LATENCY, by_model=True),
        keep_firing_seconds=KEPT_SECONDS,
    )


def _inter_token_latency_high(settings: Settings) -> AlertRule:
    """Text that stutters. Nothing inhibits it; it inhibits LLMEndToEndLatencyHigh of the model."""
    promise = settings.alerts.itl_p95_seconds
    return AlertRule(
        name="LLMInterTokenLatencyHigh",
        expr=_slower(names.REC_ITL_P95, promise, names.REC_ITL_BUCKET, TOKEN_FLOOR_PER_MINUTE),
        for_seconds=settings.alerts.for_seconds,
        severity="warning",
        team=TEAM_SERVING,
        component="latency",
        summary="{{ $labels.model }}: p95 inter-token latency is {{ $value | humanizeDuration }}",
        description=(
            "One token in twenty of {{ $labels.model }} came {{ $value | humanizeDuration }} or later after the one "
            f"before, over the last minute; promised are {seconds_text(promise)}. "
            f"The engines of this model cost {MODEL_SPEND} while it lasts."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_LATENCY, by_model=True),
        keep_firing_seconds=KEPT_SECONDS,
    )


def _end_to_end_high(settings: Settings) -> AlertRule:
    """Whole answers take long. LLMTimeToFirstTokenHigh and LLMInterTokenLatencyHigh of the model inhibit it."""
    promise = settings.alerts.e2e_p95_seconds
    return AlertRule(
        name="LLMEndToEndLatencyHigh",
        expr=_slower(names.REC_E2E_P95, promise, names.REC_E2E_BUCKET, TRAFFIC_FLOOR_PER_MINUTE),
        for_seconds=settings.alerts.for_seconds,
        severity="warning",
        team=TEAM_SERVING,
        component="latency",
        summary="{{ $labels.model }}: p95 end-to-end latency is {{ $value | humanizeDuration }}",
        description=(
            "One answer in twenty of {{ $labels.model }} took {{ $value | humanizeDuration }} or longer over the last "
            f"minute; promised are {seconds_text(promise)}. "
            f"The engines of this model cost {MODEL_SPEND} while it lasts."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_LATENCY, by_model=True),
    )
