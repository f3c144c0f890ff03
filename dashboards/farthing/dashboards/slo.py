"""Farthing / SLOs: which promises are kept, how fast error budgets burn, and whom that wakes."""

from __future__ import annotations

from farthing.dashboards.panels import slo as panels
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import CLUSTER, ENGINE_KIND, MODEL, SLO, TIER
from farthing.domain.conventions import DASHBOARD_SLO
from farthing.settings import Settings

__all__ = ["slo"]


def slo(_settings: Settings) -> str:
    """JSON of the dashboard of SLOs and error budgets."""
    return dashboard_json(
        uid=DASHBOARD_SLO,
        title="Farthing / SLOs and error budgets",
        description="Which promises are kept, what is left of their error budgets, how fast it burns, whom that wakes.",
        variables=(CLUSTER, ENGINE_KIND, MODEL, TIER, SLO),
        sections=(_kept(), _told(), _burning(), _wrong()),
        time_from="now-6h",
        refresh="30s",
    )


def _kept() -> Section:
    return Section(
        "Are the promises kept?",
        (
            (
                5,
                (
                    (5, panels.promises_kept()),
                    (5, panels.least_left()),
                    (5, panels.gone_soonest()),
                    (4, panels.fastest_burn()),
                    (5, panels.alerts_firing()),
                ),
            ),
            (9, ((24, panels.promises()),)),
        ),
    )


def _told() -> Section:
    return Section(
        "How much may still go wrong, and who has been told?",
        ((9, ((8, panels.budget_left()), (8, panels.budget_left_over_time()), (8, panels.alerts()))),),
    )


def _burning() -> Section:
    return Section(
        "How fast do the budgets burn?",
        (
            (9, ((12, panels.burn_hour()), (12, panels.burn_hours()))),
            (8, ((12, panels.burn_day()), (12, panels.burn_days()))),
        ),
    )


def _wrong() -> Section:
    return Section(
        "What goes wrong, and for whom?",
        (
            (8, ((12, panels.bad_share()), (12, panels.events()))),
            (8, ((12, panels.burn_by_tier()), (12, panels.requests_ended()))),
        ),
    )
