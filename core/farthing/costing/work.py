"""Which request did which part of a window's work: the claims that settlement weighs.

Decode is exact by position: a sequence decodes in every decoding step after its first token up to its last.
Prefill is poured: a step's prefill tokens go to the sequences scheduled before it, nearest first token first
(the order in which a first-come scheduler must have served them). A request whose prompt length nobody told
(it was aborted) takes what the known ones leave over in the steps before its first token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from farthing.costing import fit as f
from farthing.costing.marks import MarkTrack
from farthing.domain.conventions import DECODE, PREFILL, VISION
from farthing.domain.money import split
from farthing.domain.records import EngineSequence, RecordKey, Usage

__all__ = ["Claim", "WindowWork", "Work", "measure", "works_of"]

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

    def seconds(self, b: dict[str, float]) -> dict[str, float]:
        """Modelled seconds by phase at coefficients ``b``."""
        prefill = b[f.STEPS] * self.prefill_fixed + b[f.PREFILL_TOKENS] * self.prefill_tokens
        decode = b[f.STEPS] * self.decode_fixed + b[f.DECODE_TOKENS] * self.decode_tokens
        return {
            PREFILL: prefill + b[f.PREFILL_CONTEXT] * self.prefill_context,
            DECODE: decode + b[f.ATTENDED] * self.attended,
            VISION: b[f.ENCODER_TOKENS] * self.encoder_tokens + b[f.ENCODER_STEPS] * self.encoder_fixed,
        }


@dataclass(slots=True)
class WindowWork:
    """A window's features, the claims on it, and the engine's tokens that nobody claims, by phase."""

    features: dict[str, float]
    shares: dict[str, float]
    """Steps by phase: a mixed step counts by its requests."""
    units: dict[str, int]
    """What the engine did, by phase: prompt tokens prefilled, request-steps decoded, tokens encoded. Speculation
    schedules several tokens a step, so decoding is counted by who took part."""
    unclaimed: dict[str, float]
    """Units that no request claims."""
    recomputed: dict[str, float] = field(default_factory=lambda: {PREFILL: 0.0, DECODE: 0.0, VISION: 0.0})
    """Tokens computed once more after preemptions, in the phase that the engine counted them in."""
    recomputed_fixed: float = 0.0
    """Share of the steps' fixed part that the recomputing prefills carry."""
    recomputed_context: float = 0.0
    """Their tokens x context."""
    claims: dict[RecordKey, Claim] = field(default_factory=dict)

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
        )
    ]


def _known(usage: Usage, sequence: EngineSequence, track: MarkTrack) -> Work:
    last = track.nearest(sequence.last_ns)
    first = track.nearest(sequence.first_ns) if sequence.first_ns is not None else last
    first = min(first, last)
    steps = track.decode_steps_through(last) - track.decode_steps_through(first)
    decoded = max(0, sequence.output_tokens - 1)
    if 0 < abs(steps - decoded) <= SLACK and sequence.preemptions == 0:
        # one token a step: the count of tokens tells the first mark better than two clocks do
        target = track.decode_steps_through(last) - decoded
        first = track.base + int(np.searchsorted(track.decode_steps, target))
        first = min(first, last)
        steps = track.decode_steps_through(last) - track.decode_steps_through(first)
    computed = max(0, sequence.prompt_tokens - sequence.cached_tokens)
    image = usage.image_tokens or 0
    if sequence.prompt_tokens:
        image = min(image, computed)
    return Work(
        key=usage.key,
        usage=usage,
        scheduled_ns=sequence.scheduled_ns,
        first=first,
        last=last,
        prompt_left=computed,
        image_left=image,
        context=sequence.cached_tokens,
        rate=decoded / steps if steps else 0.0,
        has_output=sequence.first_ns is not None,
        preemptions=sequence.preemptions,
        prompt=sequence.prompt_tokens,
        decoded=sequence.output_tokens,
    )


def measure(track: MarkTrack, works: Iterable[Work], lo: int, hi: int) -> WindowWork:
    """The work of the marks at positions [lo, hi); pours prefill, so call it once per window, in order."""
    c = {name: values[lo - track.base : hi - track.base] for name, values in track.columns.items()}
    prefills, decodes = c["prefill_requests"], c["decode_requests"]
    requests = np.maximum(prefills + decodes, 1)
    is_step = (prefills + decodes) > 0
    prefill_share = float(np.where(is_step, prefills / requests, 0.0).sum())
    steps = float(is_step.sum())
    result = WindowWork(
        features={
            f.STEPS: steps,
            f.PREFILL_TOKENS: float(c["prefill_tokens"].sum()),
            f.PREFILL_CONTEXT: 0.0,
            f.DECODE_TOKENS: float(c["decode_tokens"].sum()),
            f.ATTENDED: 0.0,
            f.ENCODER_STEPS: float((c["encoder_tokens"] > 0).sum()),
            f.ENCODER_TOKENS: float(c["encoder_tokens"].sum()),
        },
        shares={PREFILL: prefill_share, DECODE: steps - prefill_share},
        units={
            PREFILL: int(c["prefill_tokens"].sum()),
            DECODE: int(decodes.sum()),
            VISION: int(c["encoder_tokens"].sum()),
        },
        unclaimed={},
    )
    active = [work for work in works if work.first + SLACK >= lo or work.last >= lo]
    result.unclaimed, unclaimed_fixed = _pour(track, active, lo, hi, result)
    claimed = 0.0
    for work in active:
        claimed += _decode(track, work, lo, hi, result)
    result.unclaimed[DECODE] = max(0.0, result.units[DECODE] - claimed)
    _recompute(track, active, lo, hi, result, unclaimed_fixed)
    return result


def _recompute(  # noqa: PLR0917 - a window's parts
    track: MarkTrack, works: list[Work], lo: int, hi: int, result: WindowWork, unclaimed_fixed: float
) -> None:
    """Tell recomputed work from lost records: only where a preempted request was there, and no more than it explains.

    The engine says how often a sequence was preempted, not when: what nobody claims in its time is its recomputation.
    """
    explained = sum(work.preemptions * (work.prompt + work.decoded) for work in works)
    if not explained:
        return
    again = min(result.unclaimed[PREFILL], float(explained))
    result.recomputed[PREFILL] = again
    if again:
        preempted = [work for work in works if work.preemptions]
        length = sum(work.prompt for work in preempted) / len(preempted)
        result.recomputed_context = again * length / 2
        result.features[f.PREFILL_CONTEXT] += result.recomputed_context
        result.recomputed_fixed = unclaimed_fixed * again / result.unclaimed[PREFILL]
    result.unclaimed[PREFILL] -= again
    usual = track.decode_scheduled_through(hi - 1) - track.decode_scheduled_through(lo - 1)
    steps = track.decode_steps_through(hi - 1) - track.decode_steps_through(lo - 1)
    each = usual / steps if steps else 0.0
    beyond = result.features[f.DECODE_TOKENS] - each * result.units[DECODE]
    # a handful of tokens is the variation of drafts; a recomputed sequence is hundreds
    result.recomputed[DECODE] = min(max(0.0, beyond), explained - again)


def _claim(result: WindowWork, work: Work) -> Claim:
    claim = result.claims.get(work.key)
    if claim is None:
        claim = result.claims[work.key] = Claim(work.usage)
    return claim


def _decode(track: MarkTrack, work: Work, lo: int, hi: int, result: WindowWork) -> float:
    begin, end = max(work.first, lo - 1), min(work.last, hi - 1)
    if end <= begin or not work.has_output:
        return 0.0
    through = track.decode_steps_through
    before, steps = through(begin) - through(work.first), through(end) - through(begin)
    if not steps or not work.rate:
        return 0.0
    claim = _claim(result, work)
    # a sequence that was preempted sat out some of the steps; which ones, nobody tells
    part = min(1.0, work.rate)
    # a step attends the prompt, the first token and what was decoded before it: an arithmetic series
    attended = part * (steps * (work.context + 1 + before * work.rate) + work.rate * steps * (steps - 1) / 2)
    claim.decode_tokens += part * (track.decode_scheduled_through(end) - track.decode_scheduled_through(begin))
    claim.attended += attended
    claim.decode_fixed += part * (track.decode_fixed_through(end) - track.decode_fixed_through(begin))
    result.features[f.ATTENDED] += attended
    return part * steps


def _pour(track: MarkTrack, works: list[Work], lo: int, hi: int, result: WindowWork) -> tuple[dict[str, float], float]:
    """Pour each step's prompt tokens; returns what nobody claims by phase, and its share of the steps' fixed part."""
    at, base = track.columns["at_ns"], track.base
    tokens, encoder = track.columns["prefill_tokens"], track.columns["encoder_tokens"]
    pending = sorted(
        (w for w in works if w.prompt_left is None or w.prompt_left > 0),
        key=lambda w: (w.first, w.scheduled_ns, w.key),
    )
    unclaimed, fixed = {PREFILL: 0.0, VISION: 0.0}, 0.0
    active = np.flatnonzero((tokens[lo - base : hi - base] > 0) | (encoder[lo - base : hi - base] > 0)) + lo
    for position in active.tolist():
        i = position - base
        left = int(tokens[i])
        requests = int(track.columns["prefill_requests"][i] + track.columns["decode_requests"][i])
        moment = int(at[i])
        eligible = [w for w in pending if w.scheduled_ns < moment and w.first + SLACK >= position]
        poured: list[tuple[Work, int]] = []
        for work in eligible:
            if left == 0:
                break
            if work.prompt_left:
                amount = min(work.prompt_left, left)
                work.prompt_left -= amount
                left -= amount
                poured.append((work, amount))
        unknown = [w for w in eligible if w.prompt_left is None] if left else []
        if unknown:
            poured.extend(zip(unknown, split(left, [1] * len(unknown)), strict=True))
            left = 0
        for work, amount in poured:
            claim = _claim(result, work)
            context = amount * (work.context + amount / 2)
            work.context += amount
            claim.prefill_tokens += amount
            claim.prefill_context += context
            claim.prefill_fixed += 1 / max(requests, 1)
            result.features[f.PREFILL_CONTEXT] += context
        if left:
            unclaimed[PREFILL] += left
            fixed += max(0, int(track.columns["prefill_requests"][i]) - len(poured)) / max(requests, 1)
        if encoder[i]:
            unclaimed[VISION] += _encode(poured, int(encoder[i]), result)
        pending = [w for w in pending if w.prompt_left is None or w.prompt_left > 0]
    return unclaimed, fixed


def _encode(poured: list[tuple[Work, int]], tokens: int, result: WindowWork) -> int:
    """Give a step's encoder tokens to the prompts it prefilled; returns what none of them claims.

    Which images came from the encoder cache nobody tells. Where exactly one set of prompts has images of just these
    tokens, they were encoded; else the prompts with images share by their images' size, and failing those the prompts
    of unknown content (aborted), then all.
    """
    with_images = [(work, work.image_left) for work, _ in poured if work.image_left > 0]
    chosen = _only_subset([size for _, size in with_images], tokens)
    if chosen is not None:
        takers = [with_images[i] for i in chosen]
    else:
        sizes = (
            with_images or [(w, 1) for w, _ in poured if w.prompt_left is None] or [(w, max(1, a)) for w, a in poured]
        )
        if not sizes:
            return tokens
        shares = split(tokens, [size for _, size in sizes])
        takers = [(work, share) for (work, _), share in zip(sizes, shares, strict=True) if share]
    for work, take in takers:
        work.image_left = max(0, work.image_left - take)
        claim = _claim(result, work)
        claim.encoder_tokens += take
        claim.encoder_fixed += take / tokens
    return 0


def _only_subset(sizes: list[int], total: int) -> list[int] | None:
    """Indices of the only subset of ``sizes`` that adds up to ``total``; None when there is none, or more than one."""
    if not sizes or len(sizes) > _MOST_IMAGES or sum(sizes) < total:
        return None
    ways: dict[int, list[int] | None] = {0: []}
    for i, size in enumerate(sizes):
        for reached, used in list(ways.items()):
            longer = reached + size
            if longer <= total:
                ways[longer] = None if longer in ways or used is None else [*used, i]
    return ways.get(total)


_MOST_IMAGES = 24
"""Prompts with images in one step for which subsets are tried; their sums are few, since images have few sizes."""
