"""Farthing / Fleet overview: a platform lead's first look, from whether all is well to what it costs and for whom."""

from __future__ import annotations

from farthing.dashboards.panels import cost, health, load, pipeline, serving, spend, trust
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import HOST, OF_ENGINES, TENANT, TIER
from farthing.domain.conventions import DASHBOARD_FLEET
from farthing.settings import Settings

__all__ = ["fleet"]


def fleet(settings: Settings) -> str:
    """JSON of the fleet overview."""
    return dashboard_json(
        uid=DASHBOARD_FLEET,
        title="Farthing / Fleet overview",
        description="Is the fleet healthy, how fast and how loaded is it, what does it cost, who spends it, and can "
        "the numbers be trusted? Each panel leads to the dashboard that explains it.",
        variables=(*OF_ENGINES, TENANT, TIER, HOST),
        sections=(_healthy(settings), _fast(settings), _loaded(), _cost(settings), _spenders(), _trust(settings)),
    )


def _healthy(settings: Settings) -> Section:
    return Section(
        "Is it healthy?",
        (
            (
                4,
                (
                    (6, health.alerts_firing()),
                    (6, serving.engines_up()),
                    (6, health.served(settings)),
                    (6, health.error_budget()),
                ),
            ),
            (8, ((12, health.alerts()), (12, health.not_served(settings)))),
        ),
    )


def _fast(settings: Settings) -> Section:
    return Section(
        "How fast is it?",
        (
            (8, ((12, serving.time_to_first_token(settings)), (12, serving.inter_token_latency(settings)))),
            (8, ((12, serving.requests_finished()), (12, serving.tokens()))),
        ),
    )


def _loaded() -> Section:
    return Section(
        "How loaded is it?",
        (
            (8, ((12, serving.queue()), (12, serving.kv_cache_spread()))),
            (
                7,
                (
                    (5, serving.kv_cache_fullest()),
                    (5, load.gpu_utilization()),
                    (14, load.gpu_utilization_spread()),
                ),
            ),
        ),
    )


def _cost(settings: Settings) -> Section:
    return Section(
        "What does it cost?",
        (
            (4, ((7, cost.spend_rate()), (10, spend.spent_so_far()), (7, cost.idle_share(settings)))),
            (9, ((14, cost.settled_spend()), (10, cost.unit_cost()))),
        ),
    )


def _spenders() -> Section:
    return Section("Who spends it?", ((8, ((24, cost.cost_by_tenant()),)),))


def _trust(settings: Settings) -> Section:
    return Section(
        "Can these numbers be trusted?",
        (
            (
                5,
                (
                    (12, trust.checks()),
                    (6, trust.unattributed_share(settings)),
                    (6, pipeline.watermark_lag_worst(settings)),
                ),
            ),
        ),
    )
