"""What a tenant, a project, a model or a fleet will have spent by the end of the month, and how sure that is.

Spend is summed over blocks of 24 hours counted back from the end of the history, so that every block holds each hour of
the day once and only the days of the week remain as a season. The square root of a block, freed of that season, follows

    x_b = level_b + wander_b + noise_b,   level_b = level_{b-1} + slope_{b-1},   wander_b = phi * wander_{b-1} + shock_b

How noisy a series is, how far it wanders and how soon it forgets are not known from a few days. A Kalman filter
therefore runs for every combination on a grid, each weighted by how well it foretold every block from those before it;
all start from what is common among series, so that a short history gives a wide interval. Two odd blocks in a row on
the same side are a level shift, and shifts may come again, the more often the more were seen. Sums of paths drawn from
that mixture, with the odd days that the series has shown, give the expectation (their mean) and the interval. Square
roots keep zeros, tame bursts, and the mean of a squared path is that of the data.

Source: structural time series and their filter, A. C. Harvey, "Forecasting, Structural Time Series Models and the
Kalman Filter" (Cambridge, 1989), chapters 2-4; weights by one-step predictive likelihood as in P. J. Harrison and
C. F. Stevens, "Bayesian Forecasting" (JRSS B 38, 1976). docs/forecast.md has the back-test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from farthing.books.seasons import (
    CLOSED,
    DAY,
    WEEK,
    Array,
    Blocks,
    block_sums,
    blocks_of,
    day_profiles,
    filled_hours,
    usual_hours,
    week_factors,
)

__all__ = ["INTERVAL", "Forecast", "MonthForecast", "forecast", "forecast_month", "hours_to_month_end"]

INTERVAL = 0.8
"""Probability that the interval of a forecast is meant to hold."""

_PATHS = 2_000
_SEED = 20_261


@dataclass(frozen=True, slots=True)
class Forecast:
    """Spend of the next ``horizon`` hours in nano-dollars, with an 80 % interval, and what it was told from."""

    expected_nano: int
    low_nano: int
    high_nano: int
    method: str
    """What the history was enough for, in words that can be shown beside the number."""
    history_hours: int
    """Hours of the history whose spend is known."""
    horizon: int


@dataclass(frozen=True, slots=True)
class MonthForecast:
    """Spend of the whole UTC month that the history ends in: what is known of it, and what is still to come."""

    expected_nano: int
    low_nano: int
    high_nano: int
    spent_nano: int
    """The month's known hours so far."""
    filled_nano: int
    """Estimate for the month's hours so far whose spend is unknown; part of the total, never of ``spent_nano``."""
    unknown_hours: int
    rest: Forecast


def hours_to_month_end(hour: int) -> int:
    """Hours from an hour (since the epoch, UTC) to the end of its month; at the first hour of a month, all of it."""
    moment = datetime.fromtimestamp(hour * 3600, tz=UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) // 3600 - hour


def forecast_month(history: Sequence[int | None], *, start_hour: int) -> MonthForecast:
    """The forecast of the month that the next hour belongs to; the history's part of that month counts as spent.

    A history that begins within the month is a series that began then. One that ends with a month foretells the next.
    Raises ValueError as ``forecast`` does.
    """
    now = start_hour + len(history)
    rest = forecast(history, start_hour=start_hour, horizon=hours_to_month_end(now))
    begun = datetime.fromtimestamp(now * 3600, tz=UTC)
    into = min(len(history), (begun.day - 1) * DAY + begun.hour)
    month = history[len(history) - into :]
    spent = sum(value for value in month if value is not None)
    unknown = sum(value is None for value in month)
    filled = 0
    if unknown:
        hours = filled_hours(blocks_of(history, start_hour)).reshape(-1)[-into:]
        filled = round(float(sum(hours[i] for i, value in enumerate(month) if value is None)))
    base = spent + filled
    return MonthForecast(
        base + rest.expected_nano, base + rest.low_nano, base + rest.high_nano, spent, filled, unknown, rest
    )


def forecast(history: Sequence[int | None], *, start_hour: int, horizon: int) -> Forecast:
    """Spend of the ``horizon`` hours after ``history``, which holds nano-dollars per UTC hour from ``start_hour`` on.

    ``start_hour`` counts hours since the epoch; None is an hour whose spend is unknown, which is not 0. About 90 days
    of history are enough. Equal input gives an equal result: the paths are drawn from a fixed seed.

    Raises ValueError when the horizon is negative, an amount is, or no hour of the history is known.
    """
    known = [value for value in history if value is not None]
    if horizon < 0:
        raise ValueError(f"horizon of {horizon} hours is negative; ask for 0 or more")
    if not known:
        raise ValueError(f"none of the {len(history)} hours of history is known; a forecast needs at least one")
    if min(known) < 0:
        raise ValueError(f"spend of {min(known)} nano-dollars in an hour is negative; give spend before credits")
    if horizon == 0 or not any(known):
        method = "nothing was spent so far" if not any(known) else "no hours left"
        return Forecast(0, 0, 0, method, len(known), horizon)
    model = _Model(blocks_of(history, start_hour))
    totals = model.totals(horizon)
    edge = (1 - INTERVAL) / 2
    low, high = np.quantile(totals, [edge, 1 - edge])
    return Forecast(
        round(float(totals.mean())), round(float(low)), round(float(high)), model.method(), len(known), horizon
    )


class _Model:
    """The grid of filters after one pass over the history. Spreads are relative to the root of the mean block."""

    noises = np.geomspace(0.01, 0.8, 9)
    ratios = ((0.0, 0.35), (0.7, 0.25), (2.0, 0.25), (5.0, 0.15))
    """How far a series wanders, in units of its noise, and how common that is."""
    memories = (0.5, 0.8, 0.93, 0.98)
    """Part of the wandering that is left a day later."""
    noise_before = (0.09, 1.1)
    """Noise to expect of a series not seen yet: median and spread of its logarithm."""
    slopes = (0.0005, 0.006)
    """Spread of the slope a day: of series that stay, and of those that grow or shrink."""
    slope_change = 0.05
    """Spread of its change a day, relative to that."""
    shift, shift_surprise, shift_every = 0.3, 3.0, 50
    """Spread of a level shift, standard deviations that give one away, and days between two before any is seen."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        usual = usual_hours(blocks)
        self.profiles = day_profiles(blocks, usual)
        sums = block_sums(blocks, self.profiles)
        self.week = week_factors(sums, blocks.weekend, usual.sum(axis=1))
        factors = self.week.apart
        open_days = (factors > CLOSED) & ~np.isnan(sums)
        if not sums[open_days].sum():
            factors, open_days = np.ones(len(sums)), ~np.isnan(sums)
        self.scale = float(np.mean(sums[open_days] / factors[open_days]))
        roots = np.sqrt(np.where(open_days, sums / np.maximum(factors, CLOSED) / self.scale, np.nan))
        self.days = int((~np.isnan(sums)).sum())
        self._start()
        for root in roots:
            self._step()
            if not np.isnan(root):
                self._update(float(root))
        likely = np.exp(self.evidence - self.evidence.max())
        self.weights: Array = likely / likely.sum()

    def _start(self) -> None:
        """What is common among series, before any block was seen."""
        points = [
            (noise, ratio, memory, slope, common / (len(self.memories) if ratio else 1))
            for slope in self.slopes
            for noise in self.noises
            for ratio, common in self.ratios
            for memory in (self.memories if ratio else self.memories[:1])
        ]
        noise, ratio, self.memory, self.slope, common = (np.array(column) for column in zip(*points, strict=True))
        self.noise, wander = noise**2, (noise * ratio) ** 2
        self.shock = wander * (1 - self.memory**2)
        median, spread = self.noise_before
        self.evidence: Array = np.log(common) - 0.5 * (np.log(noise / median) / spread) ** 2
        self.mean = np.tile([1.0, 0.0, 0.0], (len(points), 1))
        self.cov = np.zeros((len(points), 3, 3))
        self.cov[:, 0, 0], self.cov[:, 1, 1], self.cov[:, 2, 2] = 1.0, self.slope**2, wander
        self.move = np.zeros_like(self.cov)
        self.move[:, 0, 0] = self.move[:, 0, 1] = self.move[:, 1, 1] = 1.0
        self.move[:, 2, 2] = self.memory
        self.surprise = np.zeros(len(points))
        self.shifts = np.zeros(len(points))
        self.residuals: list[Array] = []

    def _step(self) -> None:
        self.mean = np.einsum("gij,gj->gi", self.move, self.mean)
        self.cov = self.move @ self.cov @ self.move.transpose(0, 2, 1)
        self.cov[:, 1, 1] += (self.slope_change * self.slope) ** 2
        self.cov[:, 2, 2] += self.shock

    def _update(self, root: float) -> None:
        error = root - self.mean[:, 0] - self.mean[:, 2]
        gain, variance = self._gain()
        z = error / np.sqrt(variance)
        shifted = (np.minimum(np.abs(z), np.abs(self.surprise)) > self.shift_surprise) & (z * self.surprise > 0)
        self.surprise = np.where(shifted, 0.0, z)
        self.shifts += shifted
        self.cov[:, 0, 0] += np.where(shifted, self.shift**2, 0.0)
        gain, variance = self._gain()
        z = error / np.sqrt(variance)
        if self.residuals:
            # what turned out to be a new level was no odd day
            self.residuals[-1] = np.where(shifted, 0.0, self.residuals[-1])
        self.residuals.append(z * np.sqrt(self.noise))
        z = np.abs(z)
        # Student's t with 5 degrees of freedom, so that one odd day does not decide between the grid's points
        self.evidence = self.evidence - 0.5 * np.log(variance) - 3.0 * np.log1p(z**2 / 5)
        held = variance * np.maximum(1.0, z / 3.0) ** 2
        self.mean = self.mean + gain * (error / held)[:, None]
        self.cov = self.cov - gain[:, :, None] * gain[:, None, :] / held[:, None, None]

    def _gain(self) -> tuple[Array, Array]:
        gain = self.cov[:, :, 0] + self.cov[:, :, 2]
        return gain, gain[:, 0] + gain[:, 2] + self.noise

    def method(self) -> str:
        """What the days that are known were enough for."""
        if self.days < WEEK:
            told = "just begun: daily season and level, no week seen yet, hence a wide interval"
        elif self.days < 2 * WEEK:
            told = "daily season, working days against weekends, level and trend"
        else:
            told = "daily and weekly season, level and trend"
        return f"{told}, after a level shift" if float(self.weights @ self.shifts) > 0.5 else told

    def totals(self, horizon: int) -> Array:
        """The sum over the horizon in each drawn path, nano-dollars."""
        rng = np.random.default_rng(_SEED)
        chosen = rng.choice(len(self.weights), _PATHS, p=self.weights)
        spread = np.linalg.cholesky(self.cov[chosen] + 1e-12 * np.eye(3))
        start = self.mean[chosen] + np.einsum("pij,pj->pi", spread, rng.standard_normal((_PATHS, 3)))
        level, slope, wander = start.T
        memory, shock, noise = self.memory[chosen], np.sqrt(self.shock[chosen]), np.sqrt(self.noise[chosen])
        often = (1 + self.shifts[chosen]) / (self.shift_every + self.days)
        # what this series did on odd days it does again; a short history has hardly shown its odd days
        residuals = np.array(self.residuals)
        remembered = len(residuals) / (len(residuals) + 10)
        change = self.slope_change * self.slope[chosen]
        week = self._week_draws(rng)
        totals = np.zeros(_PATHS)
        for i, left in enumerate(range(horizon, 0, -DAY)):
            share = 1.0 if left >= DAY else float(self.profiles[i % WEEK, :left].sum())
            draws = rng.standard_normal((4, _PATHS))
            slope = slope + change * draws[0]
            # a factor on the root whose square has the mean 1
            jump = np.exp(self.shift * draws[1] - self.shift**2)
            level = (level + slope) * np.where(rng.random(_PATHS) < often, jump, 1.0)
            wander = memory * wander + shock * draws[2]
            again = rng.integers(0, len(residuals), _PATHS)
            odd = np.where(rng.random(_PATHS) < remembered, residuals[again, chosen], noise * draws[3])
            # the noise of a few hours is wider than that of a day
            hours = np.sqrt(DAY / min(left, DAY)) * odd
            totals += share * week[i % WEEK] * (level + wander + hours) ** 2
        return totals * self.scale

    def _week_draws(self, rng: np.random.Generator) -> Array:
        """Factors of the next seven days in each path; a kind of day not seen yet is drawn from what is common."""
        weekend = self.blocks.is_weekend(np.arange(1, WEEK + 1))
        draws = self.week.factors[:, None] + self.week.errors[:, None] * rng.standard_normal((WEEK, _PATHS))
        draws = np.maximum(0.0, draws)
        seen = set(self.blocks.weekend[~np.isnan(self.blocks.hours).all(axis=1)])
        if len(seen) == 1:
            # one series in five rests at weekends, one in five does not know them, the others slow down
            kind = rng.random(_PATHS)
            quiet = np.where(kind < 0.2, 0.0, np.where(kind < 0.8, rng.uniform(0.2, 1.0, _PATHS), 1.0))
            only_weekends = True in seen
            draws[weekend != only_weekends] *= 1 / np.maximum(quiet, 0.3) if only_weekends else quiet
        return np.asarray(draws)
