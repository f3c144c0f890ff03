"""Cold start alerts: an engine does not get ready."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import ENGINE_SPEND, by_instance, dashboard_url, seconds_text
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["cold_start"]

RANGE: Final = "2m"
"""Windows of a start settle as they pass; this bridges those that settle together."""


def cold_start(settings: Settings) -> RuleGroup:
    """The alert of engines that start too long."""
    return RuleGroup(names.GROUP_COLD_START_ALERTS, (_engine_starting_long(settings),))


def _engine_starting_long(settings: Settings) -> AlertRule:
    """Cost of starting goes on. FarthingTargetDown of the instance inhibits it: a start of an engine that does not
    answer yet is told by that page, and this one tells of engines that answer and are still not ready.
    """
    starting = f'{names.METRIC_COST}{{{names.LABEL_ACCOUNT}="{names.STARTING}"}}'
    return AlertRule(
        name="LLMEngineStartingLong",
        expr=by_instance(f"sum by ({names.LABEL_ENGINE}) (rate({starting}[{RANGE}])) * 3600 > 0"),
        for_seconds=settings.alerts.cold_start_seconds,
        severity="warning",
        team=TEAM_SERVING,
        component="coldstart",
        summary=f"{{{{ $labels.engine }}}} has been starting for {seconds_text(settings.alerts.cold_start_seconds)}",
        description=(
            f"{{{{ $labels.engine }}}} has been starting for more than "
            f"{seconds_text(settings.alerts.cold_start_seconds)}, at "
            f'{{{{ $value | printf "$%.2f" }}}} per hour, and serves nobody yet. The engine costs {ENGINE_SPEND}.'
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ENGINE),
    )
