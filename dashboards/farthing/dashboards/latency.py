"""Farthing / Latency anatomy: where the time of a request goes, for whom, and on which instance."""

from __future__ import annotations

from farthing.dashboards.panels import latency as panels
from farthing.dashboards.panels import latency_now as now
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import OF_ENGINES, TIER
from farthing.domain.conventions import DASHBOARD_LATENCY
from farthing.settings import Settings

__all__ = ["latency"]


def latency(settings: Settings) -> str:
    """JSON of the dashboard of latency."""
    return dashboard_json(
        uid=DASHBOARD_LATENCY,
        title="Farthing / Latency anatomy",
        description="Where the time of a request goes: queue, prefill, first token, between tokens, decode.",
        variables=(*OF_ENGINES, TIER),
        sections=(_now(settings), _where(settings), _beginning(settings), _going_on(settings), _end(settings)),
    )


def _now(settings: Settings) -> Section:
    return Section(
        "How long do people wait?",
        (
            (
                5,
                (
                    (4, now.queue_mean()),
                    (4, now.first_token_worst(settings)),
                    (4, now.inter_token_worst(settings)),
                    (4, now.whole_answer_worst(settings)),
                    (8, now.network()),
                ),
            ),
        ),
    )


def _where(settings: Settings) -> Section:
    return Section(
        "Where does the time go, and on which instance?",
        (
            (9, ((14, now.mean_stages()), (10, now.mean_by_model()))),
            (9, ((24, now.slowest_instances(settings)),)),
        ),
    )


def _beginning(settings: Settings) -> Section:
    return Section(
        "What makes the first token late?",
        (
            (8, ((12, panels.queue()), (12, panels.queue_spread()))),
            (8, ((12, panels.prefill()), (12, panels.prefill_spread()))),
            (8, ((12, panels.first_token(settings)), (12, panels.first_token_traces()))),
        ),
    )


def _going_on(settings: Settings) -> Section:
    return Section(
        "What holds up the tokens after it?",
        (
            (8, ((12, panels.inter_token(settings)), (12, panels.inter_token_spread()))),
            (8, ((12, panels.interference()), (12, panels.preemptions(settings)))),
            (8, ((12, panels.decode()), (12, panels.decode_spread()))),
        ),
    )


def _end(settings: Settings) -> Section:
    return Section(
        "When is the answer there, and for whom?",
        (
            (8, ((12, panels.e2e(settings)), (12, panels.answer_traces()))),
            (8, ((12, panels.first_token_by_tier()), (12, panels.answer_by_tier()))),
        ),
    )
