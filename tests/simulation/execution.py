"""A step's duration by the law, and what of it is whose: the truth that costing is tested against.

Each request is charged its own marginal work, an equal share of the step's fixed part (and, among those with images
in it, of the encoder's fixed part), and noise in proportion to both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tests.simulation.config import StepLaw
from tests.simulation.scheduler import Chunk, Plan
from tests.simulation.slots import DecodeSlots

__all__ = ["Noise", "PhaseTimes", "PricedStep", "price"]

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class PhaseTimes:
    """Nanoseconds of a step by what they were for; ``again`` is work that a preemption had undone."""

    prefill: float = 0.0
    decode: float = 0.0
    vision: float = 0.0
    again: float = 0.0


@dataclass(slots=True)
class PricedStep:
    """A planned step and its nanoseconds by the law, before noise."""

    plan: Plan
    fixed_ns: float
    """Each request's share of the step's fixed part."""
    decode_ns: Floats
    """Marginal work of each decoding slot."""
    law: StepLaw
    width: int
    total_ns: float

    def accrue(self, slots: DecodeSlots, scale: float) -> PhaseTimes:
        """Charge the step, at ``scale`` times its price, to the sequences in it; returns its phases."""
        plan, times = self.plan, PhaseTimes()
        if len(plan.order):
            shares = (self.decode_ns + self.fixed_ns) * scale
            slots.work_ns[plan.order] += shares
            times.decode += float(shares.sum())
        for ghost in plan.ghosts:
            amount = (self.fixed_ns + _decode(self.law, self.width, ghost.ghost_context)) * scale
            ghost.decode_ns += amount
            times.decode += amount
        encoding = sum(1 for chunk in plan.chunks if chunk.encoder_tokens)
        for chunk in plan.chunks:
            self._accrue(chunk, scale, encoding, times)
        if times.again:
            self._pool(slots, times.again)
        return times

    def _pool(self, slots: DecodeSlots, again_ns: float) -> None:
        """Share what preemptions undid over those who held the KV cache, by tokens; nobody held any: by tokens redone.

        It is a second way to look at ``again``, by who left no room instead of by who had to make it.
        """
        plan = self.plan
        held = float(plan.contexts.sum()) + sum(chunk.start for chunk in plan.chunks)
        if not held:
            redone = sum(chunk.rework for chunk in plan.chunks)
            for chunk in plan.chunks:
                chunk.sequence.pool_ns += again_ns * chunk.rework / redone
            return
        slots.pool_ns[plan.order] += again_ns * plan.contexts / held
        for chunk in plan.chunks:
            chunk.sequence.pool_ns += again_ns * chunk.start / held

    def _accrue(self, chunk: Chunk, scale: float, encoding: int, times: PhaseTimes) -> None:
        law, sequence = self.law, chunk.sequence
        rework = chunk.rework
        fresh = chunk.tokens - rework
        again = _prefill(law, chunk.start, rework) + self.fixed_ns * rework / chunk.tokens
        first = _prefill(law, chunk.start + rework, fresh) + self.fixed_ns * fresh / chunk.tokens
        vision = 0.0
        if chunk.encoder_tokens:
            encoder = law.encoder_token_ns * chunk.encoder_tokens + law.encoder_step_ns / encoding
            repeated = encoder * chunk.encoder_again / chunk.encoder_tokens
            again += repeated
            vision = encoder - repeated
        sequence.again_ns += again * scale
        sequence.vision_ns += vision * scale
        times.again += again * scale
        times.vision += vision * scale
        if chunk.resumed:
            # beyond the rework of a sequence that had output there is one token, which is decoding
            sequence.decode_ns += first * scale
            times.decode += first * scale
        else:
            sequence.prefill_ns += first * scale
            times.prefill += first * scale


def price(plan: Plan, law: StepLaw, width: int) -> PricedStep:
    """What the law says of a planned step, in which a decoding sequence computes ``width`` tokens."""
    decode: Floats = law.decode_token_ns * width + law.attended_token_ns * (plan.contexts + width).astype(np.float64)
    total = law.step_ns + float(decode.sum())
    for ghost in plan.ghosts:
        total += _decode(law, width, ghost.ghost_context)
    encoder_tokens = 0
    for chunk in plan.chunks:
        total += _prefill(law, chunk.start, chunk.tokens)
        encoder_tokens += chunk.encoder_tokens
    if encoder_tokens:
        total += law.encoder_token_ns * encoder_tokens + law.encoder_step_ns
    return PricedStep(plan, law.step_ns / plan.requests, decode, law, width, total)


def _decode(law: StepLaw, width: int, context: int) -> float:
    return law.decode_token_ns * width + law.attended_token_ns * (context + width)


def _prefill(law: StepLaw, start: int, tokens: int) -> float:
    """Tokens at positions from ``start`` on, each attending everything up to itself."""
    attended = tokens * start + tokens * (tokens + 1) / 2
    return law.prefill_token_ns * tokens + law.prefill_context_ns * attended


class Noise:
    """Factors of successive steps, and stalls; drawn in blocks because one draw at a time is slow."""

    _BLOCK = 4096

    def __init__(self, law: StepLaw, rng: np.random.Generator) -> None:
        self._law = law
        self._rng = rng
        self._drift = 0.0
        self._drawn: list[tuple[float, float]] = []

    def duration_ns(self, priced_ns: float) -> int:
        """A step's true duration, at least a nanosecond."""
        if not self._drawn:
            self._draw()
        factor, stall = self._drawn.pop()
        return max(1, round(priced_ns * factor + stall))

    def _draw(self) -> None:
        law, rng, size = self._law, self._rng, self._BLOCK
        logs = rng.normal(-(law.noise**2) / 2, law.noise, size)
        if law.drift:
            steps = rng.normal(0, law.drift, size) * np.sqrt(1 - _KEEP**2)
            for i, step in enumerate(steps.tolist()):
                self._drift = self._drift * _KEEP + step
                logs[size - 1 - i] += self._drift
        stalls = np.zeros(size)
        if law.stall_probability:
            stalls = np.where(rng.random(size) < law.stall_probability, rng.exponential(law.stall_ns, size), 0.0)
        self._drawn = list(zip(np.exp(logs).tolist(), stalls.tolist(), strict=True))


_KEEP = 0.999
"""How much of the drift one step leaves to the next."""
