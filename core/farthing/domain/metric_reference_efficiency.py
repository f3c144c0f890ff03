"""The meaning of the metrics that say how far an engine is from what its GPU could do."""

from __future__ import annotations

from typing import Final

from farthing.domain import conventions as names
from farthing.domain.metric_entry import Metric

__all__ = ["EFFICIENCY_METRICS"]

ENGINE: Final = (names.LABEL_ENGINE,)

EFFICIENCY_METRICS: Final = (
    Metric(
        names.METRIC_RECENT_UNIT_COST,
        "gauge",
        "USD per million tokens",
        (*ENGINE, names.LABEL_PHASE),
        "Settled cost per million tokens that the engine processed in the phase, over the last five minutes of work, "
        "whoever bore it: in the company that requests have now.",
    ),
    Metric(
        names.METRIC_UNIT_COST_BOUND,
        "gauge",
        "USD per million tokens",
        (*ENGINE, names.LABEL_PHASE, names.LABEL_BOUND),
        "The least (low) and the most (high) that the recent unit cost may be: busy cost is metered, its split over "
        "the phases is taken with the fit's 90 % intervals at their ends; absent without a fit of the engine's own "
        "work.",
    ),
    Metric(
        names.METRIC_SATURATED_UNIT_COST,
        "gauge",
        "USD per million tokens",
        (*ENGINE, names.LABEL_PHASE),
        "What the same work would cost with as many requests at once as costing.saturated_requests says, by the fit of "
        "busy time (modelled); recent cost over it is how dear emptiness is. Prompts and output only.",
    ),
    Metric(
        names.METRIC_PEAK_FLOPS,
        "gauge",
        "flop per second",
        (*ENGINE, names.LABEL_GPU),
        "What one of the engine's GPUs computes at most in bfloat16 without sparsity, by its vendor's datasheet; "
        "absent for a GPU whose datasheet Farthing does not know.",
    ),
    Metric(
        names.METRIC_PEAK_BANDWIDTH,
        "gauge",
        "bytes per second",
        (*ENGINE, names.LABEL_GPU),
        "What the memory of one of the engine's GPUs transfers at most, by its vendor's datasheet; absent likewise.",
    ),
)
