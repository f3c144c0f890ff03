"""What a series usually spends on a day, hour by hour, and how far it strays: medians of the four weeks before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY", "FIRST", "FLOOR", "WINDOW", "Usual", "learn"]

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

DAY, _WEEK = 24, 7
FIRST = 3 * DAY
"""Hours of history before the first is judged."""
WINDOW = 28
"""Days that are remembered."""
FLOOR = 0.01
"""Part of the mean hour that is added before logarithms are taken, so that an hour without spend has one."""

_RECENT = 5
"""Days that tell the level."""
_LONG = 14
"""Days from which on days of the week are told apart."""
_FULL, _SOME = 18, 3
"""Known hours of a day that shapes the curve, and of one that has a level."""
_ACTIVE = 2.5
"""Hours whose curve is so far (in logarithms) below the busiest say nothing of the level."""
_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, slots=True)
class Usual:
    """One day as it usually is; logarithms by hour of the day (UTC)."""

    log: Array
    spread: Array
    """Robust standard deviation of the surprise."""
    ordinary: tuple[float, float]
    """The surprise that one day in ten reaches downwards and upwards; 0 until there are two weeks."""
    floor: float
    """Nano-dollars added before the logarithm."""
    caution: float
    """Factor on thresholds: 1 after two weeks, 2 on a day of a kind that was never seen."""
    drops: bool
    """Whether such days are known well enough to miss spend."""

    def nano(self, log: float) -> int:
        """Nano-dollars of a logarithm."""
        return max(0, round(math.exp(log) - self.floor))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Rows as level + curve of their kind of day."""

    curves: Array
    """Working days, weekends."""
    levels: Array


def learn(spend: Array, surprise: Array, first_day: int) -> tuple[Usual, Array] | None:
    """What is usual on the last of the days of ``spend``, and how far each known hour of all days is off it.

    Both arrays hold a row of 24 hours for each UTC day from ``first_day`` (days since the epoch) on: nano-dollars,
    and the surprises of those hours that were judged; NaN is unknown. The last row may be empty. None when less than
    two days' worth of hours is known, or no day has enough of them.
    """
    known = ~np.isnan(spend)
    if known.sum() < 2 * DAY:
        return None
    days = first_day + np.arange(len(spend))
    weekday = (days + 3) % _WEEK  # 1970-01-01 was a Thursday: Monday is 0
    weekend = weekday >= 5
    counts = known.sum(axis=1)
    full = counts >= min(_FULL, counts.max())
    means = np.where(known, spend, 0.0).sum(axis=1) / np.maximum(counts, 1)
    middle = _middle(means[full]) or float(means[full].mean())
    floor = max(1.0, FLOOR * middle)
    logs = np.log(spend + floor)
    shape = _shape(logs, np.where(full, np.log(means + floor), np.nan), weekend)
    if np.isnan(shape.levels).all():
        return None
    by_day = _days(shape.levels, weekend, weekday)
    active = shape.curves > shape.curves.max(axis=1, keepdims=True) - _ACTIVE
    freed = shape.levels - by_day[weekday]
    level = _middle(freed[~np.isnan(freed)][-_RECENT:])
    fitted = shape.levels[:, None] + shape.curves[weekend.astype(int)]
    left = np.where(np.isnan(surprise), 1.2 * (logs - fitted), surprise)
    like = weekend == weekend[-1]
    spread = _spread(left, active[weekend.astype(int)], like)
    log = level + by_day[weekday[-1]] + shape.curves[int(weekend[-1])]
    log = log + _habits((logs - fitted)[weekday == weekday[-1]], spread)
    seen = int((full & like).sum())
    caution = (1.5 if weekend[-1] else 2.0) if seen == 0 else 1.3 if seen == 1 else 1.0 if full.sum() >= _LONG else 1.15
    usual = Usual(log, spread, _ordinary(surprise), floor, caution, seen > 0)
    return usual, logs - (level + by_day[weekday][:, None] + shape.curves[weekend.astype(int)])


def _shape(logs: Array, levels: Array, weekend: Rows) -> _Shape:
    """Median polish, twice, of days into a level each and a curve for each kind of day."""
    curves = np.zeros((2, DAY))
    kinds = weekend.astype(int)
    for _ in range(2):
        for kind in (0, 1):
            curves[kind] = _median((logs - levels[:, None])[kinds == kind])
        for kind in (0, 1):
            curves[kind] = np.where(np.isnan(curves[kind]), curves[1 - kind], curves[kind])
        curves = np.nan_to_num(curves)
        active = curves > curves.max(axis=1, keepdims=True) - _ACTIVE
        rest = np.where(active[kinds], logs - curves[kinds], np.nan)
        levels = np.where((~np.isnan(rest)).sum(axis=1) >= _SOME, _median(rest.T), np.nan)
    return _Shape(curves, levels)


def _days(levels: Array, weekend: Rows, weekday: NDArray[np.int_]) -> Array:
    """How far each day of the week is from the level, Monday first."""
    seen = ~np.isnan(levels)
    by_day = np.zeros(_WEEK)
    if (seen & weekend).any() and (seen & ~weekend).any():
        by_day[5:] = _middle(levels[seen & weekend]) - _middle(levels[seen & ~weekend])
    if seen.sum() < _LONG:
        return by_day
    freed = levels - by_day[weekday]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(freed, 3, constant_values=np.nan), _WEEK)
    local = _median(around.T)
    for day in range(_WEEK):
        own = _known((freed - local)[weekday == day])
        if own.size >= 2:
            by_day[day] += _middle(own)
    return by_day


def _habits(left: Array, spread: Array) -> Array:
    """What this day of the week does at some hour each week, a nightly job on Wednesdays say; 0 unless it is plain."""
    count = (~np.isnan(left)).sum(axis=0)
    middle = np.nan_to_num(_median(left))
    plain = (count >= 3) & (np.abs(middle) > 3 * spread / np.sqrt(np.maximum(count, 1)))
    return np.asarray(np.where(plain, middle, 0.0))


def _spread(left: Array, active: Rows, like: Rows) -> Array:
    """Robust standard deviation by hour of the day, from the hour and its neighbours, leaning on that of all hours."""
    sizes = np.abs(np.where(active, left, np.nan))
    overall = _known(sizes[like if like.sum() > 1 else slice(None)].reshape(-1))
    base = _middle(overall) if overall.size else 0.0
    alone = sizes[like] if like.sum() > 5 else sizes
    near = np.concatenate([np.roll(alone, step, axis=1) for step in (-1, 0, 1)])
    count = (~np.isnan(near)).sum(axis=0)
    own = np.nan_to_num(_median(near))
    return np.asarray(_SIGMA * np.sqrt((count * own**2 + 20 * base**2) / (count + 20)))


def _ordinary(surprise: Array) -> tuple[float, float]:
    """The third largest surprise of four weeks, each way, the second of fewer than twenty days; 0 before two weeks."""
    judged = ~np.isnan(surprise).all(axis=1)
    days = int(judged.sum())
    if days < _LONG:
        return 0.0, 0.0
    filled = np.where(np.isnan(surprise), 0.0, surprise)[judged]
    beyond = days // 10 + 1
    return -float(np.sort(filled.min(axis=1))[beyond - 1]), float(np.sort(filled.max(axis=1))[-beyond])


def _median(rows: Array) -> Array:
    """Median of each column over its known values; NaN where there is none."""
    if not len(rows):
        return np.full(rows.shape[1], np.nan)
    ordered = np.sort(rows, axis=0)  # NaN goes last
    count = (~np.isnan(rows)).sum(axis=0)
    columns = np.arange(rows.shape[1])
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(rows) - 1)
    return np.asarray(np.where(count > 0, (ordered[low, columns] + ordered[high, columns]) / 2, np.nan))


def _middle(values: Array) -> float:
    """Median of values that are all known: what ``np.median`` gives, ten times as fast for so few."""
    ordered = np.sort(values)
    half = len(ordered) // 2
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def _known(values: Array) -> Array:
    return np.asarray(values[~np.isnan(values)])
