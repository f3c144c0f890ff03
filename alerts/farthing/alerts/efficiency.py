"""How much of its GPU an engine uses: what it estimates that it did, over what the datasheet says that is possible.

Model FLOPS utilisation (MFU) is the ratio of the model's floating-point operations to the peak rate of the matrix units
(Chowdhery et al., PaLM, 2022, appendix B): work that is done twice, such as prompts recomputed after a preemption,
counts as often as the engine counts it. The peak is that of bfloat16 without sparsity: a model that computes in fp8 may
come close to 2. Memory traffic is likewise over the memory's peak rate.

An engine that does not estimate, and a GPU whose peak is not known, give no series. Engines are found by their name,
which the stack's Prometheus gives to their targets as ``instance``.
"""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import by_instance
from farthing.alerts.rules import RecordingRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["RATIOS", "efficiency"]

RATIOS: Final = {
    names.REC_MFU: (names.REC_FLOPS, names.METRIC_PEAK_FLOPS),
    names.REC_MBU: (names.REC_MEMORY_BYTES, names.METRIC_PEAK_BANDWIDTH),
}
"""Record -> what one GPU does per second, and the most that it could."""


def efficiency(_settings: Settings) -> RuleGroup:
    """MFU and memory-bandwidth utilisation by instance and model, of one of the engine's GPUs."""
    return RuleGroup(
        names.GROUP_EFFICIENCY,
        tuple(RecordingRule(record, _ratio(does, peak)) for record, (does, peak) in RATIOS.items()),
    )


def _ratio(does: str, peak: str) -> str:
    """Boots of an engine on different GPUs overlap for a scrape: the faster one counts, so that nothing is above 1."""
    instance = names.LABEL_INSTANCE
    ratio = f"{does}\n/ on ({instance}) group_left ()\nmax by ({instance}) ({by_instance(peak)})"
    return f"max by ({instance}, {names.LABEL_MODEL}) (\n{ratio}\n)"
