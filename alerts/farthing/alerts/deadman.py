"""The dead man's switch: an alert that always fires, so that whoever stops hearing it knows that alerts are lost."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import FLEET_SPEND, dashboard_url
from farthing.alerts.rules import TEAM_PLATFORM, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["WATCHDOG", "deadman"]

WATCHDOG: Final = "FarthingWatchdog"
SETTLED_SECONDS: Final = 30
"""A Prometheus that starts again and again does not get this far, which is the news."""


def deadman(settings: Settings) -> RuleGroup:
    """The one alert whose silence is the trouble; nothing inhibits it, and it inhibits nothing."""
    return RuleGroup(names.GROUP_DEAD_MAN, (_watchdog(settings),))


def _watchdog(settings: Settings) -> AlertRule:
    # `up` is there for every target that Prometheus tries to scrape, down or not. A `vector(1)` would go on
    # firing in a Prometheus that has lost its targets and sees nothing of us.
    return AlertRule(
        name=WATCHDOG,
        expr=f'count by ({names.LABEL_JOB}) (up{{{names.LABEL_JOB}="{names.JOB_FARTHING}"}})',
        for_seconds=SETTLED_SECONDS,
        severity="none",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="Alerts of {{ $labels.job }} reach you; this one always fires",
        description=(
            "Prometheus scrapes {{ $value }} target of {{ $labels.job }}, evaluates its rules and reaches "
            f"Alertmanager. When this message stops, no alert arrives, and the fleet costs {FLEET_SPEND} unseen."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )
