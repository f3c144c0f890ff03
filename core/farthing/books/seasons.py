"""The seasons of hourly spend: which hours of a day, and which days of a week, take how much of it.

Hours are laid in blocks of 24 that end with the history, so that every block holds each hour of the day once. Working
days and weekends (UTC) are told apart by the calendar; each of the seven days has a curve and a factor of its own that
leans on its kind of day until its own weeks are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLOSED",
    "DAY",
    "WEEK",
    "Array",
    "Blocks",
    "Week",
    "block_sums",
    "blocks_of",
    "day_profiles",
    "filled_hours",
    "usual_hours",
    "week_factors",
]

Array = NDArray[np.float64]

DAY = 24
"""Hours of a block."""
WEEK = 7
"""Blocks of a week."""
CLOSED = 0.03
"""Below this factor a day of the week is closed: it says nothing about the level."""

_KNOWN_SHARE = 0.25
"""A block counts when hours that usually hold a quarter of a day's spend are known; the rest is filled in."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Hours in rows of 24 that end with the history; NaN is unknown."""

    hours: Array
    weekend: NDArray[np.bool_]
    """Whether most of each block is on Saturday or Sunday (UTC)."""
    end_hour: int

    def is_weekend(self, steps: NDArray[np.int_]) -> NDArray[np.bool_]:
        """Whether the block that many steps after the last one is mostly a weekend's; 1 is the next."""
        return np.asarray(self.weekend_hours(steps)[:, DAY // 2])

    def weekend_hours(self, steps: NDArray[np.int_]) -> NDArray[np.bool_]:
        """Whether each hour of those blocks is on a Saturday or Sunday (UTC); a row a block."""
        hours = self.end_hour + DAY * (steps[:, None] - 1) + np.arange(DAY)
        return np.asarray((hours // DAY + 3) % WEEK >= 5)  # 1970-01-01 was a Thursday: Monday is 0


def blocks_of(history: Sequence[int | None], start_hour: int) -> Blocks:
    values = np.array([np.nan if value is None else float(value) for value in history])
    rows = -(-len(values) // DAY)
    hours = np.full(rows * DAY, np.nan)
    hours[rows * DAY - len(values) :] = values
    shell = Blocks(hours.reshape(rows, DAY), np.zeros(rows, dtype=bool), start_hour + len(values))
    return Blocks(shell.hours, shell.is_weekend(np.arange(1 - rows, 1)), shell.end_hour)


def usual_hours(blocks: Blocks) -> Array:
    """What hours of working days and of weekends usually spend, laid over the seven days that end with the history.

    Relative to the level of the week around, a row a day, oldest first. A kind of day not seen yet is taken for the
    other.
    """
    seen = ~np.isnan(blocks.hours)
    sums = np.where(seen.any(axis=1), np.nansum(blocks.hours, axis=1) / np.maximum(seen.sum(axis=1), 1), np.nan)
    hours = blocks.hours / _around(sums)[:, None]
    seen = ~np.isnan(hours)
    known = np.nan_to_num(hours)
    # after a week an hour that never saw spend is closed; until then, and where nothing is known, any hour may be
    every = _curve(hours, np.full(DAY, 1 / DAY), 0.1 if len(hours) < WEEK else 1e-12) * known.sum() / seen.sum() * DAY
    weekend = blocks.weekend_hours(np.arange(1 - len(known), 1))
    kinds = []
    for kind in (False, True):
        own = seen & (weekend == kind)
        ratio = known[own].sum() / max(1e-9, (own * every).sum()) if own.any() else 1.0
        kinds.append((np.where(own, known, 0.0).sum(axis=0) + 0.5 * every * ratio) / (own.sum(axis=0) + 0.5))
    return np.asarray(np.where(blocks.weekend_hours(np.arange(1, WEEK + 1)), kinds[1], kinds[0]))


def day_profiles(blocks: Blocks, usual: Array) -> Array:
    """Share of a day's spend in each hour, for the seven days that end with the history, oldest first."""
    overall = usual.sum(axis=0) / usual.sum()
    sums = usual.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0, usual / np.where(sums > 0, sums, 1.0), overall)
    days = np.arange(-len(blocks.hours), 0) % WEEK
    return np.array([_curve(blocks.hours[days == day], shares[day], 1.0) for day in range(WEEK)])


def _curve(hours: Array, prior: Array, weight: float) -> Array:
    """Shares of the hours of a day, those of ``prior`` counting as ``weight`` days."""
    seen = ~np.isnan(hours)
    known = np.where(seen, hours, 0.0)
    mean = known.sum() / max(1, seen.sum()) * DAY
    if mean <= 0:
        return prior
    curve = (known.sum(axis=0) / mean + weight * prior) / (seen.sum(axis=0) + weight)
    return np.asarray(curve / curve.sum())


def block_sums(blocks: Blocks, profiles: Array) -> Array:
    """Spend of each block, unknown hours filled in by the day's curve; NaN where too little is known."""
    seen = ~np.isnan(blocks.hours)
    share = np.where(seen, profiles[np.arange(-len(blocks.hours), 0) % WEEK], 0.0).sum(axis=1)
    enough = share >= min(_KNOWN_SHARE, float(share.max()))
    known = np.where(seen, blocks.hours, 0.0).sum(axis=1)
    return np.asarray(np.where(enough & (share > 0), known / np.maximum(share, 1e-9), np.nan))


def filled_hours(blocks: Blocks) -> Array:
    """The blocks' hours, unknown ones at the level of their block (or its neighbours') times the day's curve."""
    profiles = day_profiles(blocks, usual_hours(blocks))
    sums = block_sums(blocks, profiles)
    known = np.flatnonzero(~np.isnan(sums))
    levels = np.interp(np.arange(len(sums)), known, sums[known])
    curves = profiles[np.arange(-len(sums), 0) % WEEK]
    return np.asarray(np.where(np.isnan(blocks.hours), levels[:, None] * curves, blocks.hours))


@dataclass(frozen=True, slots=True)
class Week:
    """The days of the week as factors on a day's level."""

    factors: Array
    """Of the seven days that end with the history, oldest first; mean 1 where both kinds of day were seen."""
    errors: Array
    """Standard error of each."""
    apart: Array
    """For each block of the history, the factor that the other weeks tell."""


def week_factors(sums: Array, weekend: NDArray[np.bool_], usual: Array) -> Week:
    """Factors from how each block stood to the week around it.

    A day of the week leans on what its hours ``usual``ly spend as much as its own weeks disagree: that counts as
    (variance within a day) / (variance between days) weeks.
    """
    n = len(sums)
    both = len(set(weekend[~np.isnan(sums)])) == 2
    prior = usual / (usual.mean() if both else usual.max())
    ratios = _ratios(sums, prior)
    seen = ~np.isnan(ratios)
    day = np.arange(-n, 0) % WEEK
    known = np.where(seen, ratios, 0.0)
    counts, total = np.bincount(day, seen, WEEK), np.bincount(day, known, WEEK)
    means = np.where(counts > 0, total / np.maximum(counts, 1), prior)
    within = float(np.where(seen, (ratios - means[day]) ** 2, 0.0).sum() / max(1.0, (counts - 1).clip(0).sum()))
    between = float(np.mean((means - prior) ** 2)) - within / max(1.0, float(counts.mean()))
    lean = float(np.clip(within / max(between, 1e-6), 0.1, 20.0)) if n >= 2 * WEEK else 0.5
    factors = (total + lean * prior) / (counts + lean)
    others = (total[day] - known + lean * prior[day]) / (counts[day] - seen + lean)
    mean = factors.mean() if both else 1.0
    errors = np.sqrt(within / (counts + lean)) if n >= 2 * WEEK else np.full(WEEK, 0.1)
    return Week(factors / mean, np.where(factors > CLOSED, errors / mean, 0.0), others / mean)


def _ratios(sums: Array, usual: Array) -> Array:
    """Each block over the mean of the week around it; before there is a week, over the level of the days known."""
    n = len(sums)
    if n < WEEK:
        level = np.nansum(sums) / max(1e-9, usual[-n:][~np.isnan(sums)].sum())
        return np.asarray(sums / level) if level > 0 else np.full(n, np.nan)
    return np.asarray(sums / _around(sums))


def _around(sums: Array) -> Array:
    """Mean of the week around each block, of all blocks before there is a week; NaN where it is unknown or nothing."""
    n, width = len(sums), min(WEEK, len(sums))
    first = np.clip(np.arange(n) - WEEK // 2, 0, n - width)
    seen = ~np.isnan(sums)
    totals, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(seen, sums, 0.0), seen))
    total, count = totals[first + width] - totals[first], counts[first + width] - counts[first]
    return np.asarray(np.where(total > 0, total / np.maximum(count, 1), np.nan))
