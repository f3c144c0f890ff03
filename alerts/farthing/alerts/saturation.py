"""Saturation alerts: more is asked of an instance than it can do at once."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import INSTANCE_SPEND, MODEL_SPEND, dashboard_url, percent_text
from farthing.alerts.errors import share_of_rates
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["saturation"]

LASTING_SECONDS: Final = 60
"""Longer than a burst that the engine works off by itself."""
FULL_SECONDS: Final = 120
"""A full cache empties whenever long requests end."""


def saturation(settings: Settings) -> RuleGroup:
    """The saturation alerts; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_SATURATION_ALERTS,
        (
            _queue_backlog(settings),
            _kv_cache_full(settings),
            _preemptions_high(settings),
            _requests_rejected(settings),
        ),
    )


def _queue_backlog(settings: Settings) -> AlertRule:
    """Requests wait. LLMEngineStalled and LLMKVCacheFull of the same instance and model inhibit it."""
    return AlertRule(
        name="LLMQueueBacklog",
        expr=f"{names.REC_WAITING} > {settings.alerts.queue_requests!r}",
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="saturation",
        summary="{{ $labels.instance }}: {{ $value }} requests of {{ $labels.model }} wait",
        description=(
            "{{ $value }} requests of {{ $labels.model }} wait at {{ $labels.instance }}, and for a minute it has been "
            f"more than {settings.alerts.queue_requests:.10g}. The instance costs {INSTANCE_SPEND}, "
            "and another of its kind as much again."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE, by_model=True),
    )


def _kv_cache_full(settings: Settings) -> AlertRule:
    """No memory for those who wait; a full cache without a queue is one well used. LLMEngineStalled inhibits it."""
    return AlertRule(
        name="LLMKVCacheFull",
        expr=(
            f"{names.REC_KV} > {settings.alerts.kv_cache_ratio!r}\n"
            f"and on ({names.LABEL_INSTANCE}, {names.LABEL_MODEL})\n{names.REC_WAITING} > 0"
        ),
        for_seconds=FULL_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="saturation",
        summary="{{ $labels.instance }}: KV cache of {{ $labels.model }} is {{ $value | humanizePercentage }} full",
        description=(
            "The KV cache of {{ $labels.instance }} is {{ $value | humanizePercentage }} full of running requests of "
            "{{ $labels.model }}, and others wait for it; the limit is "
            f"{percent_text(settings.alerts.kv_cache_ratio)}. The instance costs {INSTANCE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE, by_model=True),
    )


def _preemptions_high(settings: Settings) -> AlertRule:
    """Work is thrown away and done again. LLMEngineStalled and LLMKVCacheFull of the instance inhibit it."""
    return AlertRule(
        name="LLMPreemptionsHigh",
        expr=f"{names.REC_PREEMPTION_RATE} * 60 > {settings.alerts.preemptions_per_minute!r}",
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="saturation",
        summary='{{ $labels.instance }} preempts {{ $value | printf "%.0f" }} requests of {{ $labels.model }} a minute',
        description=(
            '{{ $labels.instance }} threw {{ $value | printf "%.0f" }} requests of {{ $labels.model }} out of its KV '
            f"cache in the last minute, to compute them again; usual is less than "
            f"{settings.alerts.preemptions_per_minute:.10g}. The instance costs {INSTANCE_SPEND}, "
            "a part of it twice for the same work."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE, by_model=True),
    )


def _requests_rejected(settings: Settings) -> AlertRule:
    """Engines refuse requests for want of room in their queues. Nothing inhibits it: users get errors."""
    return AlertRule(
        name="LLMRequestsRejected",
        expr=share_of_rates(names.REC_REJECTED_RATE, settings.alerts.rejected_ratio),
        for_seconds=LASTING_SECONDS,
        severity="critical",
        team=TEAM_SERVING,
        component="saturation",
        summary="{{ $labels.model }}: {{ $value | humanizePercentage }} of requests are refused",
        description=(
            "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }} were refused admission over the "
            f"last five minutes; accepted are {percent_text(settings.alerts.rejected_ratio)}. "
            f"The engines of this model cost {MODEL_SPEND}, and they do not suffice."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE, by_model=True),
    )
