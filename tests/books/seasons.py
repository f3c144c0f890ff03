"""Hourly spend as tenants make it: seasons, trends, steps, bursts and noise, from a seed, with the future known.

Every kind has a daily and a weekly season of its own draw; what differs is what a forecast has to cope with. The scale
is drawn as well, from cents to hundreds of dollars an hour, and some series lack hours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from farthing.books.forecast import hours_to_month_end
from farthing.domain.money import NANO

__all__ = ["KINDS", "YEAR_START", "Case", "case", "last_week", "run_rate", "season", "series"]

Hours = NDArray[np.float64]
Expected = tuple[Hours, float]
YEAR_START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) // 3600
"""Hours since the epoch at 2026-01-01T00:00Z."""


@dataclass(frozen=True, slots=True)
class Case:
    """One back-test: what was known at the origin, and what the rest of the month then cost."""

    kind: str
    start_hour: int
    history: list[int | None]
    """Nano-dollars per hour; None is an hour that nobody knows."""
    horizon: int
    """Hours from the end of the history to the end of its month."""
    outcome_nano: int


def season(rng: np.random.Generator, start_hour: int, hours: int) -> Hours:
    """Expected relative spend of each hour: a daily curve with one or two peaks, days of the week, a quiet weekend."""
    at = start_hour + np.arange(hours)
    hour, day = at % 24, (at // 24 + 3) % 7  # 1970-01-01 was a Thursday: Monday is 0
    peak, width, night = rng.uniform(8, 18), rng.uniform(2.5, 6), rng.uniform(0.1, 0.6)
    away = (hour[:, None] - np.array([peak, peak + rng.uniform(3, 9)]) + 12) % 24 - 12
    daily = night + np.exp(-0.5 * (away / width) ** 2) @ np.array([1.0, rng.uniform(0, 0.8)])
    weekly = np.concatenate([rng.uniform(0.85, 1.15, 5), rng.uniform(0.25, 1.0) * rng.uniform(0.85, 1.15, 2)])
    return np.asarray(daily * weekly[day])


def _ordinary(rng: np.random.Generator, start: int, hours: int) -> Expected:
    return season(rng, start, hours), rng.uniform(0.08, 0.25)


def _trend(rng: np.random.Generator, start: int, hours: int) -> Expected:
    """Between -45 % and +200 % over 90 days, in a straight line."""
    line = np.maximum(0.05, 1 + rng.uniform(-0.45, 2.0) * np.arange(hours) / (90 * 24))
    usual, spread = _ordinary(rng, start, hours)
    return usual * line, spread


def _steps(rng: np.random.Generator, start: int, hours: int) -> Expected:
    """About one step in 30 days, by a factor of 0.4 to 2.5: a customer comes, a model is replaced."""
    steps = np.where(rng.random(hours) < 1 / (30 * 24), rng.uniform(np.log(0.4), np.log(2.5), hours), 0.0)
    usual, spread = _ordinary(rng, start, hours)
    return usual * np.exp(np.cumsum(steps)), spread


def _bursts(rng: np.random.Generator, start: int, hours: int) -> Expected:
    """A batch job of 2 to 12 hours about every three days, at two to eight times the mean."""
    usual, spread = _ordinary(rng, start, hours)
    spend, mean = usual.copy(), usual.mean()
    for begin in np.flatnonzero(rng.random(hours) < 1 / 72):
        spend[begin : begin + rng.integers(2, 13)] += mean * rng.uniform(2, 8)
    return spend, spread


def _weekdays(rng: np.random.Generator, start: int, hours: int) -> Expected:
    """Office hours from Monday to Friday, nothing else."""
    at = start + np.arange(hours)
    begins, ends = rng.integers(6, 10), rng.integers(16, 20)
    works = (at // 24 + 3) % 7 < 5
    return np.where(works & (at % 24 >= begins) & (at % 24 < ends), 1.0, 0.0), 0.25


def _noisy(rng: np.random.Generator, start: int, hours: int) -> Expected:
    return season(rng, start, hours), rng.uniform(0.5, 0.9)


def _autocorrelated(rng: np.random.Generator, start: int, hours: int) -> Expected:
    """A level that wanders by 15 to 35 % and forgets within one to six days."""
    keep, spread = np.exp(-1 / (24 * rng.uniform(1, 6))), rng.uniform(0.15, 0.35)
    shocks = rng.normal(0, spread * np.sqrt(1 - keep**2), hours)
    level = np.empty(hours)
    value = rng.normal(0, spread)
    for i, shock in enumerate(shocks):
        value = keep * value + shock
        level[i] = value
    usual, noise = _ordinary(rng, start, hours)
    return usual * np.exp(level), noise


KINDS: dict[str, Callable[[np.random.Generator, int, int], Expected]] = {
    "daily and weekly": _ordinary,
    "trend": _trend,
    "steps": _steps,
    "bursts": _bursts,
    "weekdays only": _weekdays,
    "noisy": _noisy,
    "autocorrelated": _autocorrelated,
}
"""Each gives what is expected of every hour, and the spread of the logarithm of the noise on it."""


def series(
    kind: str, rng: np.random.Generator, start_hour: int, hours: int, mean: float | None = None
) -> tuple[list[int], list[int]]:
    """What is expected of each hour and what was spent, nano-dollars; without a mean, of 5 cents to 500 dollars."""
    expected, spread = KINDS[kind](rng, start_hour, hours)
    noise = rng.lognormal(-(spread**2) / 2, spread, hours)
    scale = NANO * (np.exp(rng.uniform(np.log(0.05), np.log(500.0))) if mean is None else mean / expected.mean())
    return [int(value) for value in expected * scale], [int(value) for value in expected * noise * scale]


def case(kind: str, seed: int, *, days: tuple[int, int] = (1, 90)) -> Case:
    """A back-test of one kind: ``days`` of history at least and at most, an origin anywhere in 2026.

    Each seed draws another season, scale, origin and length; one series in three lacks up to a tenth of its hours.
    """
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    known = int(np.exp(rng.uniform(np.log(days[0] * 24), np.log(days[1] * 24 + 1))))
    origin = YEAR_START + int(rng.integers(0, 365 * 24))
    horizon = hours_to_month_end(origin)
    _, spend = series(kind, rng, origin - known, known + horizon)
    history: list[int | None] = list(spend[:known])
    if rng.random() < 1 / 3:
        lost = rng.random(known) < rng.uniform(0, 0.1)
        history = [None if gone else value for value, gone in zip(spend[:known], lost, strict=True)]
    return Case(kind, origin - known, history, horizon, sum(spend[known:]))


def last_week(it: Case) -> float:
    """The naive forecast that the same hour of last week comes again (of yesterday, where there is no last week)."""
    period = 168 if len(it.history) >= 168 else 24
    last = [value for value in it.history[-period:] if value is not None]
    filled = [np.mean(last) if value is None else float(value) for value in it.history[-period:]]
    return float(sum(filled[i % len(filled)] for i in range(it.horizon)))


def run_rate(it: Case) -> float:
    """The naive forecast that the rest of the month costs per hour what it cost so far (or all that is known)."""
    month = len(it.history) - _hours_into_month(it.start_hour + len(it.history))
    known = [value for value in it.history[max(0, month) :] if value is not None]
    known = known or [value for value in it.history if value is not None]
    return float(np.mean(known)) * it.horizon


def _hours_into_month(hour: int) -> int:
    moment = datetime.fromtimestamp(hour * 3600, tz=UTC)
    return (moment.day - 1) * 24 + moment.hour
