"""Requests as work on an engine's steps, and the claims on a window that settlement weighs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from farthing.costing import fit as f
from farthing.costing.marks import MarkTrack
from farthing.domain.conventions import DECODE, PREFILL, VISION
from farthing.domain.records import EngineSequence, RecordKey, Usage

__all__ = ["SLACK", "Claim", "WindowWork", "Work", "works_of"]

Floats = npt.NDArray[np.float64]
SLACK = 3
"""Marks by which a clock reading of a sequence may miss its step (two processes' clocks meet in a record)."""


@dataclass(slots=True)
class Work:
    """One sequence's remaining work, in positions of the mark track."""

    key: RecordKey
    usage: Usage
    scheduled_ns: int
    first: int
    """Position of the mark that brought its first token, or up to which it may have been prefilled."""
    last: int
    """Position of the mark that brought its last token; equal to ``first`` when it decoded nothing."""
    prompt_left: int | None
    """Prompt tokens still to be poured; None: unknown."""
    image_left: int
    context: int
    """Tokens before the next prompt token: cached ones and those poured so far."""
    rate: float
    """Output tokens per decoding step: 1, more with speculation, less when it was preempted."""
    has_output: bool
    preemptions: int = 0
    prompt: int = 0
    """Prompt tokens, cached ones included."""
    computed: int = 0
    """Prompt tokens that were not cached."""
    cached: int = 0
    decoded: int = 0
    """Output tokens."""


@dataclass(slots=True)
class Claim:
    """What one request did in one window, by feature."""

    usage: Usage
    prefill_tokens: int = 0
    prefill_context: float = 0.0
    prefill_fixed: float = 0.0
    decode_tokens: float = 0.0
    attended: float = 0.0
    decode_fixed: float = 0.0
    encoder_tokens: int = 0
    encoder_fixed: float = 0.0
    cached_tokens: int = 0
    """Prompt tokens taken from a cache, counted in the window in which its prefill began."""
    cached_images: int = 0
    """Image tokens that no encoder computed, counted in the window in which its prefill ended."""

    def saved_seconds(self, b: dict[str, float]) -> float:
        """Modelled seconds that the caches saved: computing the cached prefix, and encoding the images."""
        prefix = b[f.PREFILL_TOKENS] * self.cached_tokens + b[f.PREFILL_CONTEXT] * self.cached_tokens**2 / 2
        return prefix + b[f.ENCODER_TOKENS] * self.cached_images

    @property
    def saved(self) -> bool:
        """Whether a cache had anything for it."""
        return bool(self.cached_tokens or self.cached_images)


@dataclass(slots=True)
class WindowWork:
    """A window's features, the claims on it, and the engine's tokens that nobody claims, by phase."""

    features: dict[str, float]
    rows: Floats
    """The same features in parts of half a second, shape (n, len(fit.FEATURES)): what a fit learns from."""
    busy: Floats
    """Busy seconds of each row."""
    shares: dict[str, float]
    """Steps by phase: a mixed step counts by its requests."""
    units: dict[str, float]
    """What the engine did, by phase: tokens prefilled, once more ones included, request-steps decoded, tokens encoded.
    Speculation schedules several tokens a step, so decoding is counted by who took part."""
    unclaimed: dict[str, float]
    """Units that no request claims."""
    recomputed: dict[str, float] = field(default_factory=lambda: {PREFILL: 0.0, DECODE: 0.0, VISION: 0.0})
    """Tokens computed once more after preemptions."""
    recomputed_fixed: float = 0.0
    """Share of the steps' fixed part that the recomputing prefills carry."""
    recomputed_context: float = 0.0
    """Their tokens x context."""
    decode_steps: int = 0
    """Steps that decoded for anyone."""
    claims: tuple[Claim, ...] = ()
    """In the order of the requests' keys."""

    def claim_seconds(self, b: dict[str, float]) -> dict[str, Floats]:
        """Modelled seconds of each claim, by phase, at coefficients ``b``; arrays of one entry per claim."""
        columns = np.array(
            [
                (
                    c.prefill_fixed,
                    c.prefill_tokens,
                    c.prefill_context,
                    c.decode_fixed,
                    c.decode_tokens,
                    c.attended,
                    c.encoder_fixed,
                    c.encoder_tokens,
                )
                for c in self.claims
            ]
        ).reshape(-1, 8)
        fixed, tokens, context, decode_fixed, decode_tokens, attended, encodes, images = columns.T
        return {
            PREFILL: b[f.STEPS] * fixed + b[f.PREFILL_TOKENS] * tokens + b[f.PREFILL_CONTEXT] * context,
            DECODE: b[f.STEPS] * decode_fixed + b[f.DECODE_TOKENS] * decode_tokens + b[f.ATTENDED] * attended,
            VISION: b[f.ENCODER_TOKENS] * images + b[f.ENCODER_STEPS] * encodes,
        }

    def pool_seconds(self, b: dict[str, float]) -> dict[str, float]:
        """Modelled seconds of recomputed work by phase: nobody's own, shared by who held the KV cache."""
        fixed, context = b[f.STEPS] * self.recomputed_fixed, b[f.PREFILL_CONTEXT] * self.recomputed_context
        return {
            PREFILL: b[f.PREFILL_TOKENS] * self.recomputed[PREFILL] + fixed + context,
            DECODE: b[f.DECODE_TOKENS] * self.recomputed[DECODE],
            VISION: 0.0,
        }

    def seconds(self, b: dict[str, float]) -> dict[str, float]:
        """Modelled seconds of the whole window by phase at coefficients ``b``."""
        x = self.features
        prefill = b[f.STEPS] * self.shares[PREFILL] + b[f.PREFILL_TOKENS] * x[f.PREFILL_TOKENS]
        decode = b[f.STEPS] * self.shares[DECODE] + b[f.DECODE_TOKENS] * x[f.DECODE_TOKENS]
        return {
            PREFILL: prefill + b[f.PREFILL_CONTEXT] * x[f.PREFILL_CONTEXT],
            DECODE: decode + b[f.ATTENDED] * x[f.ATTENDED],
            VISION: b[f.ENCODER_TOKENS] * x[f.ENCODER_TOKENS] + b[f.ENCODER_STEPS] * x[f.ENCODER_STEPS],
        }


def works_of(usage: Usage, track: MarkTrack) -> list[Work]:
    """The sequences of a request as work on this track; empty when it never reached the engine."""
    if usage.sequences:
        return [_known(usage, sequence, track) for sequence in usage.sequences]
    if usage.outcome == "rejected" or not len(track):
        return []
    ended = track.position_after(usage.ended_ns) - 1
    first = track.position_after(usage.first_ns) - 1 if usage.first_ns is not None else ended
    prompt = None if usage.prompt_tokens is None else usage.prompt_tokens - (usage.cached_tokens or 0)
    return [
        Work(
            key=usage.key,
            usage=usage,
            scheduled_ns=usage.arrived_ns,
            first=first,
            last=max(first, ended),
            prompt_left=prompt,
            image_left=usage.image_tokens or 0,
            context=usage.cached_tokens or 0,
            rate=1.0,
            has_output=usage.first_ns is not None,
            prompt=usage.prompt_tokens or 0,
            computed=prompt or 0,
            cached=usage.cached_tokens or 0,
        )
    ]


def _known(usage: Usage, sequence: EngineSequence, track: MarkTrack) -> Work:
    begins = int(track.columns["at_ns"][0])
    if sequence.first_ns is not None and sequence.first_ns < begins <= sequence.last_ns and track.base:
        return _rest(usage, sequence, track, begins)
    last = track.nearest(sequence.last_ns)
    first = track.nearest(sequence.first_ns) if sequence.first_ns is not None else last
    first = min(first, last)
    through_last = track.decode_steps_through(last)
    steps = through_last - track.decode_steps_through(first)
    decoded = max(0, sequence.output_tokens - 1)
    computed = max(0, sequence.prompt_tokens - sequence.cached_tokens)
    scheduled = track.decode_scheduled_through(last) - track.decode_scheduled_through(first)
    if scheduled > steps + 0.5 or sequence.preemptions:
        # drafts, or steps sat out: the first token is where the engine counted so long a prompt
        first = min(_counted(track, first, computed), last)
        steps = track.decode_steps_through(last) - track.decode_steps_through(first)
    elif 0 < abs(steps - decoded) <= SLACK:
        # one token a step: the count of tokens tells the first mark better than two clocks do
        target = track.decode_steps_through(last) - decoded
        first = track.base + int(np.searchsorted(track.decode_steps, target))
        first = min(first, last)
        steps = track.decode_steps_through(last) - track.decode_steps_through(first)
    return Work(
        key=usage.key,
        usage=usage,
        scheduled_ns=sequence.scheduled_ns,
        first=first,
        last=last,
        prompt_left=computed,
        image_left=usage.image_tokens or 0,
        context=sequence.cached_tokens,
        rate=decoded / steps if steps else 0.0,
        has_output=sequence.first_ns is not None,
        preemptions=sequence.preemptions,
        prompt=sequence.prompt_tokens,
        computed=computed,
        cached=sequence.cached_tokens,
        decoded=sequence.output_tokens,
    )


def _rest(usage: Usage, sequence: EngineSequence, track: MarkTrack, begins: int) -> Work:
    """What is left of a sequence whose record came after the windows of its beginning had settled."""
    last = track.nearest(sequence.last_ns)
    steps = track.decode_steps_through(last) - track.decode_steps_through(track.base)
    decoded = max(0, sequence.output_tokens - 1)
    first_ns = sequence.first_ns or 0
    left = round(decoded * (sequence.last_ns - begins) / (sequence.last_ns - first_ns))
    return Work(
        key=usage.key,
        usage=usage,
        scheduled_ns=sequence.scheduled_ns,
        first=track.base,
        last=last,
        prompt_left=0,
        image_left=0,
        context=sequence.prompt_tokens + decoded - left,
        rate=left / steps if steps else 0.0,
        has_output=True,
        preemptions=sequence.preemptions,
        prompt=sequence.prompt_tokens,
        cached=sequence.cached_tokens,
        decoded=sequence.output_tokens,
    )


def _counted(track: MarkTrack, position: int, tokens: int) -> int:
    """The mark nearest to a position that counted at least so many computed prompt tokens; else the position."""
    counts = track.columns["prompt_computed"]
    for offset in sorted(range(-SLACK, SLACK + 1), key=abs):
        i = position - track.base + offset
        if 0 <= i < len(counts) and counts[i] >= tokens:
            return position + offset
    return position
