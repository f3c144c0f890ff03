"""Farthing / Fleet overview: what everything costs, who spends it, and whether users are served in time."""

from __future__ import annotations

from farthing.dashboards.panels import cost, serving, trust
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import OF_ENGINES, TENANT, TIER
from farthing.domain.conventions import DASHBOARD_FLEET
from farthing.settings import Settings

__all__ = ["fleet"]


def fleet(settings: Settings) -> str:
    """JSON of the fleet overview."""
    return dashboard_json(
        uid=DASHBOARD_FLEET,
        title="Farthing / Fleet overview",
        description="What the fleet costs, who spends it, what is wasted, and whether users are served in time.",
        variables=(*OF_ENGINES, TENANT, TIER),
        sections=(_now(), _money(), _service(settings), _trust()),
    )


def _now() -> Section:
    return Section(
        "Now",
        (
            (
                5,
                (
                    (5, cost.spend_rate()),
                    (5, cost.idle_share()),
                    (5, serving.engines_up()),
                    (4, serving.kv_cache_fullest()),
                    (5, trust.unattributed_share()),
                ),
            ),
        ),
    )


def _money() -> Section:
    return Section(
        "Money",
        (
            (9, ((14, cost.settled_spend()), (10, cost.cost_by_account()))),
            (9, ((14, cost.unit_cost()), (10, cost.cost_of_nothing()))),
            (8, ((24, cost.cost_by_tenant()),)),
        ),
    )


def _service(settings: Settings) -> Section:
    return Section(
        "Service",
        (
            (8, ((12, serving.time_to_first_token(settings)), (12, serving.inter_token_latency()))),
            (8, ((12, serving.time_to_first_token_spread()), (12, serving.queue()))),
            (8, ((8, serving.tokens()), (8, serving.requests_finished()), (8, serving.kv_cache()))),
        ),
    )


def _trust() -> Section:
    return Section(
        "Can these numbers be trusted?",
        (
            (
                5,
                (
                    (12, trust.checks()),
                    (4, trust.residual()),
                    (4, trust.work_in_progress()),
                    (4, trust.watermark_lag()),
                ),
            ),
        ),
    )
