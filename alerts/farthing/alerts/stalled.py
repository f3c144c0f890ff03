"""Stalled engines: requests are there, and no token comes."""

from __future__ import annotations

from farthing.alerts.annotations import INSTANCE_SPEND, dashboard_url
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["stalled"]


def stalled(settings: Settings) -> RuleGroup:
    """The alert of engines that stand still."""
    return RuleGroup(names.GROUP_STALLED_ALERTS, (_engine_stalled(settings),))


def _engine_stalled(settings: Settings) -> AlertRule:
    """Running or waiting requests, and neither output nor prompt tokens for a minute and more.

    Gauges of an engine whose loop hangs keep their last value, so its requests still show. Prompt tokens count as
    progress: vLLM counts a prompt when its prefill ends, and a long one makes no output meanwhile. An engine asleep
    has been told to stand still. A missing series of output tokens says nothing. FarthingTargetDown does not inhibit
    it, being a page of its own; it inhibits queue, cache and GPU alerts of its instance and model.
    """
    same = f"on ({names.LABEL_INSTANCE}, {names.LABEL_MODEL})"
    return AlertRule(
        name="LLMEngineStalled",
        expr=(
            f"({names.REC_RUNNING} > 0 or {names.REC_WAITING} > 0)\n"
            f"and {same}\n{names.REC_GENERATION_RATE} == 0\n"
            f"unless {same}\n{names.REC_PROMPT_RATE} > 0\n"
            f"unless {same}\n{names.REC_AWAKE} == 0"
        ),
        for_seconds=settings.alerts.stalled_seconds,
        severity="critical",
        team=TEAM_SERVING,
        component="stalled",
        summary="{{ $labels.instance }} has {{ $value }} requests of {{ $labels.model }} and makes no token",
        description=(
            "{{ $labels.instance }} has had requests of {{ $labels.model }}, now {{ $value }}, and for "
            f"{settings.alerts.stalled_seconds + 60} s neither read a prompt nor made a token. "
            f"It costs {INSTANCE_SPEND} and serves nobody."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE, by_model=True),
    )
