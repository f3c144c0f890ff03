"""Farthing / Engine: is it up, how full are its batches and caches, how well is its GPU used, what does it cost."""

from __future__ import annotations

from farthing.dashboards.panels import cost, engine, serving
from farthing.dashboards.parts import Section
from farthing.dashboards.theme import dashboard_json
from farthing.dashboards.variables import OF_ENGINES
from farthing.domain.conventions import DASHBOARD_ENGINE
from farthing.settings import Settings

__all__ = ["engines"]


def engines(settings: Settings) -> str:
    """JSON of the dashboard of engines."""
    return dashboard_json(
        uid=DASHBOARD_ENGINE,
        title="Farthing / Engine",
        description="An engine from inside: its state, its batches and queue, its caches, its speed, what it costs.",
        variables=OF_ENGINES,
        sections=(_now(settings), _batches(settings), _speed(), _caches(settings), _requests(), _cost()),
    )


def _now(settings: Settings) -> Section:
    return Section(
        "Is it up, and how loaded is it?",
        (
            (
                5,
                (
                    (4, serving.engines_up()),
                    (5, engine.batch_now()),
                    (5, engine.kv_fullest(settings)),
                    (6, engine.efficiency_now()),
                    (4, cost.spend_rate()),
                ),
            ),
            (6, ((20, engine.states()), (4, engine.restarts()))),
        ),
    )


def _batches(settings: Settings) -> Section:
    return Section(
        "How large are its batches, and who waits?",
        (
            (9, ((12, engine.batch_and_queue(settings)), (12, engine.tokens_per_step()))),
            (8, ((8, engine.waiting()), (8, engine.kv_use(settings)), (8, engine.preemptions(settings)))),
        ),
    )


def _speed() -> Section:
    return Section(
        "How fast is it, and is its GPU well used?",
        ((8, ((8, engine.tokens_by_kind()), (8, engine.efficiency()), (8, engine.speculation()))),),
    )


def _caches(settings: Settings) -> Section:
    return Section(
        "Do its caches help?",
        (
            (8, ((12, engine.cache_hits()), (12, engine.kv_moved()))),
            (7, ((12, engine.kv_caches(settings)), (12, engine.adapters()))),
        ),
    )


def _requests() -> Section:
    return Section(
        "What is asked of it, and how does it end?",
        ((8, ((8, engine.prompt_lengths()), (8, engine.answer_lengths()), (8, engine.ends()))),),
    )


def _cost() -> Section:
    return Section("What does it cost?", ((8, ((24, engine.costs()),)),))
