"""Measuring a window: who did which part of its steps.

Decode is exact by position: a sequence decodes in every decoding step after its first token up to its last.
Prefill is poured: a step's prefill tokens go to the sequences scheduled before it, nearest first token first
(the order in which a first-come scheduler must have served them). A request whose prompt length nobody told
(it was aborted) is given what the engine counted at its first token and no known request explains; failing that
it takes what the known ones leave over in the steps before it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from farthing.costing import fit as f
from farthing.costing.marks import Ints, MarkTrack
from farthing.costing.work import SLACK, Claim, WindowWork, Work
from farthing.domain.conventions import DECODE, PREFILL, VISION
from farthing.domain.money import split

__all__ = ["ROW_NS", "measure"]

Floats = npt.NDArray[np.float64]

STOPPED = "stop"
"""Finish reason of a sequence that ended itself, by a stop token or a stop string."""
ROW_NS = 500_000_000
"""A fit learns from half seconds: long enough for a mark that is 10-40 ms late (a prefill or an encoder that is
launched before a step's outputs are handed out delays them), short enough to see many kinds of load."""
_STEPS, _PREFILL_TOKENS = f.FEATURES.index(f.STEPS), f.FEATURES.index(f.PREFILL_TOKENS)
_PREFILL_CONTEXT, _DECODE_TOKENS = f.FEATURES.index(f.PREFILL_CONTEXT), f.FEATURES.index(f.DECODE_TOKENS)
_ATTENDED, _ENCODER_STEPS = f.FEATURES.index(f.ATTENDED), f.FEATURES.index(f.ENCODER_STEPS)
_ENCODER_TOKENS = f.FEATURES.index(f.ENCODER_TOKENS)
_MOST_IMAGES = 24
"""Prompts with images in one step for which subsets are tried; their sums are few, since images have few sizes."""


def measure(
    track: MarkTrack, works: Iterable[Work], lo: int, hi: int, *, start_ns: int = 0, busy_ns: Ints | None = None
) -> WindowWork:
    """The work of the marks at positions [lo, hi); pours prefill, so call it once per window, in order.

    ``busy_ns`` is the busy time before each mark (shape (hi - lo,)) and ``start_ns`` the window's start, for the rows
    that a fit learns from.
    """
    measurement = _Measurement(track, works, lo, hi)
    measurement.guess_prompts()
    measurement.pour()
    measurement.decode()
    measurement.overrun()
    measurement.recompute()
    return measurement.result(start_ns, np.zeros(hi - lo, np.int64) if busy_ns is None else busy_ns)


class _Measurement:
    """One window's work in progress; arrays have one entry per mark of the window."""

    def __init__(self, track: MarkTrack, works: Iterable[Work], lo: int, hi: int) -> None:
        self.track = track
        self.lo = lo
        self.hi = hi
        self.works = [work for work in works if max(work.first, work.last) + SLACK >= lo]
        self.c = {name: values[lo - track.base : hi - track.base] for name, values in track.columns.items()}
        self.requests = np.maximum(self.c["prefill_requests"] + self.c["decode_requests"], 1)
        self.is_step = (self.c["prefill_requests"] + self.c["decode_requests"]) > 0
        self.attended = np.zeros(hi - lo)
        self.context = np.zeros(hi - lo)
        self.claims: dict[int, Claim] = {}
        """By the identity of the usage record: cheaper than its key, and as good within a window."""
        self.taken = np.zeros(hi - lo + 1)
        """Differences of who took part in decoding, by mark."""
        self.lost_prefill = self.lost_fixed = self.lost_vision = self.lost_decode = 0.0
        self.again = self.again_fixed = self.again_context = 0.0
        self.resumed = np.zeros(hi - lo)
        """Tokens that the engine counted as decoding and that a preemption made it compute again, by mark."""

    def result(self, start_ns: int, busy_ns: Ints) -> WindowWork:
        """Everything measured."""
        c, matrix = self.c, np.empty((self.hi - self.lo, len(f.FEATURES)))
        matrix[:, _STEPS] = self.is_step
        matrix[:, _PREFILL_TOKENS] = c["prefill_tokens"] + self.resumed
        matrix[:, _PREFILL_CONTEXT] = self.context
        matrix[:, _DECODE_TOKENS] = c["decode_tokens"] - self.resumed
        matrix[:, _ATTENDED] = self.attended
        matrix[:, _ENCODER_STEPS] = c["encoder_tokens"] > 0
        matrix[:, _ENCODER_TOKENS] = c["encoder_tokens"]
        totals = matrix.sum(axis=0).tolist()
        rows, busy = _rows(matrix, busy_ns, c["at_ns"], start_ns)
        prefill = float((c["prefill_requests"] / self.requests).sum())
        return WindowWork(
            features=dict(zip(f.FEATURES, totals, strict=True)),
            rows=rows,
            busy=busy,
            shares={PREFILL: prefill, DECODE: totals[_STEPS] - prefill},
            units={
                PREFILL: totals[_PREFILL_TOKENS],
                DECODE: float(c["decode_requests"].sum()),
                VISION: totals[_ENCODER_TOKENS],
            },
            unclaimed={PREFILL: self.lost_prefill, DECODE: self.lost_decode, VISION: self.lost_vision},
            recomputed={PREFILL: self.again, DECODE: 0.0, VISION: 0.0},
            recomputed_fixed=self.again_fixed,
            recomputed_context=self.again_context,
            decode_steps=int((c["decode_requests"] > 0).sum()),
            claims=tuple(sorted(self.claims.values(), key=_by_key)),
        )

    def claim(self, work: Work) -> Claim:
        """The claim of a request on this window."""
        found = self.claims.get(id(work.usage))
        if found is None:
            found = self.claims[id(work.usage)] = Claim(work.usage)
        return found

    # ---- prefill -------------------------------------------------------------------------------

    def guess_prompts(self) -> None:
        """Prompts of aborted requests: what the engine counted as computed at their first token, less the known."""
        unknown = [w for w in self.works if w.prompt_left is None and w.has_output and self.lo <= w.first < self.hi]
        if not unknown:
            return
        known = np.zeros(self.hi - self.lo + 2 * SLACK, np.int64)
        cached = np.zeros_like(known)
        for work in self.works:
            i = work.first - self.lo + SLACK
            if work.prompt_left is not None and work.has_output and 0 <= i < len(known):
                known[i] += work.computed
                cached[i] += work.prompt - work.computed
        at: dict[int, list[Work]] = {}
        for work in sorted(unknown, key=lambda w: (w.first, w.key.process, w.key.sequence)):
            at.setdefault(work.first - self.lo, []).append(work)
        for i, works in at.items():
            computed, reused = self._counted(i, known, cached)
            if computed <= 0:
                continue
            for work, tokens, kept in zip(
                works, split(computed, [1] * len(works)), split(reused, [1] * len(works)), strict=True
            ):
                work.prompt_left = work.computed = tokens
                work.context = kept
                work.prompt = tokens + kept

    def _counted(self, i: int, known: Ints, cached: Ints) -> tuple[int, int]:
        """Computed and cached prompt tokens that ended at a mark (or beside it: clocks differ) and nobody explains."""
        for offset in (0, -1, 1, -2, 2):
            j = i + offset
            if 0 <= j < self.hi - self.lo:
                computed = int(self.c["prompt_computed"][j] - known[j + SLACK])
                if computed > 0:
                    known[j + SLACK] += computed
                    return computed, max(0, int(self.c["prompt_cached"][j] - cached[j + SLACK]))
        return 0, 0

    def pour(self) -> None:
        """Pour each step's prompt tokens over those who were being prefilled, and its images with them."""
        tokens, encoder, at = self.c["prefill_tokens"], self.c["encoder_tokens"], self.c["at_ns"]
        pending = sorted(
            (w for w in self.works if w.prompt_left is None or w.prompt_left > 0),
            key=lambda w: (w.first, w.scheduled_ns, w.key.process, w.key.sequence),
        )
        for i in ((tokens > 0) | (encoder > 0)).nonzero()[0].tolist():
            left, moment, position = int(tokens[i]), int(at[i]), i + self.lo
            # a late last mark makes all of a sequence's moments late: its first mark says that it was there before
            began = [w for w in pending if w.scheduled_ns < moment or w.first <= position]
            eligible = [w for w in began if w.first + SLACK >= position]
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
                self._prefilled(work, amount, i)
            if left:
                self.lost_prefill += left
                self.lost_fixed += max(0, int(self.c["prefill_requests"][i]) - len(poured)) / int(self.requests[i])
            if encoder[i]:
                self._encode(poured, int(encoder[i]))
            for work, _ in poured:
                if work.prompt_left == 0:
                    self.claim(work).cached_images += work.image_left
                    work.image_left = 0
            pending = [w for w in pending if w.prompt_left is None or w.prompt_left > 0]

    def _prefilled(self, work: Work, amount: int, i: int) -> None:
        claim = self.claim(work)
        if work.context == work.cached:
            claim.cached_tokens += work.cached
        context = amount * (work.context + amount / 2)
        work.context += amount
        claim.prefill_tokens += amount
        claim.prefill_context += context
        claim.prefill_fixed += 1 / int(self.requests[i])
        self.context[i] += context

    def _encode(self, poured: list[tuple[Work, int]], tokens: int) -> None:
        """Give a step's encoder tokens to the prompts that it prefilled.

        Which images came from the encoder cache nobody tells. Where exactly one set of prompts has images of just these
        tokens, they were encoded. Else prompts without any cached token come first, since theirs cannot have been
        computed before; the rest share by their images' size, and failing those the prompts of unknown content.
        """
        images = [(work, work.image_left) for work, _ in poured if work.image_left > 0]
        chosen = _only_subset([size for _, size in images], tokens)
        if chosen is not None:
            takers = [images[i] for i in chosen]
        elif images:
            fresh = [(work, size) for work, size in images if work.cached == 0]
            first = min(tokens, sum(size for _, size in fresh))
            takers = _shared(fresh, first)
            rest = [(work, size) for work, size in images if work.cached] or images
            takers += _shared(rest, tokens - first)
        else:
            unknown = [(work, 1) for work, _ in poured if work.usage.image_tokens is None]
            takers = _shared(unknown or [(work, max(1, amount)) for work, amount in poured], tokens)
        self.lost_vision += tokens - sum(take for _, take in takers)
        for work, take in takers:
            work.image_left = max(0, work.image_left - take)
            claim = self.claim(work)
            claim.encoder_tokens += take
            claim.encoder_fixed += 1 / len(takers)

    # ---- decode --------------------------------------------------------------------------------

    def decode(self) -> None:
        """Every sequence's decoding in the window."""
        track, lo, hi = self.track, self.lo, self.hi
        through = track.decode_steps_through
        # attended context by step is linear in the sequence's own steps: two arrays of differences hold all of it
        level, slope = np.zeros(hi - lo + 1), np.zeros(hi - lo + 1)
        for work in self.works:
            begin, end = max(work.first, lo - 1), min(work.last, hi - 1)
            if end <= begin or not work.has_output or not work.rate:
                continue
            origin = through(work.first)
            before, steps = through(begin) - origin, through(end) - through(begin)
            if not steps:
                continue
            claim = self.claim(work)
            # a sequence that was preempted sat out some of the steps; which ones, nobody tells
            part = min(1.0, work.rate)
            # a step attends the prompt, the first token and what was decoded before it: an arithmetic series
            first = work.context + 1 + before * work.rate
            claim.attended += part * (steps * first + work.rate * steps * (steps - 1) / 2)
            claim.decode_tokens += part * (track.decode_scheduled_through(end) - track.decode_scheduled_through(begin))
            claim.decode_fixed += part * (track.decode_fixed_through(end) - track.decode_fixed_through(begin))
            i, j = begin + 1 - lo, end + 1 - lo
            self.taken[i] += part
            self.taken[j] -= part
            constant = part * (work.context + 1 - (origin + 1) * work.rate)
            level[i] += constant
            level[j] -= constant
            slope[i] += part * work.rate
            slope[j] -= part * work.rate
        steps_through = track.decode_steps[lo - track.base : hi - track.base]
        decodes = self.c["decode_requests"] > 0
        self.attended += decodes * (np.cumsum(level)[:-1] + np.cumsum(slope)[:-1] * steps_through)

    def overrun(self) -> None:
        """Claim the step that asynchronous scheduling began before it knew that a sequence had stopped by itself.

        The engine does not say so: it is claimed where the next step decoded for more requests than went on.
        """
        decodes = self.c["decode_requests"]
        free = decodes - np.cumsum(self.taken)[:-1] * (decodes > 0)
        stopped = [work for work in self.works if work.usage.finish_reason == STOPPED and work.has_output]
        steps = (free > 0.5).nonzero()[0] if stopped else ()
        for work in stopped:
            k = int(np.searchsorted(steps, work.last + 1 - self.lo))
            if k >= len(steps) or steps[k] + self.lo > work.last + SLACK or free[steps[k]] <= 0.5:
                continue
            j = int(steps[k])
            position = j + self.lo
            free[j] -= 1.0
            attended = float(work.prompt + work.decoded)
            claim = self.claim(work)
            track = self.track
            claim.decode_tokens += track.decode_scheduled_through(position) - track.decode_scheduled_through(
                position - 1
            )
            claim.decode_fixed += track.decode_fixed_through(position) - track.decode_fixed_through(position - 1)
            claim.attended += attended
            self.attended[j] += attended
        self.lost_decode = max(0.0, float(free.sum()))

    def recompute(self) -> None:
        """Tell recomputed work from lost records: only where a preempted request was, and no more than it explains.

        The engine says how often a sequence was preempted, not when: what nobody claims in its time is its
        recomputation. The engine counts a resumed sequence's chunk as prefill before its first token and as decoding
        after it; either way it takes the time of a prefill, and is one here.
        """
        preempted = [work for work in self.works if work.preemptions]
        explained = sum(work.preemptions * (work.prompt + work.decoded) for work in preempted)
        if not explained:
            return
        again = min(self.lost_prefill, float(explained))
        if again:
            self.again_fixed = self.lost_fixed * again / self.lost_prefill
            self.lost_prefill -= again
        track, lo, hi = self.track, self.lo - self.track.base, self.hi - self.track.base
        usual = np.diff(track.decode_scheduled[lo:hi], prepend=track.decode_scheduled_through(self.lo - 1))
        beyond = np.maximum(self.c["decode_tokens"] - usual * self.c["decode_requests"], 0.0)
        resumed = beyond * min(1.0, (explained - again) / max(1.0, float(beyond.sum())))
        prefilled = self.c["prefill_tokens"] * (again / max(1, int(self.c["prefill_tokens"].sum())))
        context = prefilled * _mean_context(preempted, 0.0) + resumed * _mean_context(preempted, 0.5)
        self.resumed = resumed
        self.context += context
        self.again = again + float(resumed.sum())
        self.again_context = float(context.sum())


def _mean_context(preempted: list[Work], decoded: float) -> float:
    """Context of a recomputed token: half of what was lost, which is the prompt and a part of what was decoded."""
    lost = [(work.preemptions, work.prompt + decoded * work.decoded) for work in preempted]
    return sum(n * length**2 for n, length in lost) / max(1.0, 2 * sum(n * length for n, length in lost))


_ZERO = np.zeros(1, np.int64)


def _by_key(claim: Claim) -> tuple[int, int]:
    return claim.usage.key.process, claim.usage.key.sequence


def _rows(matrix: Floats, busy_ns: Ints, at_ns: Ints, start_ns: int) -> tuple[Floats, Floats]:
    """Features and busy seconds in parts of ``ROW_NS``; parts without a mark are left out."""
    if not len(at_ns):
        return np.empty((0, matrix.shape[1])), np.empty(0)
    part = (at_ns - start_ns - 1) // ROW_NS
    starts = np.concatenate([_ZERO, (part[1:] != part[:-1]).nonzero()[0] + 1])
    return np.add.reduceat(matrix, starts, axis=0), np.add.reduceat(busy_ns, starts) / 1e9


def _shared(sizes: list[tuple[Work, int]], tokens: int) -> list[tuple[Work, int]]:
    """``tokens`` over works in proportion to their sizes; shares of zero are left out."""
    if not sizes or tokens <= 0:
        return []
    shares = split(tokens, [size for _, size in sizes])
    return [(work, share) for (work, _), share in zip(sizes, shares, strict=True) if share]


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
