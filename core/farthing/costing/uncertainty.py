"""Between which bounds a phase's part of busy cost lies, as far as the fit of busy time can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from farthing.costing import fit as f
from farthing.domain import conventions as c
from farthing.domain.model import Fit

__all__ = ["phase_bounds"]

_OWN: Final = {
    c.PREFILL: (f.PREFILL_TOKENS, f.PREFILL_CONTEXT),
    c.DECODE: (f.DECODE_TOKENS, f.ATTENDED),
    c.VISION: (f.ENCODER_STEPS, f.ENCODER_TOKENS),
}
"""Phase -> the features that are its alone; the steps' fixed part is shared by requests."""


def phase_bounds(fit: Fit, features: Mapping[str, float], nano: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Phase -> the least and the most of the same busy cost that it may have taken, in nano-dollars.

    ``features`` are the sums of the work (costing.fit), ``nano`` what each phase was settled at; the busy cost itself
    is metered and only its split is in doubt. The least is with each coefficient of the phase at the lower end of its
    90 % interval and every other at its upper end, the most the other way round. That is wider than an interval of the
    share would be: features that move together err together, not against each other. On the recorded engines it holds
    the per-step reference and every set of features that predicts well, which an interval of the share from one set of
    features does not (docs/accuracy.md). The part of the steps' fixed time that prompts carry is as it was settled.

    Nothing is known, and nothing returned, of a phase without cost, without a fit of this engine's own work, or where
    the intervals have no end.
    """
    settled = sum(nano.values())
    names = (f.STEPS, *(name for own in _OWN.values() for name in own))
    if settled <= 0 or fit.method == c.ASSUMED or any(name not in fit.intervals for name in names):
        return {}
    modelled = {name: fit.coefficients[name] * features.get(name, 0.0) for name in names}
    whole = sum(modelled.values())
    if whole <= 0:
        return {}
    prompts = nano.get(c.PREFILL, 0) / settled * whole - sum(modelled[name] for name in _OWN[c.PREFILL])
    of_steps = min(max(prompts / modelled[f.STEPS], 0.0), 1.0) if modelled[f.STEPS] > 0 else 0.0
    found = {}
    for phase, own in _OWN.items():
        cost = nano.get(phase, 0)
        part = {c.PREFILL: of_steps, c.DECODE: 1.0 - of_steps}.get(phase, 0.0)
        weights = {name: float(name in own) for name in names} | {f.STEPS: part}
        share = sum(modelled[name] * weights[name] for name in names) / whole
        if cost <= 0 or share <= 0:
            continue
        least, most = (_extreme(fit, features, weights, end) for end in (0, 1))
        if math.isfinite(least) and math.isfinite(most):
            low, high = min(cost, round(cost * least / share)), max(cost, round(cost * most / share))
            found[phase] = low, min(high, settled)
    return found


def _extreme(fit: Fit, features: Mapping[str, float], weights: Mapping[str, float], end: int) -> float:
    """A phase's share with its own coefficients at one end of their intervals and the others' at the other."""
    own = sum(weight * features.get(name, 0.0) * fit.intervals[name][end] for name, weight in weights.items())
    rest = sum(
        (1 - weight) * features.get(name, 0.0) * fit.intervals[name][1 - end] for name, weight in weights.items()
    )
    return own / (own + rest) if own + rest > 0 else math.nan
