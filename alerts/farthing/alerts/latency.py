"""Latency alerts: users wait longer than they were promised."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import MODEL_SPEND, dashboard_url, seconds_text
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["latency"]

TRAFFIC_FLOOR_PER_MINUTE: Final = 20
"""First tokens per minute below which a 95th percentile is one request's bad luck (1 in 20) and pages nobody."""


def latency(settings: Settings) -> RuleGroup:
    """The latency alerts; thresholds from ``settings.alerts``."""
    return RuleGroup(names.GROUP_LATENCY_ALERTS, (_time_to_first_token_high(settings),))


def _time_to_first_token_high(settings: Settings) -> AlertRule:
    promise = settings.alerts.ttft_p95_seconds
    # A comparison with a missing series or with NaN (no traffic at all) is empty: neither pages.
    return AlertRule(
        name="LLMTimeToFirstTokenHigh",
        expr=(
            f"{names.REC_TTFT_P95} > {promise!r}\n"
            f"and on ({names.LABEL_MODEL})\n"
            f'{names.REC_TTFT_BUCKET}{{{names.LABEL_LE}="+Inf"}} * 60 >= {TRAFFIC_FLOOR_PER_MINUTE}'
        ),
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
        dashboard=dashboard_url(settings, names.DASHBOARD_FLEET, by_model=True),
    )
