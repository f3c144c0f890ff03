"""Farthing / Token economics: what is spent, what a million tokens cost, what serves nobody, what will come."""

from __future__ import annotations

from farthing.dashboards.panels import cost, economics, energy, spend
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import HOST, OF_ENGINES
from farthing.domain.conventions import DASHBOARD_ECONOMICS
from farthing.settings import Settings

__all__ = ["token_economics"]


def token_economics(settings: Settings) -> str:
    """JSON of the dashboard for whoever answers for the money."""
    return dashboard_json(
        uid=DASHBOARD_ECONOMICS,
        title="Farthing / Token economics",
        description="What is spent now and this month, what a million tokens cost and how that is known, what is paid "
        "for and serves nobody, whether the budgets last, and what is saved.",
        variables=(*OF_ENGINES, HOST),
        sections=(_spend(settings), _unit_cost(), _nothing(settings), _identity(), _month(settings), _savings()),
        time_from="now-6h",
        refresh="30s",
    )


def _spend(settings: Settings) -> Section:
    return Section(
        "What do we spend?",
        (
            (
                4,
                (
                    (4, cost.spend_rate()),
                    (7, spend.spent_so_far()),
                    (9, spend.month_forecast(settings)),
                    (4, spend.unpriced_engines()),
                ),
            ),
            (9, ((14, cost.settled_spend()), (10, cost.cost_by_account()))),
        ),
    )


def _unit_cost() -> Section:
    return Section(
        "What does a million tokens cost, and how is that known?",
        (
            (8, ((12, cost.unit_cost()), (12, economics.recent_and_saturated()))),
            (5, ((24, economics.phases()),)),
            (8, ((24, economics.engines()),)),
        ),
    )


def _nothing(settings: Settings) -> Section:
    return Section(
        "What is paid for and serves nobody?",
        (
            (
                4,
                (
                    (6, cost.idle_share(settings)),
                    (6, economics.aborted_share()),
                    (6, economics.unallocated()),
                    (6, energy.energy_cost()),
                ),
            ),
            (
                8,
                (
                    (10, economics.nothing_over_time()),
                    (6, economics.unattributed(settings)),
                    (8, economics.capacity()),
                ),
            ),
        ),
    )


def _identity() -> Section:
    return Section("Do the numbers add up?", ((5, ((24, economics.identity()),)),))


def _month(settings: Settings) -> Section:
    return Section(
        "Does the money last until the end of the month?",
        ((8, ((11, spend.month_ahead(settings)), (13, spend.budgets()))),),
    )


def _savings() -> Section:
    return Section(
        "What is saved, and what does one unit cost?", ((5, ((7, economics.saved()), (17, economics.units()))),)
    )
