"""Measuring a window: who did which part of its steps.

Decode is exact by position: a sequence decodes in every decoding step after its first token up to its last.
Prefill is poured: a step's prefill tokens go to the sequences scheduled before it, nearest first token first
(the order in which a first-come scheduler must have served them). A request whose prompt length nobody told
(it was aborted) is given what the engine counted at its first token and no known request explains; failing that
it takes what the known ones leave over in the steps before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from farthing.costing import fit as f
from farthing.costing.marks import MARKED, Floats, Ints, MarkTrack, packed
from farthing.costing.work import SLACK, Claim, WindowWork, Work
from farthing.domain.conventions import DECODE, PREFILL, VISION
from farthing.domain.money import split

__all__ = ["ROW_NS", "measure", "unclaimed_work"]

STOPPED = "stop"
"""Finish reason of a sequence that ended itself, by a stop token or a stop string."""
ROW_NS = 500_000_000
"""A fit learns from half seconds: long enough for a mark that is 10-40 ms late (a prefill or an encoder that is
launched before a step's outputs are handed out delays them), short enough to see many kinds of load."""
_BY_MARK = ("busy_ns", f.PREFILL_CONTEXT, f.ATTENDED, *MARKED)
"""What is known of each mark, by row: busy time, the features of a fit, and the rest of what the track holds."""
_BUSY, _CONTEXT, _ATTENDED, _HELD = range(len(_BY_MARK) - len(MARKED) + 1)
_FEATURES = slice(_CONTEXT, _CONTEXT + len(f.FEATURES))
_ORDER = np.array([_BY_MARK[_FEATURES].index(name) for name in f.FEATURES])
_TOTALLED = slice(_FEATURES.stop, _BY_MARK.index("decode_steps") + 1)
"""What only the sums of a window are needed of."""
_PREFILLS, _DECODED = _BY_MARK.index("prefill_tokens"), _BY_MARK.index("decode_tokens")
_ENCODED, _DECODES = _BY_MARK.index("encoder_tokens"), _BY_MARK.index("decode_steps")
_PREFILLING, _DECODING = _BY_MARK.index("prefill_requests"), _BY_MARK.index("decode_requests")
_COMPUTED, _CACHED = _BY_MARK.index("prompt_computed"), _BY_MARK.index("prompt_cached")
_PHASES = (PREFILL, DECODE, VISION)
_MOST_IMAGES = 24
"""Prompts with images in one step for which subsets are tried; their sums are few, since images have few sizes."""


def measure(
    track: MarkTrack, works: Sequence[Work], lo: int, hi: int, *, start_ns: int = 0, busy_ns: Ints | None = None
) -> WindowWork:
    """The work of the marks at positions [lo, hi); pours prefill, so call it once per window, in order.

    ``busy_ns`` is the busy time before each mark (shape (hi - lo,)) and ``start_ns`` the window's start, for the rows
    that a fit learns from.
    """
    measurement = _Measurement(track, works, lo, hi)
    if lo < hi:
        measurement.guess_prompts()
        measurement.pour()
        measurement.decode()
        measurement.overrun()
        measurement.recompute()
    return measurement.result(start_ns, np.zeros(hi - lo, np.int64) if busy_ns is None else busy_ns)


def unclaimed_work(track: MarkTrack, lo: int, hi: int) -> WindowWork:
    """The work of the marks at positions [lo, hi) as long as nobody is known who did it: features and sums alone."""
    sums = dict(zip(MARKED, np.add.reduce(track.marks(lo, hi), axis=1).tolist(), strict=True))
    features = {name: sums.get(name, 0.0) for name in f.FEATURES}
    totals = {name: sums[name] for name in _BY_MARK[_TOTALLED]}
    return WindowWork(features, np.empty((0, len(f.FEATURES))), np.empty(0), totals, dict.fromkeys(_PHASES, 0.0))


class _Measurement:
    """One window's work in progress."""

    def __init__(self, track: MarkTrack, works: Sequence[Work], lo: int, hi: int) -> None:
        self.track = track
        self.lo = lo
        self.hi = hi
        self.works = works
        self.marks = np.empty((len(_BY_MARK), hi - lo))
        """What is known of each mark, shape (len(_BY_MARK), hi - lo)."""
        self.marks[:_HELD] = 0.0
        self.marks[_HELD:] = track.marks(lo, hi)
        self.totals = dict(zip(_BY_MARK[_TOTALLED], np.add.reduce(self.marks[_TOTALLED], axis=1).tolist(), strict=True))
        self.claims: dict[int, Claim] = {}
        """By the identity of the usage record: cheaper than its key, and as good within a window."""
        self.taken: Floats = np.zeros(hi - lo)
        """Who took part in decoding, by mark."""
        self.lost_prefill = self.lost_fixed = self.lost_vision = 0.0
        self.lost_decode = self.totals["decode_requests"]
        self.again = self.again_fixed = self.again_context = 0.0

    def result(self, start_ns: int, busy_ns: Ints) -> WindowWork:
        """Everything measured."""
        features, rows, busy = self._rows(start_ns, busy_ns)
        unclaimed = {PREFILL: self.lost_prefill, DECODE: max(0.0, self.lost_decode), VISION: self.lost_vision}
        work = WindowWork(dict(zip(f.FEATURES, features, strict=True)), rows, busy, self.totals, unclaimed)
        work.recomputed, work.recomputed_fixed = self.again, self.again_fixed
        work.recomputed_context = self.again_context
        work.claims = tuple(sorted(self.claims.values(), key=_by_key))
        return work

    def _rows(self, start_ns: int, busy_ns: Ints) -> tuple[list[float], Floats, Floats]:
        """Features of the window, and those and the busy seconds of its parts of ``ROW_NS`` that have marks."""
        if self.lo == self.hi:
            return [0.0] * len(f.FEATURES), np.empty((0, len(f.FEATURES))), np.empty(0)
        at = self.track.moments(self.lo, self.hi)
        bounds = np.arange(start_ns + ROW_NS, int(at[-1]), ROW_NS)
        starts = sorted({0, *at.searchsorted(bounds, "right").tolist()})
        self.marks[_BUSY] = busy_ns
        parts = np.add.reduceat(self.marks[: _FEATURES.stop], starts, axis=1)
        sums = np.add.accumulate(self.marks[_FEATURES], axis=1)[:, -1]
        return sums.take(_ORDER).tolist(), parts[_FEATURES].T.take(_ORDER, axis=1), parts[_BUSY] / 1e9

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
        known = np.zeros(self.hi - self.lo + 2 * SLACK)
        cached = np.zeros_like(known)
        for work in self.works:
            i = work.first - self.lo + SLACK
            if work.prompt_left is not None and work.has_output and 0 <= i < len(known):
                known[i] += work.computed
                cached[i] += work.prompt - work.computed
        at: dict[int, list[Work]] = {}
        for work in sorted(unknown, key=lambda w: (w.first, w.usage.key)):
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

    def _counted(self, i: int, known: Floats, cached: Floats) -> tuple[int, int]:
        """Computed and cached prompt tokens that ended at a mark (or beside it: clocks differ) and nobody explains."""
        for offset in (0, -1, 1, -2, 2):
            j = i + offset
            if 0 <= j < self.hi - self.lo:
                computed = int(self.marks[_COMPUTED, j] - known[j + SLACK])
                if computed > 0:
                    known[j + SLACK] += computed
                    return computed, max(0, int(self.marks[_CACHED, j] - cached[j + SLACK]))
        return 0, 0

    def pour(self) -> None:
        """Pour each step's prompt tokens over those who were being prefilled, and its images with them."""
        at = self.track.moments(self.lo, self.hi).data
        prefills, encodes = self.marks[_PREFILLS], self.marks[_ENCODED]
        tokens, images, contexts = prefills.data, encodes.data, self.marks[_CONTEXT].data
        prefilling, decoding = self.marks[_PREFILLING].data, self.marks[_DECODING].data
        pending = [w for w in self.works if w.prompt_left is None or w.prompt_left > 0]
        pending.sort(key=_by_first_token)
        for i in np.maximum(prefills, encodes).nonzero()[0].tolist():
            requests = prefilling[i] + decoding[i]
            fixed = 1 / requests if requests else 1.0
            poured, left = _served(pending, int(tokens[i]), at[i], i + self.lo)
            for work, amount in poured:
                contexts[i] += self._prefilled(work, amount, fixed)
            if left:
                self.lost_prefill += left
                self.lost_fixed += max(0.0, prefilling[i] - len(poured)) * fixed
            if images[i]:
                self._encode(poured, int(images[i]))
            for work, _ in poured:
                if work.prompt_left == 0 and work.image_left:
                    self.claim(work).cached_images += work.image_left
                    work.image_left = 0
            while pending and pending[0].prompt_left == 0:
                del pending[0]

    def _prefilled(self, work: Work, amount: int, fixed: float) -> float:
        """Claim poured tokens; returns their sum of contexts."""
        claim = self.claim(work)
        if work.context == work.cached:
            claim.cached_tokens += work.cached
        context = amount * (work.context + amount / 2)
        work.context += amount
        claim.prefill_tokens += amount
        claim.prefill_context += context
        claim.prefill_fixed += fixed
        return context

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
        lo, hi = self.lo, self.hi
        claims, (decodes, fixed, scheduled, through) = self.claims, self.track.decoded()
        # attended context by step is linear in the sequence's own steps: differences at its ends hold all of it
        none = [0.0] * (hi - lo + 1)
        level, slope, taken = none.copy(), none.copy(), none
        for work in self.works:
            begin = work.first if work.first >= lo else lo - 1
            end = work.last if work.last < hi else hi - 1
            if end <= begin or not work.part:
                continue
            i, j = begin - through, end - through
            steps_before = decodes[i]
            steps = decodes[j] - steps_before
            if not steps:
                continue
            # which steps a sequence that was preempted sat out, nobody tells
            rate, part, context, origin = work.rate, work.part, work.context + 1, work.steps_before
            # a step attends the prompt, the first token and what was decoded before it: an arithmetic series
            first = context + (steps_before - origin) * rate
            claim = claims.get(id(work.usage)) or self.claim(work)
            claim.attended += part * (steps * first + rate * steps * (steps - 1) / 2)
            claim.decode_tokens += part * (scheduled[j] - scheduled[i])
            claim.decode_fixed += part * (fixed[j] - fixed[i])
            self.lost_decode -= part * steps
            own, growth = part * (context - (origin + 1) * rate), part * rate
            i, j = begin + 1 - lo, end + 1 - lo
            level[i] += own
            level[j] -= own
            slope[i] += growth
            slope[j] -= growth
            taken[i] += part
            taken[j] -= part
        levels, slopes, self.taken = np.add.accumulate(packed("d", (level, slope, taken)), axis=1)[:, :-1]
        np.multiply(self.marks[_DECODES], levels + slopes * self.track.decode_steps(lo, hi), out=self.marks[_ATTENDED])

    def overrun(self) -> None:
        """Claim the step that asynchronous scheduling began before it knew that a sequence had stopped by itself.

        The engine does not say so: it is claimed where the next step decoded for more requests than went on.
        """
        stopped = [w for w in self.works if w.last < self.hi - 1 and w.usage.finish_reason == STOPPED and w.has_output]
        if not stopped:
            return
        _, fixed, scheduled, through = self.track.decoded()
        free = self.marks[_DECODING] - self.taken * self.marks[_DECODES]
        steps = (free > 0.5).nonzero()[0].tolist()
        for work in stopped:
            k = bisect_left(steps, work.last + 1 - self.lo)
            if k >= len(steps) or steps[k] + self.lo > work.last + SLACK or free[steps[k]] <= 0.5:
                continue
            j = steps[k]
            free[j] -= 1.0
            attended = float(work.prompt + work.decoded)
            claim = self.claim(work)
            before, after = j + self.lo - 1 - through, j + self.lo - through
            claim.decode_tokens += scheduled[after] - scheduled[before]
            claim.decode_fixed += fixed[after] - fixed[before]
            claim.attended += attended
            self.marks[_ATTENDED, j] += attended
            self.lost_decode -= 1.0

    def recompute(self) -> None:
        """Tell recomputed work from lost records: only where a preempted request was, and no more than it explains.

        The engine says how often a sequence was preempted, not when: what nobody claims in its time is its
        recomputation. The engine counts a resumed sequence's chunk as prefill before its first token and as decoding
        after it; either way it takes the time of a prefill, and is one here.
        """
        preempted = [work for work in self.works if work.preemptions and work.last + SLACK >= self.lo]
        explained = sum(work.preemptions * (work.prompt + work.decoded) for work in preempted)
        if not explained:
            return
        again = min(self.lost_prefill, float(explained))
        if again:
            self.again_fixed = self.lost_fixed * again / self.lost_prefill
            self.lost_prefill -= again
        prefills, decoded = self.marks[_PREFILLS], self.marks[_DECODED]
        beyond = np.maximum(decoded - self.track.decode_scheduled(self.lo, self.hi) * self.marks[_DECODING], 0.0)
        resumed = beyond * min(1.0, (explained - again) / max(1.0, float(beyond.sum())))
        prefilled = prefills * (again / max(1.0, float(prefills.sum())))
        context = prefilled * _mean_context(preempted, 0.0) + resumed * _mean_context(preempted, 0.5)
        prefills += resumed
        decoded -= resumed
        self.marks[_CONTEXT] += context
        self.again = again + float(resumed.sum())
        self.again_context = float(context.sum())


def _mean_context(preempted: list[Work], decoded: float) -> float:
    """Context of a recomputed token: half of what was lost, which is the prompt and a part of what was decoded."""
    lost = [(work.preemptions, work.prompt + decoded * work.decoded) for work in preempted]
    return sum(n * length**2 for n, length in lost) / max(1.0, 2 * sum(n * length for n, length in lost))


_by_key = attrgetter("usage.key.process", "usage.key.sequence")
_by_first_token = attrgetter("first", "scheduled_ns", "usage.key.process", "usage.key.sequence")


def _served(pending: list[Work], left: int, moment: int, position: int) -> tuple[list[tuple[Work, int]], int]:
    """Who takes how many of a step's prompt tokens, in the order of ``pending``; and what nobody takes."""
    poured: list[tuple[Work, int]] = []
    unknown: list[Work] = []
    for work in pending:
        if not left:
            break
        # a late last mark makes all of a sequence's moments late: its first mark says that it was there before
        began = work.scheduled_ns < moment or work.first <= position
        if not began or work.first + SLACK < position:
            continue
        if work.prompt_left is None:
            unknown.append(work)
        elif work.prompt_left > left:
            work.prompt_left -= left
            poured.append((work, left))
            left = 0
        elif work.prompt_left:
            left -= work.prompt_left
            poured.append((work, work.prompt_left))
            work.prompt_left = 0
    if left and unknown:
        poured.extend(zip(unknown, split(left, [1] * len(unknown)), strict=True))
        left = 0
    return poured, left


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
