"""Panels about load at first sight: how busy the GPUs of the chosen engines are, together and one by one."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import gpu_queries, theme
from farthing.dashboards.links import runbook, to_dashboard
from farthing.dashboards.parts import Panel, Query
from farthing.domain import conventions as names

__all__ = ["gpu_utilization", "gpu_utilization_spread"]

_GPUS: Final = to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy")


def gpu_utilization() -> Panel:
    """Mean utilisation of the GPUs now."""
    return theme.dial(
        "GPU utilisation",
        "Part of the time in which a kernel ran, mean of the chosen engines' GPUs and of free ones. Low while requests "
        "wait: see the runbook of LLMGPUIdleWhileQueued. Low all day: fewer engines would do. It is high as soon as "
        "any small kernel runs, so high alone is no efficiency.",
        "percentunit",
        [Query(gpu_queries.gauge(names.REC_GPU_UTILIZATION, "avg", ()))],
        full=1,
        bands=(),
        panel_links=(_GPUS, runbook("LLMGPUIdleWhileQueued")),
    )


def gpu_utilization_spread() -> Panel:
    """How many GPUs are how busy, over time."""
    return theme.spread(
        "GPU utilisation, spread",
        "How many GPUs are at which utilisation, over time. Two bands, at the bottom and at the top: part of the fleet "
        "works and the rest is paid for; fewer engines would do, or the router does not balance. The GPUs' dashboard "
        "has one row for each.",
        "percentunit",
        Query(gpu_queries.gauge(names.REC_GPU_UTILIZATION, "max", gpu_queries.DEVICE), "{{hostname}} {{device}}"),
        full=1,
        panel_links=(_GPUS,),
    )
