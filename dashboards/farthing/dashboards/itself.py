"""Farthing / itself: is it there, does it keep up, does everything reach it, and can its books be trusted."""

from __future__ import annotations

from farthing.dashboards.panels import pipeline, trust
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import OF_ENGINES
from farthing.domain.conventions import DASHBOARD_FARTHING
from farthing.settings import Settings

__all__ = ["itself"]


def itself(settings: Settings) -> str:
    """JSON of the dashboard of Farthing itself."""
    return dashboard_json(
        uid=DASHBOARD_FARTHING,
        title="Farthing / Farthing itself",
        description="Whether Farthing is there and keeps up, whether all reaches it, whether its books can be trusted.",
        variables=OF_ENGINES,
        sections=(_there(settings), _reached(), _trusted(settings)),
        time_from="now-6h",
        refresh="30s",
    )


def _there(settings: Settings) -> Section:
    return Section(
        "Is it there, and does it keep up?",
        (
            (
                5,
                (
                    (4, pipeline.self_up()),
                    (4, pipeline.rules()),
                    (4, pipeline.version()),
                    (4, pipeline.watermark_lag_worst(settings)),
                    (4, pipeline.probes_reporting()),
                    (4, pipeline.gpu_sources()),
                ),
            ),
            (9, ((14, pipeline.watermark_lag_by_engine(settings)), (10, pipeline.alerts()))),
        ),
    )


def _reached() -> Section:
    return Section(
        "Does everything reach it?",
        (
            (9, ((12, pipeline.intake()), (12, pipeline.scrapes()))),
            (8, ((18, pipeline.probes()), (6, pipeline.gpu_records()))),
        ),
    )


def _trusted(settings: Settings) -> Section:
    return Section(
        "Can its books be trusted?",
        (
            (5, ((14, trust.checks()), (5, trust.residual()), (5, pipeline.late_cost()))),
            (9, ((12, pipeline.checks_over_time()), (12, pipeline.unexplained_by_reason()))),
            (9, ((24, pipeline.trust_by_engine(settings)),)),
        ),
    )
