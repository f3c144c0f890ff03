"""Farthing / Tenants: who spends how much for what, who grew, whose work is for nothing, and what they get."""

from __future__ import annotations

from farthing.dashboards import tenant_queries
from farthing.dashboards.panels import spend
from farthing.dashboards.panels import tenants as panels
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import CLUSTER, ENGINE_KIND, MODEL, TENANT, TIER
from farthing.domain.conventions import DASHBOARD_TENANTS, METRIC_E2E, METRIC_TTFT
from farthing.settings import Settings

__all__ = ["tenants"]


def tenants(settings: Settings) -> str:
    """JSON of the dashboard for whoever shows tenants their cost."""
    return dashboard_json(
        uid=DASHBOARD_TENANTS,
        title="Farthing / Tenants",
        description="Showback: what each tenant's requests cost and got, who grew, whose budget lasts, whose work was "
        "for nothing, and whether promises to tenants are kept.",
        # what tenants cost is known of all instances together
        variables=(CLUSTER, ENGINE_KIND, MODEL, TENANT, TIER),
        sections=(_spending(), _growth(settings), _budgets(), _waste(settings), _service()),
        time_from="now-24h",
        refresh="1m",
    )


def _spending() -> Section:
    return Section(
        "Who spends it, and on what?",
        (
            (4, ((13, panels.spent()), (11, panels.unnamed()))),
            (9, ((16, panels.cost_over_time()), (8, panels.share_of_fleet()))),
            (9, ((24, panels.showback()),)),
        ),
    )


def _growth(settings: Settings) -> Section:
    return Section(
        "Who spends more than before?",
        ((8, ((11, panels.movers()), (6, panels.growth()), (7, panels.anomalies(settings)))),),
    )


def _budgets() -> Section:
    return Section(
        "Whose budget lasts?",
        (
            (
                8,
                ((16, spend.budgets(*tenant_queries.OF_TENANTS, title="Budgets of tenants")), (8, panels.month())),
            ),
        ),
    )


def _waste(settings: Settings) -> Section:
    return Section(
        "Whose requests were for nothing?", ((8, ((14, panels.endings(settings)), (10, panels.aborted_cost()))),)
    )


def _service() -> Section:
    first = panels.latency(METRIC_TTFT, "Time to first token", "From a request's arrival to its first token")
    whole = panels.latency(METRIC_E2E, "Request duration", "From a request's arrival to its end")
    return Section("Are they served as promised?", ((8, ((8, first), (8, whole), (8, panels.promises()))),))
