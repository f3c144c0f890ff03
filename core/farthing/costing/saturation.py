"""What a million tokens would cost if the engine were full: what company saves, by the model of busy time."""

from __future__ import annotations

from collections.abc import Mapping

from farthing.costing import fit as f
from farthing.domain import conventions as c

__all__ = ["unit_costs_at"]

MILLION = 1_000_000


def unit_costs_at(
    coefficients: Mapping[str, float], features: Mapping[str, float], nano_per_second: float, sequences: int
) -> dict[str, int]:
    """Phase -> nano-dollars per million tokens with so many sequences decoding in every step.

    ``coefficients`` are seconds per unit of each feature (costing.fit), ``features`` the sums of recent work, and
    ``nano_per_second`` is what the GPUs of the engine index cost. A step with n sequences takes b_step + n (b_decode +
    b_attended L), L being the context that an output token attends to, and brings n tokens:

        decode   price x (b_step / n + b_decode + b_attended L)
        prefill  price x (b_prefill + b_context C),    C = the context that a prompt token is computed with

    Requests keep the lengths that they have of late. A prompt's own part of a step's fixed time is left out: among n
    it is small. Images are left out, since an encoder's steps are not shared so. A phase without recent work is not in
    the result, and nothing is where the price is 0 or unknown.
    """
    if sequences < 1:
        raise ValueError(f"sequences must be at least 1, not {sequences}")
    seconds = {}
    decoded, computed = features.get(f.DECODE_TOKENS, 0.0), features.get(f.PREFILL_TOKENS, 0.0)
    if decoded > 0:
        attended = features.get(f.ATTENDED, 0.0) / decoded
        own = coefficients[f.DECODE_TOKENS] + coefficients[f.ATTENDED] * attended
        seconds[c.DECODE] = coefficients[f.STEPS] / sequences + own
    if computed > 0:
        context = features.get(f.PREFILL_CONTEXT, 0.0) / computed
        seconds[c.PREFILL] = coefficients[f.PREFILL_TOKENS] + coefficients[f.PREFILL_CONTEXT] * context
    costs = {phase: round(nano_per_second * each * MILLION) for phase, each in seconds.items()}
    return {phase: nano for phase, nano in costs.items() if nano > 0}
