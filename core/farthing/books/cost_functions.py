"""Cumulative cost as an integer function F of time that never decreases, and how one is made of another.

Each function is whole nano-dollars since its beginning. Whatever is built here keeps three properties: F is an
integer, F never decreases, and parts of a whole add up to the whole at every moment. So bills F(b) - F(a) telescope
and add up exactly, however they are cut or merged.

In a stretch without a price F stands still; ``spans`` tells where it is known, and a tariff refuses to bill the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any, Protocol

from farthing.domain.clock import HOUR

__all__ = ["Between", "CostFunction", "Part", "Rates", "Share", "Slots", "Span", "Splice", "Stretch", "chained"]

Span = tuple[int, int | None]
"""[start, end) in nanoseconds UTC; None: no end."""
Tree = dict[str, Any]
"""A function as JSON."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A constant rate, in nano-dollars per hour, over [start, end) in nanoseconds UTC; None: no end."""

    start: int
    end: int | None
    rate: Fraction


class CostFunction(Protocol):
    """F: nano-dollars up to a moment, in nanoseconds UTC."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where F is known: disjoint, in order, and not adjoining."""

    def value(self, wall_ns: int) -> int:
        """F; before its beginning and in a stretch without a price it stands still."""

    def rate(self, wall_ns: int) -> Fraction:
        """Nano-dollars per hour at a moment that is within a span."""

    def tree(self) -> Tree:
        """All that F depends on, as JSON; equal functions of one kind have equal trees."""


class Rates:
    """F of constant rates one after another: the exact sum, rounded down to a whole nano-dollar once.

    The rates are brought to one denominator, so that F is integer arithmetic. Raises ValueError when two stretches
    overlap, or a rate is negative.
    """

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = _joined(sorted(stretches, key=lambda stretch: stretch.start))
        self.spans = _merged((stretch.start, stretch.end) for stretch in self.stretches)
        scale = lcm(*(stretch.rate.denominator for stretch in self.stretches))
        self._unit = scale * HOUR
        self._slopes = [int(stretch.rate * scale) for stretch in self.stretches]
        self._starts = [stretch.start for stretch in self.stretches]
        self._sums = [0]
        for stretch, slope in zip(self.stretches[:-1], self._slopes, strict=False):
            end = stretch.start if stretch.end is None else stretch.end
            self._sums.append(self._sums[-1] + (end - stretch.start) * slope)

    def value(self, wall_ns: int) -> int:
        """F, from the start of the first stretch."""
        i = bisect_right(self._starts, wall_ns) - 1
        if i < 0:
            return 0
        end = self.stretches[i].end
        until = wall_ns if end is None else min(wall_ns, end)
        return (self._sums[i] + (until - self._starts[i]) * self._slopes[i]) // self._unit

    def rate(self, wall_ns: int) -> Fraction:
        """The rate of the stretch in force."""
        return self.stretches[bisect_right(self._starts, wall_ns) - 1].rate

    def tree(self) -> Tree:
        """``{"rates": [[start, end, "nano per hour"], ...]}``."""
        return {"rates": [[s.start, s.end, str(s.rate)] for s in self.stretches]}


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of an integer, rounded down, or (``rest``) what that leaves over: together the integer itself.

    Both never decrease when the integer grows: where it grows by 1, the rounded fraction of at most 1 does by 0 or 1.
    """

    fraction: Fraction
    rest: bool = False

    def of(self, whole: int) -> int:
        """This share of a whole number of nano-dollars."""
        part = whole * self.fraction.numerator // self.fraction.denominator
        return whole - part if self.rest else part

    @property
    def ratio(self) -> Fraction:
        """The share without rounding."""
        return 1 - self.fraction if self.rest else self.fraction

    def tree(self) -> list[str]:
        """``["part", "1/7"]`` or ``["rest", "1/7"]``."""
        return ["rest" if self.rest else "part", str(self.fraction)]


class Part:
    """F of a share of something: the host's part of a node, say."""

    def __init__(self, share: Share, of: CostFunction) -> None:
        self.share, self.of = share, of
        self.spans = of.spans

    def value(self, wall_ns: int) -> int:
        """The share of the whole's F."""
        return self.share.of(self.of.value(wall_ns))

    def rate(self, wall_ns: int) -> Fraction:
        """The share of the whole's rate."""
        return self.of.rate(wall_ns) * self.share.ratio

    def tree(self) -> Tree:
        """``{"share": [...], "of": {...}}``."""
        return {"share": self.share.tree(), "of": self.of.tree()}


class Slots:
    """F of some of the ``count`` equal slots of a whole, each cut further by a chain of shares.

    Slot i's F is floor((F + i) / count). By Hermite's identity, sum over i = 0 … n - 1 of floor((F + i) / n) = F,
    the slots of a whole add up to it exactly (R. L. Graham, D. E. Knuth, O. Patashnik, Concrete Mathematics, 2nd
    edition, equation 3.24 and section 3.4).
    """

    def __init__(self, taken: Iterable[tuple[int, tuple[Share, ...]]], count: int, of: CostFunction) -> None:
        self.taken, self.count, self.of = tuple(taken), count, of
        self.spans = of.spans
        if not all(0 <= index < count for index, _ in self.taken):
            raise ValueError(f"slots {[index for index, _ in self.taken]} are not all of 0 to {count - 1}")

    def value(self, wall_ns: int) -> int:
        """The sum over the slots."""
        whole, total = self.of.value(wall_ns), 0
        for index, chain in self.taken:
            slot = (whole + index) // self.count
            for share in chain:
                slot = share.of(slot)
            total += slot
        return total

    def rate(self, wall_ns: int) -> Fraction:
        """Each slot's rate is the whole's divided by their number."""
        each = self.of.rate(wall_ns) / self.count
        return sum((each * chained(chain) for _, chain in self.taken), Fraction(0))

    def tree(self) -> Tree:
        """``{"slots": [[index, [share, ...]], ...], "count": n, "of": {...}}``."""
        taken = [[index, [share.tree() for share in chain]] for index, chain in self.taken]
        return {"slots": taken, "count": self.count, "of": self.of.tree()}


class Between:
    """F of a part of another's time: it stands still before ``start`` and after ``end`` (None: no end)."""

    def __init__(self, start: int, end: int | None, of: CostFunction) -> None:
        self.start, self.end, self.of = start, end, of
        self.spans = _clipped(of.spans, start, end)

    def value(self, wall_ns: int) -> int:
        """The whole's F, held within the time."""
        return self.of.value(max(self.start, wall_ns if self.end is None else min(wall_ns, self.end)))

    def rate(self, wall_ns: int) -> Fraction:
        """The whole's rate."""
        return self.of.rate(wall_ns)

    def tree(self) -> Tree:
        """``{"between": [start, end], "of": {...}}``."""
        return {"between": [self.start, self.end], "of": self.of.tree()}


class Splice:
    """F that follows one function up to a moment, and from then on grows as the next one does.

    ``pieces`` are functions with the moment up to which each applies; the last one's is None. Raises ValueError when
    these moments do not rise.
    """

    def __init__(self, pieces: Sequence[tuple[CostFunction, int | None]]) -> None:
        self.pieces = tuple(pieces)
        self._until = [until for _, until in self.pieces if until is not None]
        if not self.pieces or len(self._until) != len(self.pieces) - 1 or self._until != sorted(set(self._until)):
            raise ValueError("pieces must end one after another, and the last one never")
        self._lift = [0]
        for (before, _), (after, _), at in zip(self.pieces, self.pieces[1:], self._until, strict=False):
            self._lift.append(self._lift[-1] + before.value(at) - after.value(at))
        starts = [None, *self._until]
        self.spans = _merged(
            span
            for start, (function, end) in zip(starts, self.pieces, strict=True)
            for span in _clipped(function.spans, start, end)
        )

    def value(self, wall_ns: int) -> int:
        """The piece's F, lifted to where the one before it ended."""
        i = bisect_right(self._until, wall_ns)
        return self._lift[i] + self.pieces[i][0].value(wall_ns)

    def rate(self, wall_ns: int) -> Fraction:
        """The rate of the piece in force."""
        return self.pieces[bisect_right(self._until, wall_ns)][0].rate(wall_ns)

    def tree(self) -> Tree:
        """``{"splice": [[{...}, until], ..., [{...}, null]]}``."""
        return {"splice": [[function.tree(), until] for function, until in self.pieces]}


def chained(shares: Iterable[Share]) -> Fraction:
    """The ratio of a share of a share of …, without rounding."""
    ratio = Fraction(1)
    for share in shares:
        ratio *= share.ratio
    return ratio


def _joined(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Adjoining stretches of one rate made one, so that equal functions have equal trees."""
    joined: list[Stretch] = []
    for stretch in stretches:
        if stretch.rate < 0:
            raise ValueError(f"rate {stretch.rate} is negative")
        if stretch.end is not None and stretch.end <= stretch.start:
            raise ValueError(f"a stretch ends at {stretch.end}, not after its start {stretch.start}")
        last = joined[-1] if joined else None
        if last is not None and (last.end is None or last.end > stretch.start):
            raise ValueError(f"the stretches from {last.start} and from {stretch.start} overlap")
        if last is not None and (last.end, last.rate) == (stretch.start, stretch.rate):
            joined[-1] = Stretch(last.start, stretch.end, last.rate)
        else:
            joined.append(stretch)
    return tuple(joined)


def _merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in order, adjoining ones made one."""
    merged: list[Span] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _clipped(spans: Iterable[Span], start: int | None, end: int | None) -> tuple[Span, ...]:
    """What of the spans lies in [start, end)."""
    clipped: list[Span] = []
    for first, last in spans:
        low = first if start is None else max(first, start)
        high = last if end is None else end if last is None else min(last, end)
        if high is None or low < high:
            clipped.append((low, high))
    return tuple(clipped)
