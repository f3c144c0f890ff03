"""Farthing / GPUs and energy: whose GPUs there are, whether they work, what holds them back, what they take."""

from __future__ import annotations

from farthing.dashboards.panels import energy, gpus
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import HOST, OF_ENGINES
from farthing.domain.conventions import DASHBOARD_GPUS
from farthing.settings import Settings

__all__ = ["gpus_and_energy"]


def gpus_and_energy(settings: Settings) -> str:
    """JSON of the dashboard of GPUs and energy."""
    return dashboard_json(
        uid=DASHBOARD_GPUS,
        title="Farthing / GPUs and energy",
        description="Which GPUs there are and whose, whether they work, what holds them back, what energy they take.",
        variables=(*OF_ENGINES, HOST),
        sections=(_now(settings), _work(), _limits(), _energy(), _trust()),
    )


def _now(settings: Settings) -> Section:
    return Section(
        "Are the GPUs in order?",
        (
            (
                5,
                (
                    (4, gpus.gpus_known()),
                    (4, gpus.utilization_dial()),
                    (4, gpus.memory_share(settings)),
                    (4, gpus.power_share()),
                    (4, gpus.free_cost()),
                    (4, gpus.hardware_errors()),
                ),
            ),
        ),
    )


def _work() -> Section:
    return Section(
        "Which GPUs work, and for whom?",
        (
            (9, ((14, gpus.utilization_history()), (10, gpus.utilization_spread()))),
            (9, ((15, gpus.devices_of_engines()), (9, gpus.free_devices()))),
        ),
    )


def _limits() -> Section:
    return Section(
        "What holds them back, or is broken?",
        (
            (8, ((12, gpus.power()), (12, gpus.throttling()))),
            (8, ((8, gpus.clocks()), (8, gpus.temperature()), (8, gpus.links_between()))),
            (8, ((24, gpus.device_errors()),)),
        ),
    )


def _energy() -> Section:
    return Section(
        "What energy do they take, and for what?",
        (
            (4, ((8, energy.energy()), (8, energy.energy_cost()), (8, energy.carbon()))),
            (9, ((8, energy.energy_per_token()), (8, energy.energy_by_account()), (8, energy.tokens_per_joule()))),
        ),
    )


def _trust() -> Section:
    return Section(
        "Can the readings be believed?",
        ((5, ((12, gpus.sources()), (12, gpus.faults()))),),
    )
