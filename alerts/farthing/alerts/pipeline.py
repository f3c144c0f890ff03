"""Pipeline alerts: what Farthing and Prometheus themselves need in order to see."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import FLEET_SPEND, dashboard_url
from farthing.alerts.rules import TEAM_PLATFORM, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["TARGET_DOWN", "pipeline"]

TARGET_DOWN: Final = "FarthingTargetDown"
DOWN_SECONDS: Final = 60
"""How long a target may miss its scrapes: a restart of Farthing, or of an engine behind a rollout, is shorter."""


def pipeline(settings: Settings) -> RuleGroup:
    """The alerts about the pipeline itself."""
    return RuleGroup(names.GROUP_PIPELINE_ALERTS, (_target_down(settings),))


def _target_down(settings: Settings) -> AlertRule:
    # `up` is 0 by definition here, so the number worth telling is how much of the job is dark.
    down = f'printf "count(up{{{names.LABEL_JOB}=%q}} == 0)" $labels.job | query | first | value'
    known = f'printf "count(up{{{names.LABEL_JOB}=%q}})" $labels.job | query | first | value'
    return AlertRule(
        name=TARGET_DOWN,
        expr=f'up{{{names.LABEL_JOB}=~"{names.JOB_ENGINES}|{names.JOB_FARTHING}"}} == 0',
        for_seconds=DOWN_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="{{ $labels.job }} target {{ $labels.instance }} does not answer its scrapes",
        description=(
            f"{{{{ {down} }}}} of {{{{ {known} }}}} {{{{ $labels.job }}}} targets are down, "
            "{{ $labels.instance }} for a minute or longer. What it serves and costs meanwhile is not seen; "
            f"the fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FLEET),
    )
