"""Requests as work on an engine's steps, and the claims on a window that settlement weighs."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.costing import fit as f
from farthing.costing.marks import Floats, MarkTrack
from farthing.domain.conventions import DECODE, PREFILL, REJECTED, VISION
from farthing.domain.records import EngineSequence, Usage

__all__ = ["SLACK", "Claim", "WindowWork", "Work", "works_of"]

_UNITS = {PREFILL: f.PREFILL_TOKENS, VISION: f.ENCODER_TOKENS}
SLACK = 3
"""Marks by which a clock reading of a sequence may miss its step (two processes' clocks meet in a record)."""


@dataclass(slots=True)
class Work:
    """One sequence's remaining work, in positions of the mark track."""

    usage: Usage
    scheduled_ns: int
    first: int
    """Position of the mark that brought its first token, or up to which it may have been prefilled."""
    last: int
    """Position of the mark that brought its last token; equal to ``first`` when it decoded nothing."""
    has_output: bool
    steps_before: float = 0.0
    """Decoding steps of the boot through ``first``."""
    rate: float = 0.0
    """Output tokens per decoding step: 1, more with speculation, less when it was preempted."""
    part: float = 0.0
    """Share of the decoding steps that it took part in: a sequence that was preempted sat out some."""
    prompt_left: int | None = None
    """Prompt tokens still to be poured; None: unknown."""
    image_left: int = 0
    context: int = 0
    """Tokens before the next prompt token: cached ones and those poured so far."""
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


@dataclass(slots=True)
class WindowWork:
    """A window's features, the claims on it, and the engine's tokens that nobody claims, by phase."""

    features: dict[str, float]
    rows: Floats
    """The same features in parts of half a second, shape (n, len(fit.FEATURES)): what a fit learns from."""
    busy: Floats
    """Busy seconds of each row."""
    totals: dict[str, float]
    """What the marks counted, by name of the sum (see ``MarkTrack``)."""
    unclaimed: dict[str, float]
    """Units that no request claims."""
    recomputed: float = 0.0
    """Tokens computed once more after preemptions: prefills, all of them."""
    recomputed_fixed: float = 0.0
    """Share of the steps' fixed part that the recomputing prefills carry."""
    recomputed_context: float = 0.0
    """Their tokens x context."""
    claims: tuple[Claim, ...] = ()
    """In the order of the requests' keys."""

    def units(self, phase: str) -> float:
        """What the engine did in a phase: tokens prefilled, once more ones included, request-steps decoded, tokens
        encoded. Speculation schedules several tokens a step, so decoding is counted by who took part.
        """
        return self.totals["decode_requests"] if phase == DECODE else self.features[_UNITS[phase]]

    def claim_weights(self, phase: str, b: dict[str, float], unit: int) -> list[int]:
        """What each claim did in a phase at coefficients ``b``: whole numbers, ``unit`` of them a modelled second."""
        claims = self.claims
        if phase == PREFILL:
            step, token, context = b[f.STEPS], b[f.PREFILL_TOKENS], b[f.PREFILL_CONTEXT]
            return [
                round((step * c.prefill_fixed + token * c.prefill_tokens + context * c.prefill_context) * unit)
                for c in claims
            ]
        if phase == DECODE:
            step, token, context = b[f.STEPS], b[f.DECODE_TOKENS], b[f.ATTENDED]
            return [
                round((step * c.decode_fixed + token * c.decode_tokens + context * c.attended) * unit) for c in claims
            ]
        step, token = b[f.ENCODER_STEPS], b[f.ENCODER_TOKENS]
        return [round((token * c.encoder_tokens + step * c.encoder_fixed) * unit) for c in claims]

    def pool_seconds(self, b: dict[str, float]) -> float:
        """Modelled seconds of recomputed prefills: nobody's own, shared by who held the KV cache."""
        fixed, context = b[f.STEPS] * self.recomputed_fixed, b[f.PREFILL_CONTEXT] * self.recomputed_context
        return b[f.PREFILL_TOKENS] * self.recomputed + fixed + context

    def seconds(self, b: dict[str, float]) -> tuple[float, float, float]:
        """Modelled seconds of the whole window at coefficients ``b``, in the order of the phases; a mixed step counts
        by its requests.
        """
        x, prefills = self.features, self.totals["prefill_share"]
        prefill = b[f.STEPS] * prefills + b[f.PREFILL_TOKENS] * x[f.PREFILL_TOKENS]
        decode = b[f.STEPS] * (x[f.STEPS] - prefills) + b[f.DECODE_TOKENS] * x[f.DECODE_TOKENS]
        return (
            prefill + b[f.PREFILL_CONTEXT] * x[f.PREFILL_CONTEXT],
            decode + b[f.ATTENDED] * x[f.ATTENDED],
            b[f.ENCODER_TOKENS] * x[f.ENCODER_TOKENS] + b[f.ENCODER_STEPS] * x[f.ENCODER_STEPS],
        )


def works_of(usage: Usage, track: MarkTrack) -> list[Work]:
    """The sequences of a request as work on a track that has marks; none when it never reached the engine."""
    if len(usage.sequences) == 1:
        return [_known(usage, usage.sequences[0], track)]
    if usage.sequences:
        return [_known(usage, sequence, track) for sequence in usage.sequences]
    return [] if usage.outcome == REJECTED else [_unseen(usage, track)]


def _unseen(usage: Usage, track: MarkTrack) -> Work:
    """A request of which the engine said nothing."""
    ended = track.position_after(usage.ended_ns) - 1
    first = track.position_after(usage.first_ns) - 1 if usage.first_ns is not None else ended
    work = Work(usage, usage.arrived_ns, first, max(first, ended), usage.first_ns is not None)
    work.steps_before = track.decoded_through(first)[0] if first >= track.base else 0.0
    work.rate = work.part = 1.0 if work.has_output else 0.0
    work.context = work.cached = usage.cached_tokens or 0
    work.image_left = usage.image_tokens or 0
    if usage.prompt_tokens is not None:
        work.prompt = usage.prompt_tokens
        work.prompt_left = work.computed = usage.prompt_tokens - work.cached
    return work


def _known(usage: Usage, sequence: EngineSequence, track: MarkTrack) -> Work:
    # attributes are set one by one: arguments by keyword take several times as long, for every sequence
    first_ns, last_ns = sequence.first_ns, sequence.last_ns
    last = track.nearest(last_ns)
    if first_ns is not None and first_ns < track.begin_ns <= last_ns:
        work = _rest(usage, sequence, track, last)
    else:
        first = last if first_ns is None else min(track.nearest(first_ns), last)
        prompt, cached = sequence.prompt_tokens, sequence.cached_tokens
        work = Work(usage, sequence.scheduled_ns, first, last, first_ns is not None)
        work.image_left = usage.image_tokens or 0
        work.context = cached
        work.prompt_left = work.computed = prompt - cached if prompt > cached else 0
        _decodes(work, sequence, track)
    work.preemptions = sequence.preemptions
    work.prompt = sequence.prompt_tokens
    work.cached = sequence.cached_tokens
    work.decoded = sequence.output_tokens
    return work


def _decodes(work: Work, sequence: EngineSequence, track: MarkTrack) -> None:
    """Find the mark of the first token, and over how many steps the others were decoded."""
    before, scheduled_before = track.decoded_through(work.first)
    through, scheduled = track.decoded_through(work.last)
    steps = through - before
    decoded = sequence.output_tokens - 1 if sequence.output_tokens else 0
    if scheduled - scheduled_before > steps + 0.5 or sequence.preemptions:
        # drafts, or steps sat out: the first token is where the engine counted so long a prompt
        work.first = min(_counted(track, work.first, work.computed), work.last)
        before, _ = track.decoded_through(work.first)
        steps = through - before
    elif steps != decoded and abs(steps - decoded) <= SLACK:
        # one token a step: the count of tokens tells the first mark better than two clocks do
        work.first = min(track.decode_step(through - decoded), work.last)
        before, _ = track.decoded_through(work.first)
        steps = through - before
    work.steps_before = before
    if decoded and steps and work.has_output:
        work.rate = decoded / steps
        work.part = work.rate if decoded < steps else 1.0


def _rest(usage: Usage, sequence: EngineSequence, track: MarkTrack, last: int) -> Work:
    """What is left of a sequence whose record came after the windows of its beginning had settled."""
    work = Work(usage, sequence.scheduled_ns, track.base, last, has_output=True)
    decoded = max(0, sequence.output_tokens - 1)
    first_ns = sequence.first_ns or 0
    left = round(decoded * (sequence.last_ns - track.begin_ns) / (sequence.last_ns - first_ns))
    work.prompt_left = 0
    work.context = sequence.prompt_tokens + decoded - left
    work.steps_before, _ = track.decoded_through(track.base)
    steps = track.decoded_through(last)[0] - work.steps_before
    if left and steps:
        work.rate = left / steps
        work.part = work.rate if left < steps else 1.0
    return work


def _counted(track: MarkTrack, position: int, tokens: int) -> int:
    """The mark nearest to a position that counted at least so many computed prompt tokens; else the position."""
    for offset in sorted(range(-SLACK, SLACK + 1), key=abs):
        i = position + offset
        if track.base <= i < track.end and track.prompt_computed(i) >= tokens:
            return i
    return position
