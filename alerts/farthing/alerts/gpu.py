"""GPU alerts, from Farthing's metered time: GPUs that are paid for and do not work.

Utilisation as drivers report it is no ground for an alert: it is 100 % while one kernel runs, whatever it does. What
matters is whether work waits for the GPU, or the GPU for work.
"""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import ENGINE_SPEND, MODEL_SPEND, by_instance, dashboard_url, percent_text
from farthing.alerts.rules import TEAM_FINANCE, TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["gpu"]

BUSY_RANGE: Final = "5m"
WAITING_SECONDS: Final = 600
"""Busy time is counted when it settles, up to `costing.grace_seconds` late: after a quiet hour a queue is known minutes
before the work on it.
"""
QUEUED: Final = 1
"""Requests per engine that wait: one between two steps is no queue."""
IDLE_RANGE: Final = "30m"
IDLE_RATIO: Final = 0.95
"""Idle share from which on nobody would say that an engine is used; a health check's request now and then fits in."""
EVALUATION_SECONDS: Final = 30


def gpu(settings: Settings) -> RuleGroup:
    """The GPU alerts; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_GPU_ALERTS, (_idle_while_queued(settings), _allocated_idle(settings)), EVALUATION_SECONDS
    )


def _idle_while_queued(settings: Settings) -> AlertRule:
    """Requests wait, and engines of their model do not work: a router's or a batch limit's fault, not load.

    LLMEngineStalled of the model inhibits it.
    """
    engine, model = names.LABEL_ENGINE, names.LABEL_MODEL
    serves = f"group by ({engine}, {model}) ({names.METRIC_TOKENS})"
    busy = f"{serves} * on ({engine}) group_left () sum by ({engine}) (rate({names.METRIC_BUSY}[{BUSY_RANGE}]))"
    return AlertRule(
        name="LLMGPUIdleWhileQueued",
        expr=(
            f"avg by ({model}) ({busy}) < {settings.alerts.gpu_busy_ratio!r}\n"
            f"and\navg by ({model}) (avg_over_time({names.REC_WAITING}[{BUSY_RANGE}])) > {QUEUED}"
        ),
        for_seconds=WAITING_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="gpu",
        summary="{{ $labels.model }}: requests wait while engines work {{ $value | humanizePercentage }} of the time",
        description=(
            "Requests of {{ $labels.model }} have waited for fifteen minutes while its engines worked "
            "{{ $value | humanizePercentage }} of the time; below "
            f"{percent_text(settings.alerts.gpu_busy_ratio)} it is not load that makes them wait. "
            f"The engines of this model cost {MODEL_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS, by_model=True),
    )


def _allocated_idle(settings: Settings) -> AlertRule:
    """An engine's GPUs are paid for without work. FarthingIdleCostHigh, which says it of the fleet, inhibits it."""
    by_engine = f"sum by ({names.LABEL_ENGINE})"
    idle = f'{names.METRIC_COST}{{{names.LABEL_ACCOUNT}="{names.IDLE}"}}'
    return AlertRule(
        name="LLMGPUAllocatedIdle",
        expr=by_instance(
            f"{by_engine} (increase({idle}[{IDLE_RANGE}]))\n/\n"
            f"{by_engine} (increase({names.METRIC_COST}[{IDLE_RANGE}]))\n> {IDLE_RATIO}"
        ),
        for_seconds=settings.alerts.gpu_idle_seconds,
        severity="warning",
        team=TEAM_FINANCE,
        component="gpu",
        summary="{{ $labels.engine }} was idle {{ $value | humanizePercentage }} of half an hour",
        description=(
            "The GPUs of {{ $labels.engine }} were idle {{ $value | humanizePercentage }} of the last half hour, and "
            f"longer. They cost {ENGINE_SPEND} all the same."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )
