"""Farthing / Batch jobs: is it in time, how much is there, what does it cost, is there room, does it hurt users."""

from __future__ import annotations

from farthing.dashboards.panels import batch
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import BATCH_TIER, OF_ENGINES, TENANT
from farthing.domain.conventions import DASHBOARD_BATCH
from farthing.settings import Settings

__all__ = ["batch_jobs"]


def batch_jobs(settings: Settings) -> str:
    """JSON of the dashboard of batch jobs."""
    return dashboard_json(
        uid=DASHBOARD_BATCH,
        title="Farthing / Batch jobs",
        description="Work that can wait: is it in time, what does it cost, is there room for more, does it hurt users.",
        variables=(*OF_ENGINES, BATCH_TIER, TENANT),
        sections=(_now(), _work(), _harm(settings), _room(settings), _cost(), _tenants()),
    )


def _now() -> Section:
    return Section(
        "Is it in time, and what does it cost?",
        (
            (
                5,
                (
                    (5, batch.budget_left()),
                    (4, batch.drained()),
                    (5, batch.cost()),
                    (5, batch.unit_cost()),
                    (5, batch.batch_share()),
                ),
            ),
        ),
    )


def _work() -> Section:
    return Section(
        "How much is there, and when is it done?",
        (
            (9, ((12, batch.work()), (12, batch.throughput()))),
            (8, ((8, batch.tokens()), (8, batch.outcomes()), (8, batch.in_time()))),
        ),
    )


def _harm(settings: Settings) -> Section:
    return Section(
        "Does it hurt interactive work?",
        ((8, ((12, batch.first_token_by_tier(settings)), (12, batch.queue_wait_by_tier()))),),
    )


def _room(settings: Settings) -> Section:
    return Section(
        "Is there room to fill?",
        ((8, ((8, batch.idle_cost()), (8, batch.batch_size(settings)), (8, batch.spare_kv()))),),
    )


def _cost() -> Section:
    return Section(
        "What does it cost, beside other work?",
        ((8, ((8, batch.cost_per_token()), (8, batch.cost_per_request()), (8, batch.energy_per_token()))),),
    )


def _tenants() -> Section:
    return Section("Who runs it?", ((8, ((24, batch.tenants()),)),))
