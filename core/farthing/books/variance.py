"""Why a bill changed: more was used, or the same cost more.

Standard price-volume analysis of management accounting (C. T. Horngren et al., "Cost Accounting: A Managerial
Emphasis", chapter on flexible budgets and variances), in FinOps' words usage and rate variance:

    new - old = (q1 - q0) x r0  +  q1 x (r1 - r0)        with r = cost / quantity

Both parts are rational numbers; each is rounded once, half to even, and what rounding leaves over is a line of its own,
so that the parts add up to the change exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Driver", "Variance", "VarianceLine", "variance"]

Driver = tuple[int | None, int]
"""Quantity (None: this cost has no unit) and nano-dollars of one period."""
_NOTHING: Driver = (0, 0)


@dataclass(frozen=True, slots=True)
class VarianceLine:
    """One cost in two periods; ``usage_nano + rate_nano + other_nano + rounding_nano`` is its change."""

    key: tuple[str, ...]
    old: Driver
    new: Driver
    usage_nano: int
    """More or fewer units, at the old rate; all of the change where one period has no units."""
    rate_nano: int
    """The new units, at the change of the rate."""
    other_nano: int
    """The change of a cost that has no unit."""
    rounding_nano: int

    @property
    def change_nano(self) -> int:
        """New less old."""
        return self.new[1] - self.old[1]


@dataclass(frozen=True, slots=True)
class Variance:
    """The change of a whole bill, line by line."""

    lines: tuple[VarianceLine, ...]
    usage_nano: int
    rate_nano: int
    other_nano: int
    rounding_nano: int
    """What the rounding of all lines left over: at most one nano-dollar for each."""
    change_nano: int


def variance(old: Mapping[tuple[str, ...], Driver], new: Mapping[tuple[str, ...], Driver]) -> Variance:
    """Usage and rate variance of every cost of two periods, those of one of them alone included."""
    lines = tuple(_line(key, old.get(key, _NOTHING), new.get(key, _NOTHING)) for key in sorted({*old, *new}))
    return Variance(
        lines,
        sum(line.usage_nano for line in lines),
        sum(line.rate_nano for line in lines),
        sum(line.other_nano for line in lines),
        sum(line.rounding_nano for line in lines),
        sum(line.change_nano for line in lines),
    )


def _line(key: tuple[str, ...], old: Driver, new: Driver) -> VarianceLine:
    (q0, c0), (q1, c1) = old, new
    change = c1 - c0
    if q0 is None or q1 is None or (not q0 and not q1):
        return VarianceLine(key, old, new, 0, 0, change, 0)
    if not q0 or not q1:
        # without units there is no rate to compare with: all that came or went is usage
        return VarianceLine(key, old, new, change, 0, 0, 0)
    at_old_rate = Fraction(q1 * c0, q0)
    usage, rate = round(at_old_rate - c0), round(c1 - at_old_rate)
    return VarianceLine(key, old, new, usage, rate, 0, change - usage - rate)
